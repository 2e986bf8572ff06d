"""Float modules with a fake-quantized weight: what ``prepare_qat`` puts in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from octavo._export.qdq import is_exporting
from octavo.quantization import fuse


def _take(module: Any, source: Any) -> None:
    """Weight, bias, qconfig and mode of a float module."""
    module.weight, module.bias = source.weight, source.bias
    module.train(source.training)


class Linear(nn.Linear):
    """Linear over a fake-quantized weight."""

    relu = False

    def __init__(self, in_features: int, out_features: int, bias: bool, qconfig: Any) -> None:
        super().__init__(in_features, out_features, bias)
        self.qconfig = qconfig
        self.weight_fake_quant = qconfig.weight()

    @classmethod
    def from_float(cls, module: Any) -> Linear:
        """Takes the parameters of a Linear, or of a LinearReLU's."""
        layer: Any = module[0] if isinstance(module, fuse.FusedModule) else module
        made = cls(layer.in_features, layer.out_features, layer.bias is not None, module.qconfig)
        _take(made, layer)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """The layer, its weight rounded."""
        y = functional.linear(x, self.weight_fake_quant(self.weight), self.bias)
        return functional.relu(y) if self.relu else y


class LinearReLU(Linear):
    """Linear and ReLU over a fake-quantized weight."""

    relu = True


class _Conv:
    """What the convolutions share; before nn.ConvNd in the bases."""

    relu = False

    @classmethod
    def from_float(cls, module: Any) -> Any:
        """Takes the parameters of a convolution, or of a fused one's."""
        fused = isinstance(module, fuse.FusedModule)
        kind: Any = cls  # with nn.ConvNd's arguments
        layer: Any = module[0] if fused else module
        made: Any = kind(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            layer.bias is not None,
            layer.padding_mode,
        )
        made.qconfig = module.qconfig
        made.weight_fake_quant = module.qconfig.weight()
        _take(made, layer)
        if fused and isinstance(module[1], nn.modules.batchnorm._BatchNorm):
            made.bn = module[1]
        return made

    def forward(self: Any, x: Tensor) -> Tensor:
        """The layer, its weight rounded."""
        y: Tensor = self._conv_forward(x, self.weight_fake_quant(self.weight), self.bias)
        return functional.relu(y) if self.relu else y


class Conv1d(_Conv, nn.Conv1d):
    """Conv1d over a fake-quantized weight."""


class Conv2d(_Conv, nn.Conv2d):
    """Conv2d over a fake-quantized weight."""


class ConvReLU1d(Conv1d):
    """Conv1d and ReLU over a fake-quantized weight."""

    relu = True


class ConvReLU2d(Conv2d):
    """Conv2d and ReLU over a fake-quantized weight."""

    relu = True


class Conv3d(_Conv, nn.Conv3d):
    """Conv3d over a fake-quantized weight."""


class ConvReLU3d(Conv3d):
    """Conv3d and ReLU over a fake-quantized weight."""

    relu = True


def _folded_bias(module: Any) -> Tensor:
    scale, shift = fuse.batch_norm_factors(module.bn)
    bias: Tensor = shift if module.bias is None else module.bias * scale + shift
    return bias


class _ConvBn(_Conv):
    """The weight is rounded as it will be once BatchNorm's running statistics are folded into it.

    Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference", section 3.2.2.
    """

    bn: Any

    def forward(self: Any, x: Tensor) -> Tensor:
        """Convolution with the folded weight, unfolded again, then BatchNorm of the batch."""
        scale, _ = fuse.batch_norm_factors(self.bn)
        per_output = scale.reshape([-1] + [1] * (self.weight.dim() - 1))
        if is_exporting():
            y = self._conv_forward(
                x, self.weight_fake_quant(self.weight * per_output), _folded_bias(self)
            )
            return functional.relu(y) if self.relu else y
        y = self._conv_forward(x, self.weight_fake_quant(self.weight * per_output), None)
        y = y / scale.reshape([1, -1] + [1] * (y.dim() - 2))
        if self.bias is not None:
            y = y + self.bias.reshape([1, -1] + [1] * (y.dim() - 2))
        y = self.bn(y)
        return functional.relu(y) if self.relu else y


class ConvBn1d(_ConvBn, nn.Conv1d):
    """Conv1d and BatchNorm1d in training."""


class ConvBn2d(_ConvBn, nn.Conv2d):
    """Conv2d and BatchNorm2d in training."""


class ConvBn3d(_ConvBn, nn.Conv3d):
    """Conv3d and BatchNorm3d in training."""


class ConvBnReLU1d(ConvBn1d):
    """Conv1d, BatchNorm1d and ReLU in training."""

    relu = True


class ConvBnReLU2d(ConvBn2d):
    """Conv2d, BatchNorm2d and ReLU in training."""

    relu = True


class ConvBnReLU3d(ConvBn3d):
    """Conv3d, BatchNorm3d and ReLU in training."""

    relu = True


class LinearBn1d(Linear):
    """Linear and BatchNorm1d in training; rounded as :class:`ConvBn2d`."""

    bn: Any

    @classmethod
    def from_float(cls, module: Any) -> LinearBn1d:
        """Takes the parameters of a fused Linear and its BatchNorm."""
        made = super().from_float(module)
        assert isinstance(made, LinearBn1d)
        made.bn = module[1]
        return made

    def forward(self, x: Tensor) -> Tensor:
        """Product with the folded weight, unfolded again, then BatchNorm of the batch."""
        scale, _ = fuse.batch_norm_factors(self.bn)
        weight = self.weight_fake_quant(self.weight * scale.reshape(-1, 1))
        if is_exporting():
            return functional.linear(x, weight, _folded_bias(self))
        y = functional.linear(x, weight)
        y = y / scale
        if self.bias is not None:
            y = y + self.bias
        result: Tensor = self.bn(y)
        return result


def folded(module: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a module for conversion, BatchNorm folded in."""
    if hasattr(module, "bn"):
        with torch.no_grad():
            return fuse.folded(module, module.bn)
    return module.weight, module.bias
