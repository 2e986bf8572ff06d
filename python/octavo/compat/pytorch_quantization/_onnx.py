"""Fake quantization as ONNX nodes, for both of torch.onnx's engines."""

from __future__ import annotations

from typing import Any

import torch
from torch.onnx import symbolic_helper

from octavo._export.qdq import (
    from_float,
    is_exporting_with_dynamo,
    quantize_dequantize,
    to_float,
)

_E4M3_MOST = 448.0


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


def fake_tensor_quant(
    inputs: torch.Tensor, amax: torch.Tensor, num_bits: int, unsigned: bool, narrow_range: bool
) -> torch.Tensor:
    """fake_tensor_quant while torch.onnx exports.

    Raises:
        TypeError: amax belongs to several axes.
        ValueError: no 8 bits, or a narrow range.
    """
    scale = _step(amax, _check(num_bits, unsigned, narrow_range))
    zero_point = torch.zeros_like(scale, dtype=torch.int32)
    dtype = torch.uint8 if unsigned else torch.int8
    return quantize_dequantize(inputs, scale, zero_point, _axis(amax), dtype)


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
        x, scalar = to_float(g, inputs)
        scale = g.op("Constant", value_t=step)
        sizes = symbolic_helper._get_tensor_sizes(inputs)
        kinds = [x.type().with_dtype(d).with_sizes(sizes) for d in (torch.uint8, torch.float32)]
        q = g.op("trt::TRT_FP8QuantizeLinear", x, scale).setType(kinds[0])
        y = g.op("trt::TRT_FP8DequantizeLinear", q, scale).setType(kinds[1])
        return from_float(g, y, scalar, inputs)
