"""Pooling of a quantized input."""

from __future__ import annotations

from typing import Any

import torch

from octavo.compat.pytorch_quantization.nn.modules import _utils

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "QuantAdaptiveAvgPool1d",
    "QuantAdaptiveAvgPool2d",
    "QuantAdaptiveAvgPool3d",
    "QuantAvgPool1d",
    "QuantAvgPool2d",
    "QuantAvgPool3d",
    "QuantMaxPool1d",
    "QuantMaxPool2d",
    "QuantMaxPool3d",
]


class _QuantInput(_utils.QuantInputMixin):
    """Stands before torch.nn's class among the bases.

    Args:
        args: as of the float module.
        kwargs: likewise, and ``quant_desc_input``.
    """

    _float: type  # the module of torch.nn, whatever torch.nn's name holds later

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        own = _utils.take_own(self._float, kwargs)
        descriptor = _utils.pop_quant_desc_in_kwargs(type(self), input_only=True, **kwargs)
        super().__init__(*args, **own)
        self.init_quantizer(descriptor)

    def forward(self, input: torch.Tensor) -> Any:
        """The float module of the quantized input."""
        base: Any = super()
        return base.forward(self._input_quantizer(input))


class QuantMaxPool1d(_QuantInput, torch.nn.MaxPool1d):
    """torch.nn.MaxPool1d with a quantizer."""

    _float = torch.nn.MaxPool1d


class QuantMaxPool2d(_QuantInput, torch.nn.MaxPool2d):
    """torch.nn.MaxPool2d with a quantizer."""

    _float = torch.nn.MaxPool2d


class QuantMaxPool3d(_QuantInput, torch.nn.MaxPool3d):
    """torch.nn.MaxPool3d with a quantizer."""

    _float = torch.nn.MaxPool3d


class QuantAvgPool1d(_QuantInput, torch.nn.AvgPool1d):
    """torch.nn.AvgPool1d with a quantizer."""

    _float = torch.nn.AvgPool1d


class QuantAvgPool2d(_QuantInput, torch.nn.AvgPool2d):
    """torch.nn.AvgPool2d with a quantizer."""

    _float = torch.nn.AvgPool2d


class QuantAvgPool3d(_QuantInput, torch.nn.AvgPool3d):
    """torch.nn.AvgPool3d with a quantizer."""

    _float = torch.nn.AvgPool3d


class QuantAdaptiveAvgPool1d(_QuantInput, torch.nn.AdaptiveAvgPool1d):
    """torch.nn.AdaptiveAvgPool1d with a quantizer."""

    _float = torch.nn.AdaptiveAvgPool1d


class QuantAdaptiveAvgPool2d(_QuantInput, torch.nn.AdaptiveAvgPool2d):
    """torch.nn.AdaptiveAvgPool2d with a quantizer."""

    _float = torch.nn.AdaptiveAvgPool2d


class QuantAdaptiveAvgPool3d(_QuantInput, torch.nn.AdaptiveAvgPool3d):
    """torch.nn.AdaptiveAvgPool3d with a quantizer."""

    _float = torch.nn.AdaptiveAvgPool3d


MaxPool1d = QuantMaxPool1d
MaxPool2d = QuantMaxPool2d
MaxPool3d = QuantMaxPool3d
AvgPool1d = QuantAvgPool1d
AvgPool2d = QuantAvgPool2d
AvgPool3d = QuantAvgPool3d
AdaptiveAvgPool1d = QuantAdaptiveAvgPool1d
AdaptiveAvgPool2d = QuantAdaptiveAvgPool2d
AdaptiveAvgPool3d = QuantAdaptiveAvgPool3d
