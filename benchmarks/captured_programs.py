"""What benchmarks/capture.py captures: each function makes one program and its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Make = Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]


def chain_of_adds() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    def chain(x: torch.Tensor) -> torch.Tensor:
        for _ in range(800):
            x = x + 1
        return x

    return chain, (torch.ones(4),)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, width * 2)
        self.act = nn.GELU()
        self.down = nn.Linear(width * 2, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.act(self.up(self.norm(x))))


class Blocks(nn.Module):
    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(width) for _ in range(count)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def mlp() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return Blocks(48, 16), (torch.randn(2, 16),)


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != width * 4:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, width * 4, 1, stride, bias=False), nn.BatchNorm2d(width * 4)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet50(nn.Module):
    """161 parameters, as the one of He et al. (2016); `width` of the first stage is 64 there."""

    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs, stages = width, []
        for n, blocks in enumerate((3, 4, 6, 3)):
            stage = []
            for block in range(blocks):
                stage.append(Bottleneck(inputs, width * 2**n, 2 if n and not block else 1))
                inputs = width * 2**n * 4
            stages.append(nn.Sequential(*stage))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return ResNet50().eval(), (torch.randn(1, 3, 32, 32),)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.1)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = (self.split(f(x)) for f in (self.query, self.key, self.value))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + mask
        context = (self.dropout(scores.softmax(-1)) @ v).transpose(1, 2).reshape(x.shape)
        return self.norm(x + self.dropout(self.out(context)))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.up = nn.Linear(width, width * 4)
        self.down = nn.Linear(width * 4, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.attention(x, mask)
        h = nn.functional.gelu(self.up(x))
        return self.norm(x + self.dropout(self.down(h)))


class Bert(nn.Module):
    """Twelve layers, as BERT-base (Devlin et al. 2018), 199 parameters; narrower."""

    def __init__(self, width: int = 32, heads: int = 4, layers: int = 12) -> None:
        super().__init__()
        self.words = nn.Embedding(100, width)
        self.positions = nn.Embedding(64, width)
        self.types = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList([Layer(width, heads) for _ in range(layers)])
        self.pooler = nn.Linear(width, width)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        places = torch.arange(ids.shape[1], device=ids.device)
        kinds = torch.zeros_like(ids)
        x = self.norm(self.words(ids) + self.positions(places) + self.types(kinds))
        bias = (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for layer in self.layers:
            x = layer(x, bias)
        return {"hidden": x, "pooled": torch.tanh(self.pooler(x[:, 0]))}


def bert() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    ids = torch.randint(0, 100, (2, 16), generator=torch.Generator().manual_seed(0))
    return Bert().eval(), (ids, torch.ones_like(ids))


def adam() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(8, 8, generator=generator)) for _ in range(161)]
    for parameter in parameters:
        parameter.grad = torch.randn(8, 8, generator=generator)
    optimizer = torch.optim.Adam(parameters, lr=1e-3)

    def step() -> list[torch.Tensor]:
        optimizer.step()
        return [p.detach() for p in parameters]

    return step, ()


def add_one() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return (lambda x: x + 1), (torch.ones(4),)


# --- backend octavo: forward and backward -------------------------------------------------------
def small_mlp() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    layers = [nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)]
    return nn.Sequential(*layers), (torch.randn(200, 10, requires_grad=True),)


def encoder() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Without dropout: the answer has to be the same for all."""
    layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 6), (torch.randn(2, 16, 64, requires_grad=True),)


def resnet_parameters() -> list[nn.Parameter]:
    """The 161 of ResNet-50, 25.6 million numbers, with gradients."""
    with torch.device("meta"):
        shapes = [p.shape for p in ResNet50(64, 1000).parameters()]
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return parameters
