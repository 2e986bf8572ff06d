"""Convolutions of volumes, and transposed ones, as two-dimensional INT8 convolutions.

A volume is as many images as its result has slices; the slices that a kernel reaches are channels.
A transposed convolution of stride s is an ordinary one for each residue of the result's positions
by s, so that nothing is multiplied by the zeros between its inputs.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from octavo._export.qdq import is_exporting
from octavo.errors import UnsupportedError
from octavo.quantization._ops import classes, ops
from octavo.quantization.observers import is_per_channel
from octavo.quantization.quantized import _Conv

__all__ = [
    "Conv3d",
    "ConvReLU3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
]


def _like(x: Tensor, integers: Tensor) -> Tensor:
    """Other integers on the grid of a tensor that is quantized as a whole."""
    return torch._make_per_tensor_quantized_tensor(integers, x.q_scale(), x.q_zero_point())


def _weight(source: Tensor, integers: Tensor) -> Tensor:
    """Other integers, outputs first, with the scales of a weight."""
    if not is_per_channel(source.qscheme()):
        return _like(source, integers)
    scales, zeros = source.q_per_channel_scales(), source.q_per_channel_zero_points()
    return torch._make_per_channel_quantized_tensor(integers, scales, zeros, 0)


class _Kernel:
    """A convolution of one to three dimensions over integers, depth unpadded."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
    ) -> None:
        integers = weight.int_repr()
        self._rank = integers.dim() - 2
        self._depth = (1, 1, 1)
        if self._rank == 1:  # a row of pixels
            integers = integers.unsqueeze(2)
        if self._rank == 3:  # slices are channels
            self._depth = (integers.shape[2], stride[0], dilation[0])
            integers = integers.flatten(1, 2)
        row = self._rank == 1
        self._layer = classes.ConvInt8(
            _weight(weight, integers.contiguous()),
            bias,
            [1] * row + list(stride[-2:]),
            [0] * row + list(padding[-2:]),
            [1] * row + list(dilation[-2:]),
            groups,
        )

    def __call__(self, x: Tensor, scale: float, zero_point: int, relu: bool) -> Tensor:
        if self._rank == 1:
            row: Tensor = ops.conv_int8(x.unsqueeze(2), self._layer, scale, zero_point, relu)
            return row.squeeze(2)
        if self._rank == 2:
            image: Tensor = ops.conv_int8(x, self._layer, scale, zero_point, relu)
            return image
        integers = x.int_repr()
        batch, _, slices, *size = integers.shape
        kernel, stride, dilation = self._depth
        outputs = (slices - dilation * (kernel - 1) - 1) // stride + 1
        if outputs < 1:
            raise ValueError(f"conv3d: a depth of {slices} is smaller than the window")
        reached = torch.arange(outputs)[:, None] * stride + torch.arange(kernel) * dilation
        images = integers[:, :, reached].permute(0, 2, 1, 3, 4, 5)
        images = images.reshape(batch * outputs, -1, *size)
        y: Tensor = ops.conv_int8(_like(x, images), self._layer, scale, zero_point, relu)
        volume = y.int_repr().unflatten(0, (batch, outputs)).transpose(1, 2).contiguous()
        return _like(y, volume)


def _padded(x: Tensor, amounts: list[tuple[int, int]]) -> Tensor:
    """Zeros before and after each spatial axis; fewer elements where an amount is below 0."""
    integers = x.int_repr()
    widths = [max(w, 0) for pair in reversed(amounts) for w in pair]
    if any(widths):
        integers = functional.pad(integers, widths, value=x.q_zero_point())
    for axis, (before, after) in enumerate(amounts, start=2):
        if before < 0 or after < 0:
            first = max(-before, 0)
            size = integers.shape[axis] - first - max(-after, 0)
            integers = integers.narrow(axis, first, size)
    return _like(x, integers)


class Conv3d(_Conv):
    """A Conv3d on integers."""

    rank = 3

    def _pack(self) -> Any:
        padding = (0, *self.padding[1:])
        return _Kernel(
            self._weight, self._bias, self.stride, padding, self.dilation, self.groups
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Quantized in, quantized out."""
        if is_exporting():
            options = (self.stride, self.padding, self.dilation, self.groups)
            weight = self._exported_weight()
            return self._exported_layer(functional.conv3d(x, weight, self._bias, *options))
        depth = self.padding[0]
        x = _padded(x, [(depth, depth), (0, 0), (0, 0)]) if depth else x
        y: Tensor = self._layer()(x, self.scale, self.zero_point, self.relu)
        return y


class ConvReLU3d(Conv3d):
    """A Conv3d and a ReLU on integers."""

    relu = True


class _Phase(NamedTuple):
    """Of one axis: the results at positions first, first + stride, …, `number` of them."""

    first: int
    number: int
    taps: list[int]  # of the kernel, in the order of the inputs; none: the results are biases
    dilation: int
    before: int  # the padding of the input; below 0: elements left out
    after: int


def _phases(size: int, out: int, kernel: int, stride: int, padding: int, step: int) -> list[_Phase]:
    """A result at o is the sum of w[t] * x[i] where o + padding = i * stride + t * step."""
    apart = math.gcd(step, stride)
    found = []
    for residue in range(stride):
        taps = [t for t in range(kernel) if (t * step - residue) % stride == 0]
        shifts = [(t * step - residue) // stride for t in taps] or [0]
        low = -((residue - padding) // stride)  # the least quotient of a position
        high = (padding + out - 1 - residue) // stride
        if high < low:
            continue
        before = max(shifts) - low
        after = high - min(shifts) - (size - 1)
        first = low * stride + residue - padding
        count = high - low + 1
        found.append(_Phase(first, count, taps[::-1], step // apart, before, after))
    return found


class _ConvTranspose(_Conv):
    """What the transposed convolutions share."""

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.output_padding = source.output_padding

    def _get_name(self) -> str:
        return f"QuantizedConvTranspose{self.rank}d"

    @classmethod
    def from_float(cls, module: Any) -> Any:
        """From an observed module.

        Raises:
            UnsupportedError: a scale for each input channel, or for each channel of a group.
        """
        observer = module.qconfig.weight()
        if is_per_channel(observer.qscheme) and (observer.ch_axis != 1 or module.groups != 1):
            raise UnsupportedError(
                f"convert: Per channel weight observer is not supported yet for "
                f"ConvTranspose{cls.rank}d: an output channel's scale needs ch_axis=1 and groups=1;"
                " give it a weight observer per tensor"
            )
        return super().from_float(module)

    def _pack(self) -> Any:
        return {}  # kernels by which taps they have

    def _kernel(self, phases: tuple[_Phase, ...]) -> _Kernel:
        known = self._layer()
        key = tuple((*phase.taps, -phase.dilation) for phase in phases)
        if key not in known:
            w = self._weight
            integers = w.int_repr().unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)
            if all(phase.taps for phase in phases):
                for axis, phase in enumerate(phases, start=2):
                    integers = integers.index_select(axis, torch.tensor(phase.taps))
            else:
                zero = w.q_per_channel_zero_points() if is_per_channel(w.qscheme()) else (
                    torch.tensor(w.q_zero_point())
                )  # fmt: skip
                integers = integers[(..., *[slice(1)] * self.rank)].clone()
                integers[:] = zero.reshape([-1] + [1] * (self.rank + 1))
            ones, none = (1,) * self.rank, (0,) * self.rank
            dilation = tuple(phase.dilation for phase in phases)
            known[key] = _Kernel(
                _weight(w, integers.contiguous()), self._bias, ones, none, dilation, self.groups
            )
        return known[key]  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Quantized in, quantized out."""
        if is_exporting():
            transposed: Any = getattr(functional, f"conv_transpose{self.rank}d")
            options = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
            return self._exported_layer(
                transposed(x, self._exported_weight(), self._bias, *options)
            )
        axes = []
        sizes = []
        for axis in range(self.rank):
            size, stride, kernel = x.shape[axis + 2], self.stride[axis], self.kernel_size[axis]
            step, padding = self.dilation[axis], self.padding[axis]
            out = (size - 1) * stride - 2 * padding + step * (kernel - 1) + 1
            out += self.output_padding[axis]
            if out < 1 or size < 1:
                raise ValueError(f"{self._get_name()}: an input of {tuple(x.shape)} gives nothing")
            sizes.append(out)
            axes.append(_phases(size, out, kernel, stride, padding, step))
        result = torch.empty((x.shape[0], self.out_channels, *sizes), dtype=x.int_repr().dtype)
        for phases in itertools.product(*axes):
            empty = not all(phase.taps for phase in phases)
            # A kernel of one tap of zero, wherever one axis has no taps.
            amounts = [(p.before, p.after) for p in phases] if not empty else [
                (0, p.number - n) for p, n in zip(phases, x.shape[2:], strict=True)
            ]  # fmt: skip
            part = self._kernel(phases)(_padded(x, amounts), self.scale, self.zero_point, self.relu)
            places: list[Any] = [
                slice(p.first, p.first + (p.number - 1) * s + 1, s)
                for p, s in zip(phases, self.stride, strict=True)
            ]
            result[(..., *places)] = part.int_repr()
        return torch._make_per_tensor_quantized_tensor(result, self.scale, self.zero_point)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        text = super().extra_repr()
        if self.output_padding == (0,) * self.rank:
            return text
        shown = f", output_padding={self.output_padding}"
        at = [text.index(word) for word in (", groups=", ", bias=") if word in text]
        place = min(at, default=len(text))
        return text[:place] + shown + text[place:]


class ConvTranspose1d(_ConvTranspose):
    """A ConvTranspose1d on integers."""

    rank = 1


class ConvTranspose2d(_ConvTranspose):
    """A ConvTranspose2d on integers."""


class ConvTranspose3d(_ConvTranspose):
    """A ConvTranspose3d on integers."""

    rank = 3
