"""Which release's behaviour is on."""

from __future__ import annotations

_RELEASES = {"2.1": "2.1.2", "2.2": "2.2.1"}

__version__ = "2.2.1"


def choose(version: str) -> None:
    """``"2.1"`` or ``"2.2"``.

    Raises:
        ValueError: another one.
    """
    global __version__
    if version not in _RELEASES:
        raise ValueError(f"version must be one of {', '.join(_RELEASES)}, not {version!r}")
    __version__ = _RELEASES[version]


def allows_zero_bits() -> bool:
    """2.1 logs an error, 2.2 refuses."""
    return __version__.startswith("2.1")


def conv_transpose_axis() -> int:
    """Of weights: 2.1 takes input channels, 2.2 output channels."""
    return 0 if __version__.startswith("2.1") else 1
