"""What can be seen of Python objects, as plain data: values, aliasing, tensors bit for bit.

Two runs that a program cannot tell apart give equal snapshots.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import itertools
import math
import re
import types
from typing import Any

import numpy as np
import torch

_PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    range,
    slice,
    torch.dtype,
    torch.device,
)


class Snapshot:
    """Objects get a number when they are first met; later meetings give the number alone.

    Without `exact`, whether an empty tensor has memory is left out.
    """

    def __init__(self, exact: bool = True) -> None:
        self._exact = exact
        self._numbers: dict[int, int] = {}
        self._storages: dict[int, int] = {}
        self._keep: list[Any] = []  # so that no id is used twice

    def of(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, enum.Enum):
            return (type(value).__name__, value.name)
        if type(value) in _PLAIN:
            return (type(value).__name__, repr(value))
        if isinstance(value, np.generic | np.dtype):
            return (
                type(value).__name__,
                value.tobytes() if isinstance(value, np.generic) else str(value),
            )
        if type(value) in (torch.Size, tuple):
            return (type(value).__name__, [self.of(v, depth + 1) for v in value])
        if depth > 12:
            return "deep"
        if id(value) in self._numbers:
            return f"@{self._numbers[id(value)]}"
        self._numbers[id(value)] = len(self._numbers)
        self._keep.append(value)
        name = f"{type(value).__name__} @{self._numbers[id(value)]}"
        return (name, self._parts(value, depth + 1))

    def _parts(self, value: Any, depth: int) -> Any:
        if isinstance(value, torch.Tensor):
            return self._tensor(value, depth)
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, torch.nn.Module):
            named = itertools.chain(value.named_parameters(), value.named_buffers())
            return [(name, self.of(tensor, depth)) for name, tensor in named] + [value.training]
        if isinstance(value, BaseException):
            return [self.of(value.args, depth), self._attributes(value, depth)]
        if isinstance(value, (set, frozenset)):
            return sorted((self.of(v, depth) for v in value), key=repr)
        if isinstance(value, dict):
            items = [(self.of(k, depth), self.of(v, depth)) for k, v in value.items()]
            factory = getattr(value, "default_factory", None)
            return [items, repr(factory), self._attributes(value, depth)]
        if isinstance(value, (list, tuple, collections.deque)):
            return [[self.of(v, depth) for v in value], self._attributes(value, depth)]
        if isinstance(value, types.FunctionType):
            cells = [self._cell(c, depth) for c in value.__closure__ or ()]
            return [value.__qualname__, self.of(value.__defaults__, depth), cells]
        if isinstance(value, types.MethodType):
            return [value.__func__.__qualname__, self.of(value.__self__, depth)]
        if isinstance(value, type):
            return value.__qualname__
        if dataclasses.is_dataclass(value) or hasattr(value, "__dict__"):
            return self._attributes(value, depth)
        slots = getattr(type(value), "__slots__", ())
        return [(slot, self.of(getattr(value, slot, None), depth)) for slot in slots]

    def _cell(self, cell: types.CellType, depth: int) -> Any:
        try:
            return self.of(cell.cell_contents, depth)
        except ValueError:
            return "empty"

    def _attributes(self, value: Any, depth: int) -> Any:
        found = getattr(value, "__dict__", {})
        return [(k, self.of(v, depth)) for k, v in found.items() if not k.startswith("__")]

    def _tensor(self, tensor: torch.Tensor, depth: int) -> Any:
        storage = tensor.untyped_storage().data_ptr()
        if tensor.numel() == 0 and not self._exact:
            storage = 0  # whether there is memory for no elements is the allocator's affair
        if storage:  # an empty tensor's is 0
            storage = self._storages.setdefault(storage, len(self._storages) + 1)
        plain = tensor.detach().resolve_conj()
        bits = plain.contiguous().flatten().view(torch.uint8) if plain.numel() else plain
        return {
            "dtype": str(tensor.dtype),
            "shape": tuple(tensor.shape),
            "stride": tensor.stride() if tensor.numel() > 0 else (),
            "storage": (storage, tensor.storage_offset()),
            "bits": bits.numpy().tobytes(),
            "requires_grad": tensor.requires_grad,
            "inference": tensor.is_inference(),
            **self._history(tensor, depth),
        }

    def _history(self, tensor: torch.Tensor, depth: int) -> dict[str, Any]:
        try:
            made = tensor.grad_fn is not None
        except RuntimeError as error:  # a view made without gradients, and written since
            return {"history": str(error).partition(".")[0]}
        return {"history": made, "grad": self.of(tensor.grad, depth) if tensor.is_leaf else None}

    def _array(self, array: np.ndarray) -> Any:
        owner: Any = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        start = owner.ctypes.data
        if isinstance(owner.base, torch.Tensor):
            start = owner.base.untyped_storage().data_ptr()
        steps = [s for n, s in zip(array.shape, array.strides, strict=True) if n > 1]
        return {
            "dtype": str(array.dtype),
            "shape": array.shape,
            "strides": steps if array.size else (),
            "memory": (
                self._storages.setdefault(start, len(self._storages) + 1),
                array.ctypes.data - start,
            )
            if array.size
            else 0,
            "writable": array.flags.writeable,
            "bits": array.tobytes(),
        }


def difference(a: Any, b: Any, path: str = "", exact: bool = True) -> str | None:
    """The first place at which two snapshots differ, as text.

    Without `exact`, floating tensors need only be close.
    """
    if type(a) is type(b) and isinstance(a, (list, tuple)) and len(a) == len(b):
        for n, (x, y) in enumerate(zip(a, b, strict=True)):
            found = difference(x, y, f"{path}[{n}]", exact)
            if found:
                return found
        return None
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        if not exact and a.get("dtype") in _CLOSE and _close(a, b):
            a, b = {**a, "bits": b""}, {**b, "bits": b""}
        for key in a:
            found = difference(a[key], b[key], f"{path}.{key}", exact)
            if found:
                return found
        return None
    if a == b or (not exact and isinstance(a, str) and isinstance(b, str) and _says_same(a, b)):
        return None
    return f"at {path or 'the top'}: eager {_shown(a)}, captured {_shown(b)}"


# Sums in another order, functions in another approximation: a few units in the last place of the
# largest intermediate value, of which the results of these programs are of the order. What comes
# from float32 is no nearer in float64; other float64 is torch's own.
_CLOSE = {
    "torch.float32": (torch.float32, 1e-5),
    "torch.float64": (torch.float64, 1e-5),
    "torch.float16": (torch.float16, 2e-3),
    "torch.bfloat16": (torch.bfloat16, 1.6e-2),
}


def _close(a: dict[str, Any], b: dict[str, Any]) -> bool:
    if a["dtype"] != b["dtype"] or len(a["bits"]) != len(b["bits"]) or not a["bits"]:
        return False
    dtype, bound = _CLOSE[a["dtype"]]
    x, y = (torch.frombuffer(bytearray(v["bits"]), dtype=dtype).double() for v in (a, b))
    return torch.allclose(x, y, rtol=bound, atol=bound, equal_nan=True)


_REAL = re.compile(r"(-?\d+\.\d*(?:e[-+]\d+)?)")


def _says_same(a: str, b: str) -> bool:
    """Texts that differ in what real numbers they print, and in those by rounding."""
    x, y = _REAL.split(a), _REAL.split(b)  # every second part is a number
    bound = _CLOSE["torch.float32"][1]
    return x[::2] == y[::2] and all(
        math.isclose(float(p), float(q), rel_tol=bound, abs_tol=bound)
        for p, q in zip(x[1::2], y[1::2], strict=True)
    )


def _shown(value: Any) -> str:
    """Bits of tensors as floats too, for the eye: most are."""
    if isinstance(value, bytes) and value and len(value) % 4 == 0:
        return f"{value.hex()} (as f32 {torch.frombuffer(bytearray(value), dtype=torch.float32)})"
    return repr(value)
