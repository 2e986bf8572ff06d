"""The MLP 10-64-32-1 with seeded random weights; input `x`, N x 10, output `y`, N x 1."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from networks.export import export, seeded


def mlp(seed: int = 2) -> nn.Module:
    net = nn.Sequential(
        nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)
    )
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.uniform_(-0.3, 0.3, generator=generator)
    return net.eval()


def build(path: Path) -> None:
    x = torch.empty(2, 10).normal_(generator=seeded(1))
    export("mlp", mlp(), {"x": x}, ["y"], path)
