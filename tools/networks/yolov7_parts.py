"""What yolov7 and yolov7-tiny are made of: convolutions, the deployed head, tables of rows.

Convolution + BatchNorm (eps 1e-3) + activation, rows as the networks' authors number them. Output
`boxes`, N x 25200 x 85: centre, size, objectness and 80 classes, decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from networks.export import export, seeded
from networks.imagenet import conv_bn, initialize

IMAGE = 640
STRIDES = (8, 16, 32)
CLASSES = 80

Anchors = tuple[tuple[tuple[int, int], ...], ...]
# A row: what it reads (rows before it, -1 the one above), and what it is.
Row = tuple[int | list[int], nn.Module]


class Conv(nn.Module):
    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, act: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv = conv_bn(c_in, c_out, kernel, stride, eps=1e-3)
        self.act = act or nn.LeakyReLU(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.act(self.conv(x))
        return y


class Concat(nn.Module):
    def forward(self, *x: torch.Tensor) -> torch.Tensor:
        return torch.cat(x, 1)


class Detect(nn.Module):
    """The deployed head: 1 x 1 convolutions, and the boxes that their outputs mean."""

    def __init__(self, channels: tuple[int, ...], anchors: Anchors) -> None:
        super().__init__()
        self.values = CLASSES + 5
        self.convs = nn.ModuleList(nn.Conv2d(c, 3 * self.values, 1) for c in channels)
        for level, (stride, sizes) in enumerate(zip(STRIDES, anchors, strict=True)):
            side = IMAGE // stride
            y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
            grid = torch.stack((x, y), 2).float().view(1, 1, side, side, 2)
            self.register_buffer(f"grid{level}", grid)
            self.register_buffer(f"anchor{level}", torch.tensor(sizes).float().view(1, 3, 1, 1, 2))

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        boxes = []
        for level, (conv, x) in enumerate(zip(self.convs, features, strict=True)):
            side = IMAGE // STRIDES[level]
            y = conv(x).view(-1, 3, self.values, side, side).permute(0, 1, 3, 4, 2).sigmoid()
            grid, anchor = getattr(self, f"grid{level}"), getattr(self, f"anchor{level}")
            centre = (2 * y[..., :2] - 0.5 + grid) * STRIDES[level]
            size = (2 * y[..., 2:4]) ** 2 * anchor
            decoded = torch.cat((centre, size, y[..., 4:]), 4)
            boxes.append(decoded.reshape(-1, 3 * side * side, self.values))
        return torch.cat(boxes, 1)


def pyramid(kernel: int) -> nn.Module:
    return nn.MaxPool2d(kernel, 1, kernel // 2)


def up(
    conv: Callable[[int, int, int], nn.Module],
    c_in: int,
    c_out: int,
    lateral: int,
    lateral_channels: int,
) -> list[Row]:
    """Doubles the sides, and joins what the row `lateral` has."""
    return [
        (-1, conv(c_in, c_out, 1)),
        (-1, nn.Upsample(scale_factor=2, mode="nearest")),
        (lateral, conv(lateral_channels, c_out, 1)),
        ([-1, -2], Concat()),
    ]


class Table(nn.Module):
    def __init__(self, table: Sequence[Row]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(module for _, module in table)
        self.sources = [
            [s if s >= 0 else row + s for s in (source if isinstance(source, list) else [source])]
            for row, (source, _) in enumerate(table)
        ]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: list[torch.Tensor] = []
        for layer, sources in zip(self.layers, self.sources, strict=True):
            made.append(layer(*(x if s < 0 else made[s] for s in sources)))
        return made[-1]


def fused_parameters(net: nn.Module) -> int:
    """Weights and biases when each BatchNorm has gone into its convolution."""
    return sum(m.weight.numel() + m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d))


def network(rows: list[Row], convolutions: int, parameters: int) -> nn.Module:
    """With weights, after the counts of convolutions and of fused parameters are checked."""
    net = Table(rows)
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == convolutions
    assert fused_parameters(net) == parameters, fused_parameters(net)
    images = torch.empty(2, 3, IMAGE, IMAGE).uniform_(0, 1, generator=seeded(1))
    return initialize(net, images, seed=2)


def build(name: str, net: nn.Module, path: Path) -> None:
    images = torch.empty(1, 3, IMAGE, IMAGE).uniform_(0, 1, generator=seeded(1))
    export(name, net, {"input": images}, ["boxes"], path)
