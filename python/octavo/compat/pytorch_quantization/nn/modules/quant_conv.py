"""Convolutions with quantized input and weight.

They are torch.nn's own modules with quantizers, so that every padding mode is torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from octavo.compat.pytorch_quantization import tensor_quant
from octavo.compat.pytorch_quantization.nn.modules import _utils

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantConvTranspose3d",
]


class _QuantConvNd(_utils.QuantMixin):
    """Stands before torch.nn's class among the bases.

    Args:
        args: as of the float module.
        kwargs: likewise, and ``quant_desc_input``, ``quant_desc_weight``.
    """

    _float: type  # the module of torch.nn, whatever torch.nn's name holds later

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        own = _utils.take_own(self._float, kwargs)
        descriptors = _utils.pop_quant_desc_in_kwargs(type(self), **kwargs)
        super().__init__(*args, **own)
        self.init_quantizer(*descriptors)

    def _quant(self, input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        module: Any = self
        return self._input_quantizer(input), self._weight_quantizer(module.weight)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolution of the quantized input and weight."""
        module: Any = self
        output: torch.Tensor = module._conv_forward(*self._quant(input), module.bias)
        return output


class _QuantConvTransposeNd(_QuantConvNd):
    _dims: int
    _convolve: Any

    def forward(
        self, input: torch.Tensor, output_size: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Transposed convolution of the quantized input and weight.

        Raises:
            ValueError: a padding mode other than zeros.
        """
        m: Any = self
        if m.padding_mode != "zeros":
            raise ValueError(f"Only `zeros` padding mode is supported for {type(self).__name__}")
        size = None if output_size is None else list(output_size)
        padding = m._output_padding(
            input, size, m.stride, m.padding, m.kernel_size, self._dims, m.dilation
        )
        x, weight = self._quant(input)
        output: torch.Tensor = self._convolve(
            x, weight, m.bias, m.stride, m.padding, padding, m.groups, m.dilation
        )
        return output


class QuantConv1d(_QuantConvNd, torch.nn.Conv1d):
    """torch.nn.Conv1d with quantizers."""

    _float = torch.nn.Conv1d
    default_quant_desc_weight = tensor_quant.QUANT_DESC_8BIT_CONV1D_WEIGHT_PER_CHANNEL


class QuantConv2d(_QuantConvNd, torch.nn.Conv2d):
    """torch.nn.Conv2d with quantizers."""

    _float = torch.nn.Conv2d
    default_quant_desc_weight = tensor_quant.QUANT_DESC_8BIT_CONV2D_WEIGHT_PER_CHANNEL


class QuantConv3d(_QuantConvNd, torch.nn.Conv3d):
    """torch.nn.Conv3d with quantizers."""

    _float = torch.nn.Conv3d
    default_quant_desc_weight = tensor_quant.QUANT_DESC_8BIT_CONV3D_WEIGHT_PER_CHANNEL


class QuantConvTranspose1d(_QuantConvTransposeNd, torch.nn.ConvTranspose1d):
    """torch.nn.ConvTranspose1d with quantizers."""

    _float = torch.nn.ConvTranspose1d
    _dims = 1
    _convolve = staticmethod(torch.nn.functional.conv_transpose1d)
    default_quant_desc_weight = tensor_quant.QUANT_DESC_8BIT_CONVTRANSPOSE1D_WEIGHT_PER_CHANNEL


class QuantConvTranspose2d(_QuantConvTransposeNd, torch.nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d with quantizers."""

    _float = torch.nn.ConvTranspose2d
    _dims = 2
    _convolve = staticmethod(torch.nn.functional.conv_transpose2d)
    default_quant_desc_weight = tensor_quant.QUANT_DESC_8BIT_CONVTRANSPOSE2D_WEIGHT_PER_CHANNEL


class QuantConvTranspose3d(_QuantConvTransposeNd, torch.nn.ConvTranspose3d):
    """torch.nn.ConvTranspose3d with quantizers."""

    _float = torch.nn.ConvTranspose3d
    _dims = 3
    _convolve = staticmethod(torch.nn.functional.conv_transpose3d)
    default_quant_desc_weight = tensor_quant.QUANT_DESC_8BIT_CONVTRANSPOSE3D_WEIGHT_PER_CHANNEL


_ConvNd = _QuantConvNd
Conv1d = QuantConv1d
Conv2d = QuantConv2d
Conv3d = QuantConv3d
ConvTranspose1d = QuantConvTranspose1d
ConvTranspose2d = QuantConvTranspose2d
ConvTranspose3d = QuantConvTranspose3d
