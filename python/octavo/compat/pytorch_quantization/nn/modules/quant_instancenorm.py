"""Instance normalization of a quantized input."""

from __future__ import annotations

import torch

from octavo.compat.pytorch_quantization.nn.modules.quant_pooling import _QuantInput

__all__ = ["QuantInstanceNorm1d", "QuantInstanceNorm2d", "QuantInstanceNorm3d"]


class QuantInstanceNorm1d(_QuantInput, torch.nn.InstanceNorm1d):
    """torch.nn.InstanceNorm1d with a quantizer."""

    _float = torch.nn.InstanceNorm1d


class QuantInstanceNorm2d(_QuantInput, torch.nn.InstanceNorm2d):
    """torch.nn.InstanceNorm2d with a quantizer."""

    _float = torch.nn.InstanceNorm2d


class QuantInstanceNorm3d(_QuantInput, torch.nn.InstanceNorm3d):
    """torch.nn.InstanceNorm3d with a quantizer."""

    _float = torch.nn.InstanceNorm3d
