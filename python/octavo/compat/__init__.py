"""Other toolkits' interfaces on Octavo.

``octavo.compat.install()`` makes ``import pytorch_quantization`` give
:mod:`octavo.compat.pytorch_quantization`, so that a script written for NVIDIA's package runs
unchanged, on the CPU. Needs torch.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from types import ModuleType

__all__ = ["install", "uninstall"]

_NAME = "pytorch_quantization"
_displaced: dict[str, ModuleType] = {}


def _theirs() -> list[str]:
    return [n for n in sys.modules if n == _NAME or n.startswith(_NAME + ".")]


def install(version: str = "2.2") -> None:
    """Makes ``import pytorch_quantization``, and of its submodules, give Octavo's.

    Args:
        version: whose behaviour to take where the releases differ. ``"2.1"``: ConvTranspose
            weights have a scale per input channel (axis 0) and ``num_bits=0`` is allowed.
            ``"2.2"``: axis 1, and ``num_bits=0`` is refused. The export switches of both work in
            both.

    Raises:
        ValueError: an unknown version.
        ImportError: torch is missing, or octavo is built without it.
    """
    importlib.import_module("octavo._torch")  # says what is missing
    package = importlib.import_module("octavo.compat.pytorch_quantization")
    package._set_version(version)
    uninstall()
    _displaced.update({name: sys.modules.pop(name) for name in _theirs()})
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(info.name)
    for name, module in list(sys.modules.items()):
        if name == package.__name__ or name.startswith(package.__name__ + "."):
            sys.modules[_NAME + name.removeprefix(package.__name__)] = module


def uninstall() -> None:
    """Undoes :func:`install`: the next import looks for NVIDIA's package again."""
    for name in _theirs():
        if sys.modules[name].__name__.startswith("octavo.compat."):
            del sys.modules[name]
    sys.modules.update(_displaced)
    _displaced.clear()
