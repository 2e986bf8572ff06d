"""The names of the original's CUDA extension, on the CPU."""

from __future__ import annotations

import torch

from octavo.compat.pytorch_quantization import tensor_quant

__all__ = ["fake_e4m3fy", "fake_tensor_quant", "fake_tensor_quant_", "fake_tensor_quant_with_axis"]


fake_tensor_quant = tensor_quant.fake_tensor_quant


def fake_tensor_quant_(
    inputs: torch.Tensor,
    amax: torch.Tensor,
    num_bits: int = 8,
    unsigned: bool = False,
    narrow_range: bool = True,
) -> None:
    """One scale, in place."""
    with torch.no_grad():
        inputs.copy_(fake_tensor_quant(inputs, amax, num_bits, unsigned, narrow_range))


def fake_tensor_quant_with_axis(
    inputs: torch.Tensor,
    amax: torch.Tensor,
    axis: int,
    num_bits: int = 8,
    unsigned: bool = False,
    narrow_range: bool = True,
) -> torch.Tensor:
    """A scale for each index of an axis."""
    shape = [1] * inputs.dim()
    shape[axis] = -1
    return fake_tensor_quant(inputs, amax.reshape(shape), num_bits, unsigned, narrow_range)


def fake_e4m3fy(inputs: torch.Tensor) -> torch.Tensor:
    """To the nearest FP8 E4M3."""
    return tensor_quant.scaled_e4m3(inputs)
