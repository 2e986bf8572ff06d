"""Fake quantization as QuantizeLinear and DequantizeLinear, for both of torch.onnx's engines.

The TorchScript engine asks an autograd function for its symbol; the one on torch.export takes
torch.onnx.ops.symbolic. Both give float32 Q/DQ: other dtypes are cast before and after.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.onnx import symbolic_helper

import octavo._torch  # noqa: F401  registers torch.ops.octavo

_E4M3_MOST = 448.0


def is_exporting_with_dynamo() -> bool:
    """Whether torch.onnx.export runs on torch.export."""
    return bool(torch.onnx.is_in_onnx_export() and torch.compiler.is_exporting())


def _axis(amax: torch.Tensor) -> int | None:
    """Which axis the scales belong to; None: one scale.

    Raises:
        TypeError: several axes.
    """
    if amax.numel() == 1:
        return None
    axes = [i for i, size in enumerate(amax.shape) if size != 1]
    if len(axes) != 1:
        raise TypeError("ONNX does not support multi-axis quantization.")
    return axes[0]


def _check(num_bits: int, unsigned: bool, narrow_range: bool) -> int:
    if num_bits != 8:
        raise ValueError("Only INT8 ONNX export is supported for now.")
    if narrow_range and not unsigned:
        raise ValueError("ONNX has no narrow range: export with narrow_range=False.")
    return 255 if unsigned else 127


def _step(amax: torch.Tensor, bound: int) -> torch.Tensor:
    amax = amax.detach().float()
    step = amax.reshape(-1) / bound if amax.numel() > 1 else amax.reshape(()) / bound
    return torch.where(step > 0, step, torch.ones_like(step))


class IntegerExport(torch.autograd.Function):
    """fake_tensor_quant while torch.onnx exports."""

    @staticmethod
    def run(
        inputs: torch.Tensor, amax: torch.Tensor, num_bits: int, unsigned: bool, narrow_range: bool
    ) -> torch.Tensor:
        """Either engine."""
        bound = _check(num_bits, unsigned, narrow_range)
        axis = _axis(amax)
        if not is_exporting_with_dynamo():
            result: torch.Tensor = IntegerExport.apply(inputs, amax, num_bits, unsigned)
            return result
        step = _step(amax, bound)
        dtype = torch.uint8 if unsigned else torch.int8
        zero = torch.zeros_like(step, dtype=dtype)
        attributes: Any = {} if axis is None else {"axis": axis}
        x = inputs.float()
        q = torch.onnx.ops.symbolic(
            "QuantizeLinear", (x, step, zero), attributes, dtype=dtype, shape=x.shape
        )
        y = torch.onnx.ops.symbolic(
            "DequantizeLinear", (q, step, zero), attributes, dtype=torch.float32, shape=x.shape
        )
        return y.to(inputs.dtype)

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, amax: torch.Tensor, num_bits: int, unsigned: bool
    ) -> torch.Tensor:
        """What the trace computes."""
        result: torch.Tensor = torch.ops.octavo.fake_tensor_quant(
            inputs, amax, num_bits, unsigned, False
        )
        return result

    @staticmethod
    @symbolic_helper.parse_args("v", "t", "i", "b")
    def symbolic(g: Any, inputs: Any, amax: torch.Tensor, num_bits: int, unsigned: bool) -> Any:
        """Nodes of the TorchScript engine."""
        axis = _axis(amax)
        step = _step(amax, _check(num_bits, unsigned, False))
        zero = torch.zeros_like(step, dtype=torch.uint8 if unsigned else torch.int8)
        x, scalar = _to_float(g, inputs)
        scale = g.op("Constant", value_t=step)
        zero_point = g.op("Constant", value_t=zero)
        attributes = {} if axis is None else {"axis_i": axis}
        q = g.op("QuantizeLinear", x, scale, zero_point, **attributes)
        y = g.op("DequantizeLinear", q, scale, zero_point, **attributes)
        return _from_float(g, y, scalar, inputs)


class E4M3Export(torch.autograd.Function):
    """scaled_e4m3 while torch.onnx exports: the operators that TensorRT's parser knows."""

    @staticmethod
    def run(inputs: torch.Tensor, amax: torch.Tensor | None) -> torch.Tensor:
        """Either engine."""
        if not is_exporting_with_dynamo():
            result: torch.Tensor = E4M3Export.apply(inputs, amax)
            return result
        step = torch.ones(()) if amax is None else _step(amax, int(_E4M3_MOST))
        x = inputs.float()
        q = torch.onnx.ops.symbolic(
            "trt::TRT_FP8QuantizeLinear", (x, step), dtype=torch.uint8, shape=x.shape, version=1
        )
        y = torch.onnx.ops.symbolic(
            "trt::TRT_FP8DequantizeLinear", (q, step), dtype=torch.float32, shape=x.shape, version=1
        )
        return y.to(inputs.dtype)

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, amax: torch.Tensor | None) -> torch.Tensor:
        """What the trace computes."""
        result: torch.Tensor = torch.ops.octavo.scaled_e4m3(inputs, amax, 4, 3)
        return result

    @staticmethod
    @symbolic_helper.parse_args("v", "t")
    def symbolic(g: Any, inputs: Any, amax: torch.Tensor | None) -> Any:
        """Nodes of the TorchScript engine."""
        step = torch.ones(()) if amax is None else _step(amax, int(_E4M3_MOST))
        x, scalar = _to_float(g, inputs)
        scale = g.op("Constant", value_t=step)
        sizes = symbolic_helper._get_tensor_sizes(inputs)
        kinds = [x.type().with_dtype(d).with_sizes(sizes) for d in (torch.uint8, torch.float32)]
        q = g.op("trt::TRT_FP8QuantizeLinear", x, scale).setType(kinds[0])
        y = g.op("trt::TRT_FP8DequantizeLinear", q, scale).setType(kinds[1])
        return _from_float(g, y, scalar, inputs)


def _to_float(g: Any, inputs: Any) -> tuple[Any, str]:
    scalar: str = inputs.type().scalarType()
    if scalar == "Float":
        return inputs, scalar
    cast = g.op("Cast", inputs, to_i=torch.onnx.TensorProtoDataType.FLOAT)
    return cast.setType(inputs.type().with_dtype(torch.float32)), scalar


def _from_float(g: Any, y: Any, scalar: str, inputs: Any) -> Any:
    if scalar == "Float":
        return y
    target = {
        "Half": torch.onnx.TensorProtoDataType.FLOAT16,
        "BFloat16": torch.onnx.TensorProtoDataType.BFLOAT16,
        "Double": torch.onnx.TensorProtoDataType.DOUBLE,
    }[scalar]
    return g.op("Cast", y, to_i=target).setType(inputs.type())
