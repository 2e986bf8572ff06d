"""Quantization's nodes while torch.onnx exports, for both of its engines.

The TorchScript engine asks an autograd function for its symbol; the one on torch.export takes
torch.onnx.ops.symbolic. Both give float32 Q/DQ: other dtypes are cast before and after. Products of
activations that are quantized at each call take float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.onnx import symbolic_helper
from torch.utils._python_dispatch import _disable_current_modes

import octavo._torch  # noqa: F401  registers torch.ops.octavo
from octavo.errors import UnsupportedError

__all__ = [
    "INTEGERS",
    "constants",
    "dequantize",
    "dynamic_product",
    "is_exporting",
    "is_exporting_with_dynamo",
    "quantize_dequantize",
    "refuse",
    "reporting_refusals",
]


# The integers of torch's quantized types.
INTEGERS = {torch.qint8: torch.int8, torch.quint8: torch.uint8}


def is_exporting() -> bool:
    """Whether torch.onnx.export runs."""
    return bool(torch.onnx.is_in_onnx_export())


_refused: list[UnsupportedError] = []


def refuse(message: str) -> NoReturn:
    """Ends an export from within a module's forward, with UnsupportedError."""
    _refused.append(UnsupportedError(message))
    raise _refused[-1]


@contextlib.contextmanager
def reporting_refusals() -> Iterator[None]:
    """Raises what was refused within: torch hides it in errors of its own, or tries another way."""
    _refused.clear()
    try:
        yield
    except Exception as error:
        if _refused:
            raise _refused[0] from error
        raise
    if _refused:
        raise _refused[0]


def is_exporting_with_dynamo() -> bool:
    """Whether torch.onnx.export runs on torch.export."""
    return bool(torch.onnx.is_in_onnx_export() and torch.compiler.is_exporting())


@contextlib.contextmanager
def constants() -> Iterator[None]:
    """Neither engine sees what is computed within: the results are constants to it."""
    tracer: Any = torch._C
    state = tracer._get_tracing_state()
    tracer._set_tracing_state(None)
    try:
        with _disable_current_modes():
            yield
    finally:
        tracer._set_tracing_state(state)


def quantize_dequantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None, dtype: torch.dtype
) -> Tensor:
    """Q/DQ of an activation or a float weight.

    Args:
        x: of any float type.
        scale: one, or one for each index of ``axis``.
        zero_point: integers, as many.
        axis: None: one scale.
        dtype: torch.int8 or torch.uint8.
    """
    if not is_exporting_with_dynamo():
        with constants():
            scale, zero_point = _shaped(scale, zero_point, axis, dtype)
        result: Tensor = _QuantizeDequantize.apply(x, scale, zero_point, axis)
        return result
    scale, zero_point = _shaped(scale, zero_point, axis, dtype)
    attributes: Any = {} if axis is None else {"axis": axis}
    parameters = (scale, zero_point)
    y = x.float()
    q = torch.onnx.ops.symbolic(
        "QuantizeLinear", (y, *parameters), attributes, dtype=dtype, shape=y.shape
    )
    y = torch.onnx.ops.symbolic(
        "DequantizeLinear", (q, *parameters), attributes, dtype=torch.float32, shape=y.shape
    )
    return y.to(x.dtype)


def dequantize(integers: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None) -> Tensor:
    """DequantizeLinear of constant integers, torch.int8 or torch.uint8; the rest as above."""
    with constants():
        parameters = _shaped(scale, zero_point, axis, integers.dtype)
    if not is_exporting_with_dynamo():
        result: Tensor = _Dequantize.apply(integers, *parameters, axis)
        return result
    return torch.onnx.ops.symbolic(
        "DequantizeLinear",
        (integers, *parameters),
        {} if axis is None else {"axis": axis},
        dtype=torch.float32,
        shape=integers.shape,
    )


def dynamic_product(x: Tensor, integers: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """A product with constant integers of ``x`` quantized at each call, in float32.

    DynamicQuantizeLinear, MatMulInteger, Cast, and Mul by both scales.

    Args:
        x: float32 [..., K].
        integers: int8 [K, N].
        scale: float32, of all integers or [N].
        zero_point: int8, as many.
    """
    if not is_exporting_with_dynamo():
        result: Tensor = _DynamicProduct.apply(x, integers, scale, zero_point)
        return result
    q, step, zero = torch.onnx.ops.symbolic_multi_out(
        "DynamicQuantizeLinear",
        (x,),
        dtypes=(torch.uint8, torch.float32, torch.uint8),
        shapes=(x.shape, (), ()),
    )
    sums = torch.onnx.ops.symbolic(
        "MatMulInteger",
        (q, integers, zero, zero_point),
        dtype=torch.int32,
        shape=(*x.shape[:-1], integers.shape[1]),
    )
    return sums.float() * (step * scale)


def _shaped(
    scale: Tensor, zero_point: Tensor, axis: int | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    shape = () if axis is None else (-1,)
    return scale.detach().float().reshape(shape), zero_point.detach().to(dtype).reshape(shape)


class _QuantizeDequantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None) -> Tensor:
        """What the trace computes."""
        is_signed = zero_point.dtype == torch.int8
        result: Tensor = torch.ops.octavo.fake_quantize(
            x, scale, zero_point, axis or 0, 0, 8, is_signed, False, "onnx"
        )
        return result

    @staticmethod
    @symbolic_helper.parse_args("v", "t", "t", "i")
    def symbolic(g: Any, x: Any, scale: Tensor, zero_point: Tensor, axis: int | None) -> Any:
        """Nodes of the TorchScript engine."""
        y, scalar = to_float(g, x)
        parameters = [g.op("Constant", value_t=t) for t in (scale, zero_point)]
        attributes = {} if axis is None else {"axis_i": axis}
        q = g.op("QuantizeLinear", y, *parameters, **attributes)
        y = g.op("DequantizeLinear", q, *parameters, **attributes)
        return from_float(g, y, scalar, x)


class _Dequantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, integers: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None
    ) -> Tensor:
        """What the trace computes."""
        is_signed = integers.dtype == torch.int8
        result: Tensor = torch.ops.octavo.dequantize(
            integers, scale, zero_point, axis or 0, 0, 8, is_signed, False, "onnx"
        )
        return result

    @staticmethod
    @symbolic_helper.parse_args("t", "t", "t", "i")
    def symbolic(
        g: Any, integers: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None
    ) -> Any:
        """Nodes of the TorchScript engine."""
        inputs = [g.op("Constant", value_t=t) for t in (integers, scale, zero_point)]
        return g.op("DequantizeLinear", *inputs, **({} if axis is None else {"axis_i": axis}))


class _DynamicProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, integers: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """What the trace computes: the shape counts."""
        return x @ ((integers.float() - zero_point) * scale)

    @staticmethod
    @symbolic_helper.parse_args("v", "t", "t", "t")
    def symbolic(g: Any, x: Any, integers: Tensor, scale: Tensor, zero_point: Tensor) -> Any:
        """Nodes of the TorchScript engine."""
        q, step, zero = g.op("DynamicQuantizeLinear", x, outputs=3)
        w, w_step, w_zero = (g.op("Constant", value_t=t) for t in (integers, scale, zero_point))
        sums = g.op("MatMulInteger", q, w, zero, w_zero)
        y = g.op("Cast", sums, to_i=torch.onnx.TensorProtoDataType.FLOAT)
        return g.op("Mul", y, g.op("Mul", step, w_step))


def to_float(g: Any, inputs: Any) -> tuple[Any, str]:
    """In the TorchScript engine: cast to float32; and the type before."""
    scalar: str = inputs.type().scalarType()
    if scalar == "Float":
        return inputs, scalar
    cast = g.op("Cast", inputs, to_i=torch.onnx.TensorProtoDataType.FLOAT)
    return cast.setType(inputs.type().with_dtype(torch.float32)), scalar


def from_float(g: Any, y: Any, scalar: str, inputs: Any) -> Any:
    """In the TorchScript engine: cast back to the type before."""
    if scalar == "Float":
        return y
    target = {
        "Half": torch.onnx.TensorProtoDataType.FLOAT16,
        "BFloat16": torch.onnx.TensorProtoDataType.BFLOAT16,
        "Double": torch.onnx.TensorProtoDataType.DOUBLE,
    }[scalar]
    return g.op("Cast", y, to_i=target).setType(inputs.type())
