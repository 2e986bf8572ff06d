"""What capture runs on: its frame hook knows one interpreter, its tracer one torch."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import sys
from importlib.metadata import version as version_of

PYTHON = (3, 11)
TORCH = (2, 13)
_ELSE = "everything else in octavo works without capture"


def _has_torch() -> bool:
    try:
        return importlib.util.find_spec("torch") is not None
    except ImportError:  # something blocks it
        return False


def check_environment() -> None:
    """Before the extension is loaded, which links to torch's libraries.

    Raises:
        ImportError: another Python or another torch, with the supported one; no torch, or an octavo
            that was built without it or against another.
    """
    python, torch = (".".join(map(str, wanted)) for wanted in (PYTHON, TORCH))
    implementation = platform.python_implementation()
    running = ".".join(map(str, sys.version_info[:3]))
    if implementation != "CPython" or sys.version_info[:2] != PYTHON:
        raise ImportError(
            f"octavo.capture supports CPython {python}, and this is {implementation} {running}; "
            f"use CPython {python} ({_ELSE})"
        )
    if _has_torch():
        loaded = sys.modules.get("torch")
        found = str(loaded.__version__) if loaded else version_of("torch")
        if found.split(".")[:2] != torch.split("."):
            raise ImportError(
                f"octavo.capture supports torch {torch}, and torch {found} is installed; "
                f"install torch {torch}.* ({_ELSE})"
            )
    importlib.import_module("octavo._torch")  # says what to install where torch is missing
