"""yolov7, the deployed graph for 640 x 640, with seeded random weights: 106 rows, SiLU.

The branches of its RepConv rows are one convolution once deployed.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from networks import yolov7_parts
from networks.yolov7_parts import Concat, Detect, Row, pyramid, up

CONVOLUTIONS = 92
FUSED_PARAMETERS = 36_905_341  # with each BatchNorm folded into a bias
ANCHORS = (
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Module:
    return yolov7_parts.Conv(c_in, c_out, kernel, stride, nn.SiLU())


class PyramidBlock(nn.Module):
    """Spatial pyramid pooling in one of two branches (SPPCSPC)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(
            conv(c_in, c_out, 1), conv(c_out, c_out, 3), conv(c_out, c_out, 1)
        )
        self.pools = nn.ModuleList(pyramid(kernel) for kernel in (5, 9, 13))
        self.leave = nn.Sequential(conv(4 * c_out, c_out, 1), conv(c_out, c_out, 3))
        self.beside = conv(c_in, c_out, 1)
        self.join = conv(2 * c_out, c_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.enter(x)
        pooled = self.leave(torch.cat([y, *(pool(y) for pool in self.pools)], 1))
        out: torch.Tensor = self.join(torch.cat((pooled, self.beside(x)), 1))
        return out


def elan(c_in: int, width: int, c_out: int) -> list[Row]:
    return [
        (-1, conv(c_in, width, 1)),
        (-2, conv(c_in, width, 1)),
        *((-1, conv(width, width, 3)) for _ in range(4)),
        ([-1, -3, -5, -6], Concat()),
        (-1, conv(4 * width, c_out, 1)),
    ]


def elan_of_head(c_in: int, width: int, inner: int, c_out: int) -> list[Row]:
    return [
        (-1, conv(c_in, width, 1)),
        (-2, conv(c_in, width, 1)),
        (-1, conv(width, inner, 3)),
        *((-1, conv(inner, inner, 3)) for _ in range(3)),
        ([-1, -2, -3, -4, -5, -6], Concat()),
        (-1, conv(4 * inner + 2 * width, c_out, 1)),
    ]


def down(channels: int, width: int, *beside: int) -> list[Row]:
    """Halves the sides, by pooling and by a convolution; `beside`: rows that are joined too."""
    return [
        (-1, nn.MaxPool2d(2, 2)),
        (-1, conv(channels, width, 1)),
        (-3, conv(channels, width, 1)),
        (-1, conv(width, width, 3, 2)),
        ([-1, -3, *beside], Concat()),
    ]


def rows() -> list[Row]:
    backbone: list[Row] = [
        (-1, conv(3, 32, 3)),
        (-1, conv(32, 64, 3, 2)),
        (-1, conv(64, 64, 3)),
        (-1, conv(64, 128, 3, 2)),
        *elan(128, 64, 256),  # ends in row 11
        *down(256, 128),
        *elan(256, 128, 512),  # row 24
        *down(512, 256),
        *elan(512, 256, 1024),  # row 37
        *down(1024, 512),
        *elan(1024, 256, 1024),  # row 50
    ]
    head: list[Row] = [
        (-1, PyramidBlock(1024, 512)),  # row 51
        *up(conv, 512, 256, 37, 1024),
        *elan_of_head(512, 256, 128, 256),  # row 63
        *up(conv, 256, 128, 24, 512),
        *elan_of_head(256, 128, 64, 128),  # row 75
        *down(128, 128, 63),
        *elan_of_head(512, 256, 128, 256),  # row 88
        *down(256, 256, 51),
        *elan_of_head(1024, 512, 256, 512),  # row 101
        (75, conv(128, 256, 3)),
        (88, conv(256, 512, 3)),
        (101, conv(512, 1024, 3)),
        ([102, 103, 104], Detect((256, 512, 1024), ANCHORS)),
    ]
    return backbone + head


def network() -> nn.Module:
    table = rows()
    assert len(table) == 106
    return yolov7_parts.network(table, CONVOLUTIONS, FUSED_PARAMETERS)


def build(path: Path) -> None:
    yolov7_parts.build("yolov7", network(), path)
