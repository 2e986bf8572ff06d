"""Functions of torch in words that capture reads: it traces these in their place.

What they return is used as torch's own is, also outside capture, where they do what torch's do.
"""

from __future__ import annotations

import copy
import copyreg
import enum
import functools
import operator
import types
from collections.abc import Callable
from typing import Any

import torch
from torch._functorch import vmap as torch_vmap
from torch._functorch.predispatch import (
    _add_batch_dim,
    _remove_batch_dim,
    _vmap_decrement_nesting,
    _vmap_increment_nesting,
)

from octavo.capture.marks import assume_constant_result, disable

# These end the graph.
_copy_by_python = disable(copy.deepcopy)
_map_by_torch = disable(torch.vmap)
_unwrap_by_torch = disable(torch_vmap._unwrap_batched)


def vmap(
    func: Callable[..., Any],
    in_dims: Any = 0,
    out_dims: Any = 0,
    randomness: str = "error",
    *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """torch.vmap over tensors among the arguments, to a tensor or a tuple of them."""

    def mapped(*args: Any, **kwargs: Any) -> Any:
        dims = in_dims if isinstance(in_dims, tuple) else (in_dims,) * len(args)
        plain = chunk_size is None and isinstance(out_dims, int) and len(dims) == len(args)
        sizes = []
        if plain:
            for arg, dim in zip(args, dims, strict=True):
                if dim is None:
                    continue
                plain = plain and isinstance(arg, torch.Tensor) and isinstance(dim, int)
                plain = plain and -arg.dim() <= dim < arg.dim()
                if plain:
                    sizes.append(arg.shape[dim])
        if not plain or not sizes or any(size != sizes[0] for size in sizes):
            whole = _map_by_torch(func, in_dims, out_dims, randomness, chunk_size=chunk_size)
            return whole(*args, **kwargs)
        level = _vmap_increment_nesting(sizes[0], randomness)
        try:
            batched = [
                arg if dim is None else _add_batch_dim(arg, dim % arg.dim(), level)
                for arg, dim in zip(args, dims, strict=True)
            ]
            result = func(*batched, **kwargs)
            if isinstance(result, torch.Tensor):
                return _remove_batch_dim(result, level, sizes[0], out_dims)
            if type(result) is tuple and all(isinstance(one, torch.Tensor) for one in result):
                return tuple(_remove_batch_dim(one, level, sizes[0], out_dims) for one in result)
            return _unwrap_by_torch(result, out_dims, level, sizes[0], func)
        finally:
            _vmap_decrement_nesting()

    return functools.update_wrapper(mapped, func)


class TransformGetItemToIndex:
    """torch's mode of the same name: `tensor[i, j]` with tensors of one element looks up there."""

    def __enter__(self) -> TransformGetItemToIndex:
        index_by_tensors(True)
        return self

    def __exit__(self, *error: object) -> None:
        index_by_tensors(False)


def index_by_tensors(begin: bool) -> None:
    """Tells the tracer, which never leaves it to Python."""
    raise AssertionError("only capture calls this")


def item_by_tensors(tensor: torch.Tensor, index: Any) -> torch.Tensor:
    """`tensor[index]` under the mode."""
    parts = index if isinstance(index, tuple) else (index,)
    if all(isinstance(part, (torch.Tensor, int)) for part in parts):
        indices = [
            torch.tensor(part, dtype=torch.int64, device=tensor.device)
            if isinstance(part, int)
            else part
            for part in parts
        ]
        return torch.ops.aten.index(tensor, indices)  # type: ignore[no-any-return]
    return operator.getitem(tensor, index)  # type: ignore[no-any-return]


# copy.deepcopy gives these as they are.
_SHARED = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    range,
    type,
    type(...),
    type(NotImplemented),
    types.FunctionType,
    types.BuiltinFunctionType,
    torch.dtype,
    torch.device,
    enum.Enum,
)
_PYTHON_CLASS = 1 << 9  # Py_TPFLAGS_HEAPTYPE


@assume_constant_result
def _copies_its_attributes(cls: type) -> bool:
    """An object of the class is its `__dict__`, and the class leaves copying to Python."""
    plain: Any = object
    return (
        all(base is object or base.__flags__ & _PYTHON_CLASS for base in cls.__mro__)
        and cls.__reduce_ex__ is plain.__reduce_ex__
        and cls.__reduce__ is plain.__reduce__
        and getattr(cls, "__getstate__", None) is getattr(object, "__getstate__", None)
        and not hasattr(cls, "__deepcopy__")
        and not hasattr(cls, "__setstate__")
        and not hasattr(cls, "__getnewargs_ex__")
        and not hasattr(cls, "__getnewargs__")
        and cls not in copyreg.dispatch_table
        and cls.__dictoffset__ != 0
        and not copyreg._slotnames(cls)  # type: ignore[attr-defined]
    )


def deepcopy(value: Any, memo: dict[int, Any] | None = None) -> Any:
    """copy.deepcopy of constants, containers and objects of Python classes."""
    if memo is not None:
        return _copy_by_python(value, memo)
    return _copied(value, [])


def _copied(value: Any, known: list[tuple[Any, Any]]) -> Any:
    cls = type(value)
    if isinstance(value, _SHARED):
        return value
    for original, copied in known:
        if original is value:
            return copied
    made: Any
    if cls is list:
        made = []
        known.append((value, made))
        for item in value:
            made.append(_copied(item, known))
        return made
    if cls is dict:
        made = {}
        known.append((value, made))
        for key, item in value.items():
            made[_copied(key, known)] = _copied(item, known)
        return made
    if cls is tuple:
        items = [_copied(item, known) for item in value]
        if all(item is original for item, original in zip(items, value, strict=True)):
            return value
        made = tuple(items)
        known.append((value, made))
        return made
    if cls is set:
        made = {_copied(item, known) for item in value}
        known.append((value, made))
        return made
    if not _copies_its_attributes(cls):
        return _copy_by_python(value)
    made = object.__new__(cls)
    known.append((value, made))
    state = made.__dict__
    for name, item in value.__dict__.items():
        state[name] = _copied(item, known)
    return made
