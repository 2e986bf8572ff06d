"""What a function says of itself to capture."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, TypeVar, overload

import torch

from octavo import _capture

F = TypeVar("F", bound=Callable[..., Any])


def graph_break() -> None:
    """Ends the graph here; does nothing outside capture.

    Raises:
        GraphBreakError: within a function that was compiled with ``fullgraph=True``.
    """


def is_compiling() -> bool:
    """True while capture reads the function, False when Python runs it."""
    return False


@overload
def disable(function: F) -> F: ...
@overload
def disable(function: None = None) -> Callable[[F], F]: ...
def disable(function: Any = None) -> Any:
    """The function or module runs as it is, and so does everything it calls.

    ``@disable`` and ``@disable()`` are the same. A module's ``forward`` is disabled on the module
    itself, which is given back.

    Raises:
        TypeError: ``function`` cannot be called.
    """
    if function is None:
        return disable
    if isinstance(function, torch.nn.Module):
        function.forward = disable(function.forward)
        return function
    if not callable(function):
        raise TypeError(f"a function or a module is disabled, not {type(function).__name__}")

    def uncaptured(*args: Any, **kwargs: Any) -> Any:
        return _capture.uncaptured(function, *args, **kwargs)

    if hasattr(function, "__name__"):  # not of objects that are called
        functools.update_wrapper(uncaptured, function)
    uncaptured._octavo_disabled = True  # type: ignore[attr-defined]
    return uncaptured


def _python_function(function: Any, what: str) -> None:
    if not isinstance(function, FunctionType):
        raise TypeError(f"a Python function {what}, not {type(function).__name__}")


def allow_in_graph(function: F) -> F:
    """Calls of the function become one node: it is not looked into.

    It must be a Python function that depends on its arguments alone and maps tensors to tensors;
    capture runs it on meta tensors to learn what it returns.

    Raises:
        TypeError: ``function`` is not a Python function.
    """
    _python_function(function, "is allowed in graphs")
    function._octavo_allowed_in_graph = True  # type: ignore[attr-defined]
    return function


def assume_constant_result(function: F) -> F:
    """The function gives the same result whenever it is called: capture calls it once.

    Raises:
        TypeError: ``function`` is not a Python function.
    """
    _python_function(function, "has a constant result")
    function._octavo_constant_result = True  # type: ignore[attr-defined]
    return function


def _mark(tensor: torch.Tensor, dim: int | Iterable[int] | None, name: str) -> None:
    rank = tensor.dim()
    dims = range(rank) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    for one in dims:
        if not -rank <= one < rank:
            raise IndexError(f"dimension {one} of a tensor that has {rank}; name one that it has")
    setattr(tensor, name, getattr(tensor, name, frozenset()) | {one % rank for one in dims})


def mark_dynamic(tensor: torch.Tensor, dim: int | Iterable[int]) -> None:
    """Graphs leave these sizes of the tensor open from the first call on.

    A program that depends on such a size is captured for the size all the same. Sizes of 0 and 1
    are never open.

    Raises:
        IndexError: the tensor has no such dimension.
    """
    _mark(tensor, dim, "_octavo_dynamic_dims")


def mark_static(tensor: torch.Tensor, dim: int | Iterable[int] | None = None) -> None:
    """Graphs are for these sizes of the tensor alone, however many calls differ; None: all sizes.

    Raises:
        IndexError: the tensor has no such dimension.
    """
    _mark(tensor, dim, "_octavo_static_dims")
