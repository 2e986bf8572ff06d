"""The networks of tools/make_models.py: their check values, and their float answers.

Octavo's program against ONNX Runtime, each output within the bound that tools/rounding.py derives
from the network; and an input that is off by a thousandth leaves that bound, so it can fail.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import octavo

pytestmark = pytest.mark.peers
ROOT = Path(__file__).resolve().parents[2]
Feeds = dict[str, np.ndarray]


@pytest.fixture(scope="module", autouse=True)
def tools():
    pytest.importorskip("torch")
    sys.path.insert(0, str(ROOT / "tools"))
    yield
    sys.path.remove(str(ROOT / "tools"))


def model(name: str) -> Path:
    import make_models

    return make_models.make(name, ROOT / "build/models")


def noise(name: str, *shape: int) -> Feeds:
    return {name: np.random.default_rng(7).standard_normal(shape).astype(np.float32)}


def picture(name: str, *shape: int) -> Feeds:
    return {name: np.random.default_rng(7).random(shape, np.float32)}


def tokens(batch: int, length: int) -> Feeds:
    random = np.random.default_rng(7)
    mask = np.ones((batch, length), np.int64)
    mask[-1, length // 2 :] = 0
    return {"input_ids": random.integers(1000, 30000, (batch, length)), "attention_mask": mask}


def page(width: int) -> Feeds:
    import ocr_pages

    return {"x": ocr_pages.detector_input(ocr_pages.pages("heldout", 1)[0])[..., :96, :width]}


def step(past: int) -> Feeds:
    from networks import gpt2

    return {name: x.numpy() for name, x in gpt2.inputs(1, past).items()}


# Two shapes where dimensions are dynamic: one program serves both.
CASES: dict[str, Callable[[], list[Feeds]]] = {
    "resnet50": lambda: [noise("input", 2, 3, 224, 224), noise("input", 1, 3, 224, 224)],
    "mobilenet-v2": lambda: [noise("input", 2, 3, 224, 224), noise("input", 1, 3, 224, 224)],
    "yolov7-tiny": lambda: [picture("input", 1, 3, 640, 640)],
    "yolov7": lambda: [picture("input", 1, 3, 640, 640)],
    "mlp": lambda: [noise("x", 200, 10), noise("x", 3, 10)],
    "gpt2": lambda: [step(20), step(21)],
    "encoder": lambda: [noise("hidden", 1, 128, 384)],
    "minilm": lambda: [tokens(1, 9), tokens(3, 24)],
    "ocr-detector": lambda: [page(192), page(160)],
    "ocr-recogniser": lambda: [noise("x", 1, 3, 48, 120), noise("x", 2, 3, 48, 328)],
    "ocr-orientation": lambda: [noise("x", 1, 3, 48, 192), noise("x", 2, 3, 48, 96)],
}


@cache
def session(name: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(model(name)), providers=["CPUExecutionProvider"])


def run(name: str, feeds: Feeds) -> np.ndarray:
    return session(name).run(None, feeds)[0]


def disturbed(feeds: Feeds) -> Feeds:
    """Every float off by a thousandth, or one token another."""
    out = {}
    for name, x in feeds.items():
        out[name] = x.copy()
        if x.dtype == np.float32:
            out[name] *= np.float32(1.001)
        elif name == "input_ids":
            out[name][..., 1] += 1
    return out


@pytest.mark.parametrize("name", CASES)
def test_float_answers_are_those_of_onnxruntime(name):
    import rounding

    program = octavo.compile(octavo.load_onnx(str(model(name))))
    for feeds in CASES[name]():
        ours = program(feeds)[0]
        wanted = run(name, feeds)
        allowed = rounding.bound(model(name), feeds)
        assert ours.shape == wanted.shape
        assert rounding.over(allowed, ours, wanted) <= 1
    assert rounding.over(allowed, run(name, disturbed(feeds)), wanted) > 1


def macs(path: Path) -> int:
    """Multiplications of convolutions and of products with constant weights, at batch 1."""
    loaded = onnx.load(path)
    for value in loaded.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del loaded.graph.output[0].type.tensor_type.shape.dim[0]
    inferred = onnx.shape_inference.infer_shapes(loaded, data_prop=True).graph
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.value_info
    }
    weights = {t.name: numpy_helper.to_array(t) for t in inferred.initializer}
    total = 0
    for node in inferred.node:
        if node.op_type == "Conv":
            weight = weights[node.input[1]]
            total += weight.size * int(np.prod(shapes[node.output[0]][2:]))
        elif node.op_type == "Gemm":
            total += weights[node.input[1]].size
        elif node.op_type == "MatMul" and node.input[1] in weights:
            rows = int(np.prod(shapes[node.output[0]][:-1]))
            total += weights[node.input[1]].size * rows
    return total


def constant_sizes(path: Path, op: str) -> list[int]:
    loaded = onnx.load(path).graph
    sizes = {t.name: int(np.prod(t.dims)) for t in loaded.initializer}
    return [sizes[node.input[1]] for node in loaded.node if node.op_type == op]


def published_macs() -> dict[str, int]:
    from networks import imagenet, transformer

    return {
        "resnet50": imagenet.RESNET50_MACS,
        "mobilenet-v2": imagenet.MOBILENET_V2_MACS,
        "encoder": transformer.PRODUCT_MACS,
    }


@pytest.mark.parametrize("name", ["resnet50", "mobilenet-v2", "encoder"])
def test_networks_have_the_published_size(name):
    assert macs(model(name)) == published_macs()[name]


def test_yolov7_tiny_has_its_published_size():
    from networks import yolov7_parts, yolov7_tiny

    sizes = constant_sizes(model("yolov7-tiny"), "Conv")
    assert len(sizes) == yolov7_tiny.CONVOLUTIONS == 58
    assert yolov7_parts.fused_parameters(yolov7_parts.Table(yolov7_tiny.rows())) == 6_219_709
    assert run("yolov7-tiny", noise("input", 1, 3, 640, 640)).shape == (1, 25200, 85)


@pytest.mark.parametrize("name", ["resnet50", "mobilenet-v2", "yolov7-tiny", "encoder"])
def test_random_networks_stay_sane(name):
    """Every product's output has the size that a trained network's has."""
    loaded = onnx.load(model(name))
    made = [n.output[0] for n in loaded.graph.node if n.op_type in ("Conv", "MatMul", "Gemm")]
    del loaded.graph.output[:]
    loaded.graph.output.extend(onnx.helper.make_empty_tensor_value_info(m) for m in made)
    feeds = noise("input", 1, 3, 224, 224)
    if name == "encoder":
        feeds = noise("hidden", 1, 128, 384)
    elif name == "yolov7-tiny":
        feeds = picture("input", 1, 3, 640, 640)
    runner = onnxruntime.InferenceSession(
        loaded.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for value in runner.run(None, feeds):
        assert 0.01 < value.std() < 30
        assert np.abs(value).max() < 60 * value.std()


def test_a_failed_export_leaves_no_file(tmp_path, monkeypatch):
    import torch

    from networks import export

    monkeypatch.setattr(export, "difference", lambda *_: 1.5)
    path = tmp_path / "net.onnx"
    with pytest.raises(RuntimeError, match=r"net: .* differ by 1\.50 of the bound"):
        export.export("net", torch.nn.ReLU(), {"x": torch.zeros(2, 3)}, ["y"], path)
    assert list(tmp_path.iterdir()) == []
