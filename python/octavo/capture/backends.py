"""Backends: ``(gm: torch.fx.GraphModule, example_inputs: list[Tensor]) -> callable``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from octavo.capture.errors import BackendError

Backend = Callable[[torch.fx.GraphModule, list[torch.Tensor]], Callable[..., Any]]

_registered: dict[str, Backend] = {}


def register_backend(name: str) -> Callable[[Backend], Backend]:
    """Decorator: makes ``backend=name`` mean the function.

    Raises:
        TypeError: what is registered cannot be called.
    """

    def register(backend: Backend) -> Backend:
        if not callable(backend):
            raise TypeError(f"a backend is a function, not {type(backend).__name__}")
        _registered[name] = backend
        return backend

    return register


@register_backend("eager")
def eager(gm: torch.fx.GraphModule, example_inputs: list[torch.Tensor]) -> Callable[..., Any]:
    """Runs the captured graph as it is."""
    return gm.forward


@register_backend("torchscript")
def torchscript(gm: torch.fx.GraphModule, example_inputs: list[torch.Tensor]) -> Callable[..., Any]:
    """``torch.jit.script`` of the graph."""
    return torch.jit.script(gm)  # type: ignore[no-any-return]


def list_backends() -> list[str]:
    """The names that ``backend=`` takes: Octavo's own, then those of torch's registry."""
    own = sorted(_registered)
    return own + [name for name in torch._dynamo.list_backends() if name not in own]


def lookup(backend: str | Backend) -> Backend:
    """The function behind a name.

    Raises:
        BackendError: no backend of that name.
    """
    if callable(backend):
        return backend
    if backend in _registered:
        return _registered[backend]
    try:
        return torch._dynamo.lookup_backend(backend)  # type: ignore[no-any-return]
    except Exception as error:
        raise BackendError(
            f"unknown backend {backend!r}; octavo.list_backends() gives {list_backends()}"
        ) from error
