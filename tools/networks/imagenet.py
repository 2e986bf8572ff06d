"""ResNet-50 and MobileNetV2 with seeded random weights: latency does not depend on what they mean.

BatchNorm holds the statistics of one batch of noise, so that activations stay in the range that a
trained network gives them. Input `input`, N x 3 x 224 x 224; output `logits`, N x 1000.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from networks.export import export, seeded

RESNET50_MACS = 4_089_184_256  # of convolutions and the classifier
MOBILENET_V2_MACS = 300_774_272


def conv_bn(
    c_in: int, c_out: int, kernel: int, stride: int = 1, *, groups: int = 1, eps: float = 1e-5
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out, eps=eps),
    )


class Bottleneck(nn.Module):
    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        c_out = 4 * width
        self.reduce = conv_bn(c_in, width, 1)
        self.spatial = conv_bn(width, width, 3, stride)
        self.expand = conv_bn(width, c_out, 1)
        self.shortcut = (
            conv_bn(c_in, c_out, 1, stride) if stride > 1 or c_in != c_out else nn.Identity()
        )
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.spatial(self.relu(self.reduce(x))))
        out: torch.Tensor = self.relu(self.expand(y) + self.shortcut(x))
        return out


class InvertedResidual(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [conv_bn(c_in, hidden, 1), nn.ReLU6()]
        layers += [conv_bn(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6()]
        layers += [conv_bn(hidden, c_out, 1)]
        self.branch = nn.Sequential(*layers)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.branch(x)
        return x + y if self.residual else y


def resnet50() -> nn.Module:
    layers: list[nn.Module] = [conv_bn(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(channels, width, stride if block == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


def mobilenet_v2() -> nn.Module:
    layers: list[nn.Module] = [conv_bn(3, 32, 3, 2), nn.ReLU6()]
    channels = 32
    rows = (  # expansion, channels, blocks, stride of the first
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    for expansion, out, blocks, stride in rows:
        for block in range(blocks):
            layers.append(InvertedResidual(channels, out, stride if block == 0 else 1, expansion))
            channels = out
    layers += [conv_bn(channels, 1280, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(1280, 1000))


def initialize(net: nn.Module, batch: torch.Tensor, seed: int) -> nn.Module:
    """He weights, BatchNorm with scales around 1 and the statistics of `batch`; in eval mode."""
    generator = seeded(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=generator)
                if module.bias is not None:
                    module.bias.normal_(0.0, 0.1, generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.2, generator=generator)
                module.bias.normal_(0.0, 0.1, generator=generator)
                module.momentum = None  # the plain mean over batches
        net.train()
        net(batch)
    return net.eval()


def network(name: str) -> nn.Module:
    make = {"resnet50": resnet50, "mobilenet-v2": mobilenet_v2}[name]
    return initialize(make(), torch.empty(4, 3, 224, 224).normal_(generator=seeded(1)), seed=2)


def build(name: str, path: Path) -> None:
    images = torch.empty(2, 3, 224, 224).normal_(generator=seeded(1))
    export(name, network(name), {"input": images}, ["logits"], path)
