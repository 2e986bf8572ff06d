"""What a function says of itself to capture."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from octavo import _capture

F = TypeVar("F", bound=Callable[..., Any])


def graph_break() -> None:
    """Ends the graph here; does nothing outside capture."""


def is_compiling() -> bool:
    """True while capture reads the function, False when Python runs it."""
    return False


def disable(function: F) -> F:
    """The function runs as it is, and so does everything it calls."""

    @functools.wraps(function)
    def uncaptured(*args: Any, **kwargs: Any) -> Any:
        return _capture.uncaptured(function, *args, **kwargs)

    uncaptured._octavo_disabled = True  # type: ignore[attr-defined]
    return uncaptured  # type: ignore[return-value]


def allow_in_graph(function: F) -> F:
    """Calls of the function become one node: it is not looked into.

    It must be a Python function that depends on its arguments alone and maps tensors to tensors;
    capture runs it on meta tensors to learn what it returns.

    Raises:
        TypeError: ``function`` is not a Python function.
    """
    if not hasattr(function, "__code__"):
        raise TypeError(f"a Python function is allowed in graphs, not {type(function).__name__}")
    function._octavo_allowed_in_graph = True  # type: ignore[attr-defined]
    return function


def assume_constant_result(function: F) -> F:
    """The function gives the same result whenever it is called: capture calls it once.

    Raises:
        TypeError: ``function`` is not a Python function.
    """
    if not hasattr(function, "__code__"):
        raise TypeError(f"a Python function has a constant result, not {type(function).__name__}")
    function._octavo_constant_result = True  # type: ignore[attr-defined]
    return function
