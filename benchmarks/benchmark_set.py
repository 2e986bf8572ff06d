"""The networks of the benchmarks: their files, inputs of a given batch, their torch modules."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))

Inputs = dict[str, NDArray[Any]]  # by name, in the model's order


@dataclass(frozen=True)
class Network:
    model: str  # of tools/make_models.py
    inputs: Callable[[int, np.random.Generator], Inputs]  # of a batch
    module: Callable[[], Any] | None = None  # the same network in torch
    ort: str = "ORT INT8 MinMax"  # the peers' own tools, of peers.py
    nncf: str = "NNCF INT8"
    batches: tuple[int, ...] = (1, 16)
    same_file_db: float | None = None  # SQNR of two runs of one Q/DQ file; None: by its noise


def _pictures(size: int) -> Callable[[int, np.random.Generator], Inputs]:
    def make(batch: int, random: np.random.Generator) -> Inputs:
        return {"input": random.random((batch, 3, size, size), np.float32)}

    return make


def _noise(name: str, *shape: int) -> Callable[[int, np.random.Generator], Inputs]:
    def make(batch: int, random: np.random.Generator) -> Inputs:
        return {name: random.standard_normal((batch, *shape), np.float32)}

    return make


def _sentences(length: int) -> Callable[[int, np.random.Generator], Inputs]:
    def make(batch: int, random: np.random.Generator) -> Inputs:
        ids = random.integers(1000, 30000, (batch, length))
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    return make


def _step(past: int) -> Callable[[int, np.random.Generator], Inputs]:
    def make(batch: int, random: np.random.Generator) -> Inputs:
        from networks import gpt2

        shape = (batch, gpt2.HEADS, past, gpt2.WIDTH // gpt2.HEADS)
        return {
            "token": random.integers(0, gpt2.VOCABULARY, (batch, 1)),
            "position": np.full((batch, 1), past),
        } | {name: random.standard_normal(shape, np.float32) for name in gpt2.CACHE}

    return make


def _pages(side: str, batch: int) -> Inputs:
    import ocr_pages

    pages = [ocr_pages.detector_input(page) for page in ocr_pages.pages(side)]
    height, width = (min(page.shape[axis] for page in pages) for axis in (2, 3))
    several = [pages[n % len(pages)][:, :, :height, :width] for n in range(batch)]
    return {"x": np.concatenate(several)}


def _module(file: str, function: str, *args: Any) -> Callable[[], Any]:
    """What a function of tools/networks/ gives, which is imported when it is called."""

    def make() -> Any:
        import importlib

        return getattr(importlib.import_module(f"networks.{file}"), function)(*args)

    return make


TRANSFORMER = {"ort": "ORT INT8 dynamic", "nncf": "NNCF INT8 transformer"}
_minilm = _module("transformer", "minilm")

NETWORKS = {
    "mlp": Network("mlp", _noise("x", 10), _module("mlp", "mlp"), batches=(200,)),
    "resnet50": Network(
        "resnet50",
        _noise("input", 3, 224, 224),
        _module("imagenet", "network", "resnet50"),
        same_file_db=20,
    ),
    "mobilenet-v2": Network(
        "mobilenet-v2",
        _noise("input", 3, 224, 224),
        _module("imagenet", "network", "mobilenet-v2"),
        same_file_db=20,
    ),
    "efficientnet-lite0": Network(
        "efficientnet-lite0", _noise("input", 3, 224, 224), _module("efficientnet", "network")
    ),
    "yolov7-tiny": Network(
        "yolov7-tiny", _pictures(640), _module("yolov7_tiny", "network"), same_file_db=20
    ),
    "yolov7": Network("yolov7", _pictures(640), _module("yolov7", "network")),
    "minilm-128": Network("minilm", _sentences(128), _minilm, **TRANSFORMER),
    "minilm-512": Network("minilm", _sentences(512), _minilm, **TRANSFORMER),
    "encoder": Network(
        "encoder",
        _noise("hidden", 128, 384),
        _module("transformer", "random_encoder"),
        same_file_db=20,
        **TRANSFORMER,
    ),
    "gpt2-step": Network("gpt2", _step(256), _module("gpt2", "gpt2"), **TRANSFORMER),
    "ocr-detector": Network("ocr-detector", lambda batch, _: _pages("heldout", batch)),
}


def model_file(name: str) -> Path:
    import make_models

    return make_models.make(NETWORKS[name].model, ROOT / "build/models")


def samples(name: str, batch: int, seed: int) -> Inputs:
    return NETWORKS[name].inputs(batch, np.random.default_rng(seed))
