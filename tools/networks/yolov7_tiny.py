"""yolov7-tiny, the deployed graph for 640 x 640, with seeded random weights: 78 rows, LeakyReLU."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from networks import yolov7_parts
from networks.yolov7_parts import Concat, Conv, Detect, Row, pyramid, up

CONVOLUTIONS = 58
FUSED_PARAMETERS = 6_219_709  # with each BatchNorm folded into a bias
ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)


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
        *up(Conv, 256, 128, 21, 256),
        *elan(256, 64, 128),  # row 47
        *up(Conv, 128, 64, 14, 128),
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
        ([74, 75, 76], Detect((128, 256, 512), ANCHORS)),
    ]
    return backbone + pooling + head


def network() -> nn.Module:
    table = rows()
    assert len(table) == 78
    return yolov7_parts.network(table, CONVOLUTIONS, FUSED_PARAMETERS)


def build(path: Path) -> None:
    yolov7_parts.build("yolov7-tiny", network(), path)
