"""NumPy in a graph: its functions, methods and operators as what a node calls, on tensors.

An array is a tensor in the graph. What is done to it is done by ``torch._numpy``, torch's arrays of
NumPy's interface, so that a graph needs no backend that knows NumPy.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import _numpy

tnp: Any = _numpy


def arrays(value: Any) -> Any:
    """Torch's arrays for tensors, also within tuples and lists."""
    if isinstance(value, torch.Tensor):
        return tnp.ndarray(value)
    if type(value) in (tuple, list):
        return type(value)(arrays(item) for item in value)
    return value


def tensors(value: Any) -> Any:
    """The reverse."""
    if isinstance(value, tnp.ndarray):
        return value.tensor
    if isinstance(value, tuple | list):
        made = [tensors(item) for item in value]
        return made if isinstance(value, list) else tuple(made)
    return value


class ArrayCall:
    """What a node calls. One object for each: ``array_call`` makes them.

    Args:
        kind: ``function`` of module numpy, ``method`` or ``attribute`` of an array, ``operator``.
        name: as NumPy or module operator has it.
    """

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        self.__name__ = "wrapped_" + name.replace(".", "_")
        self.numpy, self.torch = _functions(kind, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What NumPy would give, as tensors."""
        return tensors(self.torch(*arrays(args), **{k: arrays(v) for k, v in kwargs.items()}))

    def __repr__(self) -> str:
        return f"<numpy {self.kind} {self.name}>"

    def __reduce__(self) -> Any:
        return array_call, (self.kind, self.name)


def _functions(kind: str, name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """NumPy's function and torch's."""
    if kind == "function":
        get = operator.attrgetter(name)
        return get(np), get(tnp)
    if kind == "operator":
        both = getattr(operator, name)
        return both, both

    def method(array: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(array, name)(*args, **kwargs)

    both = operator.attrgetter(name) if kind == "attribute" else method
    return both, both


@functools.cache
def array_call(kind: str, name: str) -> ArrayCall:
    """The one object for it; ``AttributeError`` where torch has no counterpart."""
    return ArrayCall(kind, name)
