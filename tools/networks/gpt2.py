"""GPT-2 small, one step of decoding with its cache, with seeded random weights.

Inputs: `token` and `position`, N x 1 int64; of layer L `key.L` and `value.L`, N x 12 x past x 64,
what came before. Outputs: `logits`, N x 50257; `key.L.now` and `value.L.now`, one token longer.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from networks.export import export, seeded

LAYERS, HEADS, WIDTH, HIDDEN = 12, 12, 768, 3072
VOCABULARY, POSITIONS = 50257, 1024
PARAMETERS = 124_439_808
EPSILON = 1e-5
CACHE = [f"{part}.{layer}" for layer in range(LAYERS) for part in ("key", "value")]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH, EPSILON)
        self.queries_keys_values = nn.Linear(WIDTH, 3 * WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        self.expand = nn.Linear(WIDTH, HIDDEN)
        self.gelu = nn.GELU(approximate="tanh")
        self.reduce = nn.Linear(HIDDEN, WIDTH)

    def forward(
        self, x: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        parts = self.queries_keys_values(self.attention_norm(x)).chunk(3, -1)
        q, k, v = (p.view(x.shape[0], 1, HEADS, WIDTH // HEADS).transpose(1, 2) for p in parts)
        key, value = torch.cat((key, k), 2), torch.cat((value, v), 2)
        scores = q @ key.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)
        x = x + self.output((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        x = x + self.reduce(self.gelu(self.expand(self.norm(x))))
        return x, key, value


class Gpt2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, EPSILON)

    def forward(
        self, token: torch.Tensor, position: torch.Tensor, *cache: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        x = self.tokens(token) + self.positions(position)
        now = []
        for layer, block in enumerate(self.blocks):
            x, *held = block(x, cache[2 * layer], cache[2 * layer + 1])
            now += held
        logits = nn.functional.linear(self.norm(x), self.tokens.weight)[:, 0]
        return logits, *now


def gpt2(seed: int = 2) -> nn.Module:
    """As GPT-2 is initialised, with the products into the residual path scaled by its depth."""
    net = Gpt2()
    generator = seeded(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "norm" in name:
                continue
            deep = name.endswith(("output.weight", "reduce.weight"))
            deviation = 0.02 / math.sqrt(2 * LAYERS) if deep else 0.02
            parameter.normal_(0.0, deviation, generator=generator)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS
    return net.eval()


def inputs(batch: int, past: int, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = seeded(seed)
    made = {
        "token": torch.randint(0, VOCABULARY, (batch, 1), generator=generator),
        "position": torch.full((batch, 1), past),
    }
    shape = (batch, HEADS, past, WIDTH // HEADS)
    return made | {name: torch.empty(shape).normal_(generator=generator) for name in CACHE}


def build(path: Path) -> None:
    outputs = ["logits", *(f"{name}.now" for name in CACHE)]
    axes: dict[str, dict[int, str]] = {
        name: {0: "batch"} for name in ("token", "position", "logits")
    }
    axes |= {name: {0: "batch", 2: "past"} for name in CACHE}
    axes |= {f"{name}.now": {0: "batch", 2: "length"} for name in CACHE}
    export("gpt2", gpt2(), inputs(2, 5), outputs, path, dynamic=axes)
