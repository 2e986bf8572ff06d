"""Descriptors and quantization functions.

The functions are Octavo's operators; the arithmetic is the one src/quantize/arithmetic.h calls
``nvidia``.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch

import octavo._torch  # noqa: F401  registers torch.ops.octavo
from octavo.compat.pytorch_quantization import _onnx, version
from octavo.compat.pytorch_quantization._logging import logger

__all__ = [
    "QUANT_DESC_8BIT_CONV1D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONV2D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONV3D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONVTRANSPOSE1D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONVTRANSPOSE2D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONVTRANSPOSE3D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW",
    "QUANT_DESC_8BIT_PER_TENSOR",
    "QUANT_DESC_UNSIGNED_8BIT_PER_TENSOR",
    "FakeAffineTensorQuantFunction",
    "FakeTensorQuantFunction",
    "LegacyFakeTensorQuantFunction",
    "QuantDescriptor",
    "ScaledE4M3Function",
    "ScaledQuantDescriptor",
    "TensorQuantFunction",
    "fake_affine_tensor_quant",
    "fake_tensor_quant",
    "legacy_fake_tensor_quant",
    "scaled_e4m3",
    "tensor_quant",
]


def _yaml() -> Any:
    try:
        return importlib.import_module("yaml")
    except ImportError as error:
        raise ImportError("YAML descriptors need PyYAML: pip install pyyaml") from error


class ScaledQuantDescriptor:
    """How a tensor is quantized.

    Args:
        num_bits: a positive integer, or (4, 3) for FP8 E4M3.
        name: for the user.
        fake_quant: whether quantized values go back to float. Default True.
        axis: an index or a tuple of them that have a scale each; None: one scale. Default None.
        amax: float, list or array: the absolute maximum. Default None: from calibration, or from
            each input.
        learn_amax: whether training moves it. Default False.
        scale_amax: a factor on amax. Default None.
        calib_method: ``"max"`` or ``"histogram"``. Default ``"max"``.
        unsigned: Default False.
        narrow_range: whether the lowest integer is left out. Default False.

    Raises:
        TypeError: an argument of the wrong type or name; ``learn_amax`` with ``axis``.
        ValueError: ``num_bits`` out of range.
    """

    def __init__(
        self, num_bits: int | tuple[int, int] = 8, name: str | None = None, **kwargs: Any
    ) -> None:
        if isinstance(num_bits, int):
            if num_bits < 0 or (num_bits == 0 and not version.allows_zero_bits()):
                raise ValueError(f"num_bits must be > 0, not {num_bits}.")
            if num_bits == 0:
                logger.error("num_bits is 0: every value becomes 0, which is for debugging only.")
        elif num_bits != (4, 3):
            raise TypeError(
                f"num_bits must be a postive integer or tuple (4,3), not {type(num_bits)}."
            )
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a string or None, not {type(name)}.")
        self._num_bits = num_bits
        self._name = name
        self._fake_quant: bool = kwargs.pop("fake_quant", True)
        self._axis: Any = kwargs.pop("axis", None)
        self._learn_amax: bool = kwargs.pop("learn_amax", False)
        if self._learn_amax and self._axis is not None:
            raise TypeError(
                f"axis is ignored and must be None when learn_amax is true, got {type(self._axis)}."
            )
        amax = kwargs.pop("amax", None)
        if amax is not None and not isinstance(amax, float | list | np.ndarray):
            raise TypeError(f"amax must be float, list or ndarray, not {type(amax)}")
        self._amax = None if amax is None else np.array(amax, dtype=np.float32)
        self._scale_amax: float | None = kwargs.pop("scale_amax", None)
        self._calib_method: str = kwargs.pop("calib_method", "max")
        self._unsigned: bool = kwargs.pop("unsigned", False)
        self._narrow_range: bool = kwargs.pop("narrow_range", False)
        if kwargs:
            raise TypeError(f"Unused keys: {kwargs.keys()}")

    num_bits = property(lambda self: self._num_bits)
    name = property(lambda self: self._name)
    fake_quant = property(lambda self: self._fake_quant)
    axis = property(lambda self: self._axis)
    amax = property(lambda self: self._amax)
    learn_amax = property(lambda self: self._learn_amax)
    scale_amax = property(lambda self: self._scale_amax)
    calib_method = property(lambda self: self._calib_method)
    unsigned = property(lambda self: self._unsigned)
    narrow_range = property(lambda self: self._narrow_range)

    def __str__(self) -> str:
        parts = [
            f"{'unsigned ' if self._unsigned else ''}{self._num_bits}bit",
            "fake" if self._fake_quant else "real",
            f"axis={self._axis if self._axis is not None else ' per-tensor'}",
        ]
        if self._amax is not None:
            parts.append(f"amax={self._amax} full_range")
        if self._learn_amax:
            parts.append("learn_amax")
        if self._scale_amax:
            parts.append(f"scale_amax={self._scale_amax}")
        head = "QuantDescriptor" if self._name is None else f"{self._name}: "
        return f"{head}({' '.join(parts)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScaledQuantDescriptor):
            return NotImplemented
        return self.dict() == other.dict()

    __hash__ = None  # type: ignore[assignment]

    def dict(self) -> dict[str, Any]:
        """Arguments that make an equal descriptor; those at their default are left out."""
        values: dict[str, Any] = {"num_bits": self._num_bits, "name": self._name}
        optional = {
            "fake_quant": (self._fake_quant, True),
            "axis": (self._axis, None),
            "amax": (None if self._amax is None else self._amax.tolist(), None),
            "scale_amax": (self._scale_amax, None),
            "calib_method": (self._calib_method, "max"),
            "learn_amax": (self._learn_amax, False),
            "unsigned": (self._unsigned, False),
            "narrow_range": (self._narrow_range, False),
        }
        values.update({k: value for k, (value, default) in optional.items() if value != default})
        return values

    def to_yaml(self) -> str:
        """The same as YAML; tuples become lists."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in self.dict().items()}
        text: str = _yaml().dump(values, width=120)
        return text

    @classmethod
    def from_yaml(cls, yaml_str: str) -> ScaledQuantDescriptor:
        """Reads what :meth:`to_yaml` of this class, or the original's, wrote."""
        values = _yaml().safe_load(yaml_str)
        for key in ("axis", "num_bits"):
            if isinstance(values.get(key), list):
                values[key] = tuple(values[key])
        return cls(**values)


QuantDescriptor = ScaledQuantDescriptor

QUANT_DESC_8BIT_PER_TENSOR = QuantDescriptor(num_bits=8)
QUANT_DESC_UNSIGNED_8BIT_PER_TENSOR = QuantDescriptor(num_bits=8, unsigned=True)
QUANT_DESC_8BIT_CONV1D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=0)
QUANT_DESC_8BIT_CONV2D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=0)
QUANT_DESC_8BIT_CONV3D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=0)
QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW = QuantDescriptor(num_bits=8, axis=0)
QUANT_DESC_8BIT_CONVTRANSPOSE1D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=1)
QUANT_DESC_8BIT_CONVTRANSPOSE2D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=1)
QUANT_DESC_8BIT_CONVTRANSPOSE3D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=1)


def tensor_quant(
    inputs: torch.Tensor,
    amax: torch.Tensor,
    num_bits: int = 8,
    unsigned: bool = False,
    narrow_range: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers, in the input's dtype, and the scale by which to divide them.

    Args:
        inputs: any shape and strides.
        amax: absolute maxima, broadcast to ``inputs``. Up to 2^-24 counts as zero: the integers
            are 0 and the scale 1.
        num_bits: bits of the integers.
        unsigned: whether they have no sign.
        narrow_range: whether the lowest is left out.

    Raises:
        TypeError: a negative input in unsigned quantization.
        ValueError: a negative amax or NaN; a scale above float16's range for float16 inputs.
    """
    outputs, scale = torch.ops.octavo.tensor_quant(inputs, amax, num_bits, unsigned, narrow_range)
    return outputs, scale


def fake_tensor_quant(
    inputs: torch.Tensor,
    amax: torch.Tensor,
    num_bits: int = 8,
    unsigned: bool = False,
    narrow_range: bool = True,
) -> torch.Tensor:
    """:func:`tensor_quant`'s integers divided by their scale; straight-through gradient."""
    if num_bits == 0:
        return inputs * 0
    if torch.onnx.is_in_onnx_export():
        return _onnx.fake_tensor_quant(inputs, amax, num_bits, unsigned, narrow_range)
    outputs: torch.Tensor = torch.ops.octavo.fake_tensor_quant(
        inputs, amax, num_bits, unsigned, narrow_range
    )
    return outputs


# In the original it is another implementation of the same.
legacy_fake_tensor_quant = fake_tensor_quant


def fake_affine_tensor_quant(
    inputs: torch.Tensor,
    min_range: torch.Tensor | float,
    max_range: torch.Tensor | float,
    num_bits: int = 8,
) -> torch.Tensor:
    """Fake quantization of [min_range, max_range] with a zero point, one scale."""
    like: Any = {"dtype": torch.float32, "device": inputs.device}
    outputs: torch.Tensor = torch.ops.octavo.fake_affine_tensor_quant(
        inputs, torch.as_tensor(min_range, **like), torch.as_tensor(max_range, **like), num_bits
    )
    return outputs


def scaled_e4m3(
    inputs: torch.Tensor, amax: torch.Tensor | None = None, E: int = 4, M: int = 3
) -> torch.Tensor:
    """FP8 E4M3 emulated: scaled so that amax is 448, rounded, scaled back.

    Raises:
        NotImplementedError: another format.
    """
    if (E, M) != (4, 3):
        raise NotImplementedError("Only support E=4 & M=3 for now.")
    if torch.onnx.is_in_onnx_export():
        return _onnx.E4M3Export.run(inputs, amax)
    outputs: torch.Tensor = torch.ops.octavo.scaled_e4m3(inputs, amax, E, M)
    return outputs


class TensorQuantFunction:
    """``apply`` is :func:`tensor_quant`."""

    apply = staticmethod(tensor_quant)


class FakeTensorQuantFunction:
    """``apply`` is :func:`fake_tensor_quant`."""

    apply = staticmethod(fake_tensor_quant)


class LegacyFakeTensorQuantFunction:
    """``apply`` is :func:`legacy_fake_tensor_quant`."""

    apply = staticmethod(legacy_fake_tensor_quant)


class FakeAffineTensorQuantFunction:
    """``apply`` is :func:`fake_affine_tensor_quant`."""

    apply = staticmethod(fake_affine_tensor_quant)


class ScaledE4M3Function:
    """``apply`` is :func:`scaled_e4m3`."""

    apply = staticmethod(scaled_e4m3)
