"""Registers torch.ops.octavo: quantization operators on liboctavo's kernels, with gradients.

The operators live in liboctavo_torch, which is built against one torch and is loaded only beside
that one. docs/torch_ops.md lists them.
"""

from __future__ import annotations

import json
from pathlib import Path

from octavo import _core

_BUILD = (
    "build it in an environment with torch: `pip install --no-build-isolation .`, or in a clone "
    "`make setup-peers build`"
)


def _check(built: str | None, installed: str) -> None:
    """ImportError unless the operators were built, and against the torch that is installed."""
    if built is None:
        raise ImportError(f"octavo was built without torch operators; {_BUILD}")
    if built != installed:
        raise ImportError(
            f"octavo's torch operators were built against torch {built}, and torch {installed} is "
            f"installed; install that torch, or build octavo again: {_BUILD}"
        )


def _built_against(folder: Path) -> str | None:
    record = folder / "_torch_build.json"
    if not record.exists():
        return None
    return str(json.loads(record.read_text())["torch"])


# The extension's folder, where the package's own files may be links.
_folder = Path(_core.__file__).parent


def _missing(built: str | None) -> str:
    install = f"install torch {built}" if built else f"install torch, then {_BUILD}"
    return f"octavo._torch needs torch, which is not installed; {install}"


try:
    import torch
except ImportError as error:
    raise ImportError(_missing(_built_against(_folder))) from error

_check(_built_against(_folder), str(torch.__version__))
torch.classes.load_library(str(_folder / "liboctavo_torch.so"))
