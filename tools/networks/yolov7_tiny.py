"""yolov7-tiny, the deployed graph for 640 x 640, with seeded random weights.

Convolution + BatchNorm (eps 1e-3) + LeakyReLU 0.1; the 78 rows of the network as its authors number
them, in `rows`. Output `boxes`, N x 25200 x 85: centre, size, objectness and 80 classes, decoded.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from networks.export import export, seeded
from networks.imagenet import conv_bn, initialize

IMAGE = 640
CONVOLUTIONS = 58
FUSED_PARAMETERS = 6_219_709  # with each BatchNorm folded into a bias
ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
STRIDES = (8, 16, 32)
CLASSES = 80

# A row: what it reads (rows before it, -1 the one above), and what it is.
Row = tuple[int | list[int], nn.Module]


class Conv(nn.Module):
    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = conv_bn(c_in, c_out, kernel, stride, eps=1e-3)
        self.act = nn.LeakyReLU(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.act(self.conv(x))
        return y


class Concat(nn.Module):
    def forward(self, *x: torch.Tensor) -> torch.Tensor:
        return torch.cat(x, 1)


class Detect(nn.Module):
    """The deployed head: 1 x 1 convolutions, and the boxes that their outputs mean."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.values = CLASSES + 5
        self.convs = nn.ModuleList(nn.Conv2d(c, 3 * self.values, 1) for c in channels)
        for level, (stride, anchors) in enumerate(zip(STRIDES, ANCHORS, strict=True)):
            side = IMAGE // stride
            y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
            grid = torch.stack((x, y), 2).float().view(1, 1, side, side, 2)
            self.register_buffer(f"grid{level}", grid)
            self.register_buffer(
                f"anchor{level}", torch.tensor(anchors).float().view(1, 3, 1, 1, 2)
            )

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


def elan(c_in: int, width: int, c_out: int) -> list[Row]:
    return [
        (-1, Conv(c_in, width, 1)),
        (-2, Conv(c_in, width, 1)),
        (-1, Conv(width, width, 3)),
        (-1, Conv(width, width, 3)),
        ([-1, -2, -3, -4], Concat()),
        (-1, Conv(4 * width, c_out, 1)),
    ]


def down() -> list[Row]:
    return [(-1, nn.MaxPool2d(2, 2))]


def pyramid(kernel: int) -> nn.Module:
    return nn.MaxPool2d(kernel, 1, kernel // 2)


def up(c_in: int, c_out: int, lateral: int, lateral_channels: int) -> list[Row]:
    return [
        (-1, Conv(c_in, c_out, 1)),
        (-1, nn.Upsample(scale_factor=2, mode="nearest")),
        (lateral, Conv(lateral_channels, c_out, 1)),
        ([-1, -2], Concat()),
    ]


def rows() -> list[Row]:
    backbone: list[Row] = [
        (-1, Conv(3, 32, 3, 2)),
        (-1, Conv(32, 64, 3, 2)),
        *elan(64, 32, 64),
        *down(),
        *elan(64, 64, 128),  # ends in row 14
        *down(),
        *elan(128, 128, 256),  # row 21
        *down(),
        *elan(256, 256, 512),  # row 28
    ]
    pooling: list[Row] = [
        (-1, Conv(512, 256, 1)),
        (-2, Conv(512, 256, 1)),
        (-1, pyramid(5)),
        (-2, pyramid(9)),
        (-3, pyramid(13)),
        ([-1, -2, -3, -4], Concat()),
        (-1, Conv(1024, 256, 1)),
        ([-1, -7], Concat()),
        (-1, Conv(512, 256, 1)),  # row 37
    ]
    head: list[Row] = [
        *up(256, 128, 21, 256),
        *elan(256, 64, 128),  # row 47
        *up(128, 64, 14, 128),
        *elan(128, 32, 64),  # row 57
        (-1, Conv(64, 128, 3, 2)),
        ([-1, 47], Concat()),
        *elan(256, 64, 128),  # row 65
        (-1, Conv(128, 256, 3, 2)),
        ([-1, 37], Concat()),
        *elan(512, 128, 256),  # row 73
        (57, Conv(64, 128, 3)),
        (65, Conv(128, 256, 3)),
        (73, Conv(256, 512, 3)),
        ([74, 75, 76], Detect((128, 256, 512))),
    ]
    return backbone + pooling + head


class YoloV7Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        table = rows()
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


def build(path: Path) -> None:
    net = YoloV7Tiny()
    assert len(net.layers) == 78
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == CONVOLUTIONS
    assert fused_parameters(net) == FUSED_PARAMETERS
    images = torch.empty(2, 3, IMAGE, IMAGE).uniform_(0, 1, generator=seeded(1))
    export("yolov7-tiny", initialize(net, images, seed=2), {"input": images[:1]}, ["boxes"], path)
