"""Which NumPy calls become nodes, and what they give.

NumPy itself is the rule. A call is run three times while it is traced: by NumPy on samples of the
arguments' shapes, types, strides and shared memory; by ``torch._numpy`` on the same samples; and
by ``torch._numpy`` on tensors without data, so that what depends on values is found out. Where
torch's answer is of another shape, type or value, or shares memory otherwise, the call is refused
and stays NumPy's own.
"""

from __future__ import annotations

import contextvars
import warnings
from typing import Any

import numpy as np
import torch

from octavo.capture.arrays import ArrayCall, array_call

DTYPES = {
    np.dtype(name): getattr(torch, name)
    for name in ("bool", "int8", "int16", "int32", "int64", "uint8", "float32", "float64")
}

# Equal bit for bit (tests/python/test_capture_arrays.py runs them on all types and odd values).
_EXACT_NAMES = """
zeros ones full empty zeros_like ones_like full_like empty_like eye identity arange array asarray
ascontiguousarray copy diag diagflat tri tril triu meshgrid indices tril_indices triu_indices
diag_indices bool_ int8 int16 int32 int64 uint8 float32 float64
add subtract multiply divide true_divide negative positive abs absolute fabs square reciprocal floor
ceil trunc rint maximum minimum clip where equal not_equal less less_equal greater greater_equal
logical_and logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_xor bitwise_not invert
isnan isinf isfinite isposinf isneginf signbit copysign nan_to_num around round
reshape ravel transpose swapaxes moveaxis rollaxis expand_dims squeeze atleast_1d atleast_2d
atleast_3d broadcast_to broadcast_arrays concatenate stack vstack hstack dstack column_stack
row_stack split array_split hsplit vsplit dsplit tile repeat roll flip fliplr flipud rot90 append
take take_along_axis diagonal pad diff max min amax amin all any argmax argmin count_nonzero ptp
ndim size shape iscomplexobj isrealobj isscalar issubdtype can_cast result_type promote_types
broadcast_shapes min_scalar_type finfo iinfo dtype
astype flatten fill view T real getitem neg pos and_ or_ xor sub mul truediv eq ne lt le gt ge iadd
isub imul itruediv iand ior ixor __abs__ __len__ __getitem__ __setitem__ __copy__
"""
# Floating-point results may differ from NumPy's in their last bits, as they do with stock Dynamo.
_ROUNDED_NAMES = """
sum prod mean std var cumsum cumprod average median percentile quantile cov corrcoef
dot matmul inner outer tensordot einsum vdot trace kron cross convolve correlate gradient
sort sqrt exp exp2 expm1 log log2 log10 log1p sin cos tan arcsin arccos arctan arctan2 sinh cosh
tanh arcsinh arccosh arctanh hypot cbrt power float_power sinc deg2rad rad2deg degrees radians
logaddexp logaddexp2 linspace logspace geomspace vander pow ipow imatmul
linalg.norm linalg.det linalg.inv linalg.solve linalg.cholesky linalg.matrix_power
"""
EXACT = frozenset(_EXACT_NAMES.split())
ROUNDED = frozenset(_ROUNDED_NAMES.split())
# Integers are divided by zero, shifted and raised to powers by rules of NumPy's own.
_NOT_OF_INTEGERS = frozenset({"reciprocal"})
_POWERS = frozenset({"power", "pow", "ipow", "float_power"})
_UNSET_VALUES = frozenset({"empty", "empty_like"})
_most_attempts = 3


class Refused(Exception):  # noqa: N818 (an answer, not a failure)
    """The call stays NumPy's; the message says why."""


class Array:
    """An array of the traced program: its tensor without data, and what NumPy knows besides."""

    __slots__ = ("dtype", "integers", "scalar", "tensor", "writable")

    def __init__(self, tensor: torch.Tensor, scalar: bool, writable: bool) -> None:
        self.tensor = tensor
        self.integers: Array | None = None  # what it was before it was made floating-point
        self.dtype = numpy_dtype(tensor.dtype)
        self.scalar = scalar
        self.writable = writable


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """NumPy's type of torch's; ``Refused`` where arrays of it are not captured."""
    for ours, theirs in DTYPES.items():
        if theirs == dtype:
            return ours
    raise Refused(f"arrays of {dtype}")


def dtype_name(given: Any) -> str:
    """The name of what stands for a type among arguments: ``np.float32``, ``int``, a dtype."""
    try:
        dtype = np.dtype(given)
    except TypeError as error:
        raise Refused(str(error)) from error
    if dtype not in DTYPES:
        raise Refused(f"arrays of {dtype}")
    return str(dtype.name)


def numpy_functions() -> list[tuple[Any, ArrayCall]]:
    """NumPy's functions that are captured."""
    found = []
    for name in sorted(EXACT | ROUNDED):
        try:
            call = array_call("function", name)
        except AttributeError:
            continue
        found.append((call.numpy, call))
    return found


def default_errors() -> tuple[Any, Any] | None:
    """The context variable of ``np.errstate``, and what it holds by default."""
    core = getattr(np, "_core", None)  # NumPy 2
    variable = getattr(getattr(core, "umath", None), "_extobj_contextvar", None)
    if variable is None:
        return None
    return variable, contextvars.Context().run(variable.get)


# --- samples -----------------------------------------------------------------------------------
def _values(count: int, dtype: np.dtype[Any], attempt: int) -> np.ndarray[Any, Any]:
    """Values that differ; integers become possible indices at later attempts."""
    steps = np.arange(count, dtype=np.int64)
    made: Any = (steps * 5 % 7, steps % 2, steps * 0)[attempt]
    if dtype.kind == "f":
        made = (steps * 7 % 13 - 3) / 4
    if dtype.kind == "b":
        made = steps * 5 % 3 == 0
    return np.asarray(made, dtype=dtype)


class _Samples:
    """Arrays with data for the traced ones, which share memory as those do."""

    def __init__(self, attempt: int, *, of_torch: bool) -> None:
        self.attempt = attempt
        self._of_torch = of_torch
        self.memory: dict[tuple[int, np.dtype[Any]], np.ndarray[Any, Any]] = {}
        self._made: dict[int, Any] = {}

    def of(self, value: Any) -> Any:
        if isinstance(value, Array):
            if id(value) not in self._made:
                self._made[id(value)] = self._array(value)
            return self._made[id(value)]
        if type(value) in (tuple, list):
            return type(value)(self.of(item) for item in value)
        if self._of_torch and isinstance(value, np.generic):
            return torch.asarray(np.asarray(value))
        return value

    def _array(self, given: Array) -> Any:
        if given.integers is not None:
            return self.of(given.integers).to(given.tensor.dtype)
        storage = given.tensor.untyped_storage()
        size = given.dtype.itemsize
        memory = self.memory.get((storage._cdata, given.dtype))
        if memory is None:
            memory = _values(storage.nbytes() // size, given.dtype, self.attempt)
            self.memory[storage._cdata, given.dtype] = memory
        made: Any = np.ndarray(
            tuple(given.tensor.shape),
            given.dtype,
            memory.data,  # type: ignore[arg-type]
            given.tensor.storage_offset() * size,
            tuple(step * size for step in given.tensor.stride()),
        )
        if self._of_torch:
            return torch.from_numpy(made)
        if given.scalar:
            return made[()]
        made.flags.writeable = given.writable
        return made


def _without_data(value: Any) -> Any:
    if isinstance(value, Array):
        return value.tensor
    if isinstance(value, torch.Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    if type(value) in (tuple, list):
        return type(value)(_without_data(item) for item in value)
    if isinstance(value, np.generic):
        return torch.empty((), dtype=DTYPES[value.dtype], device="meta")
    return value


def _floating(value: Any) -> Any:
    if isinstance(value, Array):
        made = Array(value.tensor.to(torch.float64), value.scalar, value.writable)
        made.integers = value
        return made
    if type(value) in (tuple, list):
        return type(value)(_floating(item) for item in value)
    return value


def _all_of(value: Any) -> list[Array]:
    if isinstance(value, Array):
        return [value]
    if type(value) in (tuple, list):
        return [one for item in value for one in _all_of(item)]
    return []


def _arrays_among(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Array]:
    return _all_of(args) + [one for value in kwargs.values() for one in _all_of(value)]


# --- the rule ----------------------------------------------------------------------------------
def judge(
    call: ArrayCall, args: tuple[Any, ...], kwargs: dict[str, Any], exact: bool
) -> tuple[Any, ...]:
    """What the call gives, as nested tuples.

    ``("array", tensor, scalar, writable, copy)``: ``tensor`` without data; ``copy`` 1 and 2 ask
    for a copy, contiguous or in the layout it has. ``("same", n)``: array ``n`` of the arguments,
    counted as they stand. ``("constant", object)``; ``("tuple", ...)``, ``("list", ...)``.
    ``("floating", outcome)``: of the arrays as float64.

    Args:
        call, args, kwargs: arrays are ``Array``; NumPy's numbers stand for themselves.
        exact: what is only ROUNDED is refused.

    Raises:
        Refused: the call stays NumPy's.
    """
    _refuse_arguments(call, kwargs)
    given = _arrays_among(args, kwargs)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        expected, samples = _by_numpy(call, args, kwargs)
        if not given and not _holds_array(expected):
            return ("constant", expected)
        _refuse_rounded(call, args, expected, exact)
        try:
            return _by_torch(call, args, kwargs, expected, samples)
        except Refused:
            if not _is_number(expected, "f") or any(one.dtype.kind == "f" for one in given):
                raise
        # Torch computes with its default type where NumPy takes float64.
        named = {name: _floating(value) for name, value in kwargs.items()}
        return ("floating", _by_torch(call, _floating(args), named, expected, samples))


def _holds_array(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_holds_array(item) for item in value)
    return isinstance(value, np.ndarray)


def _refuse_arguments(call: ArrayCall, kwargs: dict[str, Any]) -> None:
    if call.name not in EXACT and call.name not in ROUNDED:
        raise Refused(f"{call.name} is not known to give the same")
    for name, value in kwargs.items():
        odd = {"out": None, "where": True, "like": None, "subok": True, "casting": "same_kind"}
        if name in odd and value is not odd[name] and value != odd[name]:
            raise Refused(f"{call.name} with {name}=")
        if name == "order" and value not in ("C", "K", None):
            raise Refused(f"order={value!r}")


def _is_number(expected: Any, kinds: str) -> bool:
    return isinstance(expected, np.ndarray | np.generic) and expected.dtype.kind in kinds


def _refuse_rounded(call: ArrayCall, args: tuple[Any, ...], expected: Any, exact: bool) -> None:
    integers = _is_number(expected, "biu")
    if call.name in _NOT_OF_INTEGERS and integers:
        raise Refused(f"{call.name} of integers")
    if call.name in _POWERS:
        exponent = args[-1]
        if type(exponent) is int and exponent == 2:
            return
        if integers and not (type(exponent) is int and exponent >= 0):
            raise Refused(f"{call.name} of integers")
    if call.name == "arange" and not integers:
        _need(not exact, call)
    if call.name in ROUNDED and not integers:
        _need(not exact, call)


def _need(condition: bool, call: ArrayCall) -> None:
    if not condition:
        raise Refused(f"{call.name} differs from NumPy's in its last bits")


def _by_numpy(
    call: ArrayCall, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, _Samples]:
    """NumPy's result; an index that does not fit the samples' values is tried with others."""
    for attempt in range(_most_attempts):
        samples = _Samples(attempt, of_torch=False)
        named = {name: samples.of(value) for name, value in kwargs.items()}
        try:
            return call.numpy(*samples.of(args), **named), samples
        except (IndexError, ValueError) as error:
            if attempt == _most_attempts - 1:
                raise Refused(f"NumPy raises {error!r}") from error
        except Exception as error:
            raise Refused(f"NumPy raises {error!r}") from error
    raise AssertionError


def _by_torch(
    call: ArrayCall,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    expected: Any,
    samples: _Samples,
) -> tuple[Any, ...]:
    given = _arrays_among(args, kwargs)
    shown = _Samples(samples.attempt, of_torch=True)
    named = {name: shown.of(value) for name, value in kwargs.items()}
    try:
        sampled = call(*shown.of(args), **named)
        if given:
            with torch.device("meta"):
                named = {name: _without_data(value) for name, value in kwargs.items()}
                made = call(*_without_data(args), **named)
        else:  # nothing depends on values that are not there
            made = _without_data(sampled)
    except Exception as error:
        raise Refused(f"torch's {call.name}: {type(error).__name__}: {error}") from error
    for place, memory in samples.memory.items():
        if not _agree(call, memory, shown.memory[place]):
            raise Refused(f"{call.name} writes something else than NumPy's")
    compared = _Comparison(call, [one for one in given if one.integers is None], samples)
    outcome = compared.outcome(expected, sampled, made)
    compared.refuse_shared_results()
    return outcome


def _agree(call: ArrayCall, expected: Any, got: Any) -> bool:
    if call.name in _UNSET_VALUES:
        return True
    a, b = np.asarray(expected), np.asarray(got)
    if call.name in ROUNDED or call.name == "arange":
        tight = 1e-4 if a.dtype == np.float32 else 1e-9
        return bool(np.allclose(a, b, rtol=tight, atol=tight, equal_nan=True))
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


class _Comparison:
    """Of NumPy's results with torch's, on the same samples and without data."""

    def __init__(self, call: ArrayCall, given: list[Array], samples: _Samples) -> None:
        self._call = call
        self._given = given
        self._samples = samples
        self._storages = {one.tensor.untyped_storage()._cdata for one in given}
        self._results: list[tuple[Any, torch.Tensor]] = []

    def outcome(self, expected: Any, sampled: Any, made: Any) -> tuple[Any, ...]:
        for number, one in enumerate(self._given):
            if expected is self._samples.of(one) and not one.scalar:
                return ("same", number)
        if isinstance(expected, tuple | list):
            if not isinstance(made, tuple | list) or len(made) != len(expected):
                raise Refused(f"{self._call.name} gives other results than NumPy's")
            parts = [self.outcome(*parts) for parts in zip(expected, sampled, made, strict=True)]
            return ("list" if isinstance(expected, list) else "tuple", *parts)
        if isinstance(expected, np.ndarray | np.generic):
            return self._array(expected, sampled, made)
        if isinstance(made, torch.Tensor) or made != expected:
            raise Refused(f"{self._call.name} gives {made!r}, NumPy's {expected!r}")
        return ("constant", expected)

    def _array(self, expected: Any, sampled: Any, made: Any) -> tuple[Any, ...]:
        name = self._call.name
        if type(expected) is not np.ndarray and not isinstance(expected, np.generic):
            raise Refused(f"{name} gives a {type(expected).__name__}")
        if expected.dtype not in DTYPES:
            raise Refused(f"{name} gives {expected.dtype}")
        if not isinstance(made, torch.Tensor) or not isinstance(sampled, torch.Tensor):
            raise Refused(f"{name} gives a {type(made).__name__}")
        if not made.is_meta or made.dtype != DTYPES[expected.dtype]:
            raise Refused(f"{name} gives {made.dtype}, NumPy's {expected.dtype}")
        if made.shape != expected.shape or sampled.shape != expected.shape:
            raise Refused(f"{name} gives another shape than NumPy's")
        if not _agree(self._call, expected, sampled):
            raise Refused(f"{name} gives other values than NumPy's")
        scalar = isinstance(expected, np.generic)
        copy = self._copy(expected, made, scalar)
        if not scalar and copy == 0 and expected.size:
            self._results.append((expected, made))
        writable = not scalar and bool(expected.flags.writeable)
        return ("array", made, scalar, writable, copy)

    def _copy(self, expected: Any, made: torch.Tensor, scalar: bool) -> int:
        """Whether NumPy copies what torch shares, or lays it out in another way."""
        shared = made.untyped_storage()._cdata in self._storages
        if scalar or expected.size == 0:
            return 1 if shared else 0
        of_numpy = any(np.may_share_memory(expected, m) for m in self._samples.memory.values())
        same_layout = _same_strides(expected, made)
        if of_numpy:
            if not shared or not same_layout:
                raise Refused(f"{self._call.name} gives a copy where NumPy gives a view")
            return 0
        if not shared and same_layout:
            return 0
        if expected.flags.c_contiguous:
            return 1
        if _same_strides(expected, made.clone()):
            return 2
        raise Refused(f"{self._call.name} lays its result out in another way than NumPy")

    def refuse_shared_results(self) -> None:
        """Results that are views of one another in one library alone."""
        for n, (a, tensor) in enumerate(self._results):
            for b, other in self._results[:n]:
                shared = tensor.untyped_storage()._cdata == other.untyped_storage()._cdata
                if shared and not (
                    np.may_share_memory(a, b)
                    or any(np.may_share_memory(a, m) for m in self._samples.memory.values())
                ):
                    raise Refused(f"results of {self._call.name} share memory")


def _same_strides(expected: np.ndarray[Any, Any], made: torch.Tensor) -> bool:
    steps = zip(expected.shape, expected.strides, made.stride(), strict=True)
    return all(size == 1 or a == b * expected.itemsize for size, a, b in steps)
