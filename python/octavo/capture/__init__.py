"""Capture: PyTorch programs become graphs as they run.

f = octavo.capture.compile(f, backend="eager")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from octavo import _capture
from octavo.capture.backends import Backend, list_backends, lookup, register_backend
from octavo.capture.errors import BackendError, GraphBreakError

__all__ = [
    "BackendError",
    "GraphBreakError",
    "compile",
    "disable",
    "graph_break",
    "is_compiling",
    "list_backends",
    "register_backend",
    "reset",
]


def compile(
    function: Callable[..., Any],
    *,
    backend: str | Backend = "eager",
    fullgraph: bool = False,
    options: dict[str, Any] | None = None,
    stats: list[dict[str, Any]] | None = None,
) -> Callable[..., Any]:
    """The function, captured when it is called."""
    target = function.forward if isinstance(function, torch.nn.Module) else function
    return _capture.wrap(
        target,
        lookup(backend),
        fullgraph=fullgraph,
        inline_modules=bool((options or {}).get("inline_modules")),
        stats=stats,
    )


def graph_break() -> None:
    """Ends the graph here; does nothing outside capture."""


def is_compiling() -> bool:
    """True while capture reads the function."""
    return False


def disable(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function runs as it is, and so does what it calls."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return _capture.uncaptured(function, *args, **kwargs)

    call._octavo_disabled = True  # type: ignore[attr-defined]
    return call


def reset() -> None:
    """Forgets everything captured."""
    _capture.reset()
