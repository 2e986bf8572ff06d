"""The demo's material: photographs, the rounding bound, the peers' scores and clocks."""

from __future__ import annotations

import importlib
import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.peers
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def load():
    """Imports a script of tools/ or benchmarks/ by name."""
    pytest.importorskip("torch")
    folders = [str(ROOT / "tools"), str(ROOT / "benchmarks")]
    sys.path[:0] = folders
    yield importlib.import_module
    for folder in folders:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def photos(load) -> ModuleType:
    pytest.importorskip("skimage")
    return load("make_photos")


@pytest.fixture(scope="module")
def peers(load) -> ModuleType:
    return load("peers")


@pytest.fixture(scope="module")
def made(photos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    photos.make(folder, {"calibration": 11, "heldout": 10})
    return folder


# Photographs ----------------------------------------------------------------------------------


def test_no_photograph_is_on_both_sides(photos):
    names = {side: {p.name for p in photos.photographs(side)} for side in photos.COUNTS}
    assert names["calibration"].isdisjoint(names["heldout"])
    assert {"motorcycle_left.png", "motorcycle_right.png"} <= names["calibration"]  # one scene


def test_crops_are_the_same_again_and_use_every_photograph(photos):
    first, records = photos.crops("heldout", 9)
    again, _ = photos.crops("heldout", 9)
    assert np.array_equal(first, again)
    assert {r["photograph"] for r in records} == {p.name for p in photos.photographs("heldout")}
    other, _ = photos.crops("heldout", 9, seed=photos.SEED + 1)
    assert not np.array_equal(first, other)


def test_a_crop_is_where_the_manifest_says(photos, made):
    crop = json.loads((made / "manifest.json").read_text())["sides"]["calibration"]["crops"][10]
    path = next(p for p in photos.photographs("calibration") if p.name == crop["photograph"])
    size = (photos.SIZE, photos.SIZE)
    picture = Image.open(path).convert("RGB")
    expected = np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box=tuple(crop["box"])))
    actual = np.asarray(Image.open(made / crop["file"]))
    assert np.array_equal(actual[:, ::-1] if crop["mirrored"] else actual, expected)


@pytest.mark.parametrize(("side", "count"), [("calibration", 11), ("heldout", 10)])
def test_npz_holds_the_pngs_preprocessed(made, side, count):
    files = sorted((made / side).glob("*.png"))
    arrays = np.load(made / f"{side}.npz")
    assert arrays["input"].shape == (count, 3, 224, 224) and len(files) == count
    assert arrays["input"].dtype == np.float32
    for file, array in zip(files, arrays["input"], strict=True):
        pixels = np.asarray(Image.open(file), np.float32).transpose(2, 0, 1)
        assert np.array_equal(array, (pixels - np.float32(127)) / np.float32(128))


def test_preprocessing_file_keeps_its_schema(made):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "schemas" / "preprocessing.schema.json").read_text())
    file = json.loads((made / "preprocessing.json").read_text())
    jsonschema.validate(file, schema)
    for wrong in ({"std": [0.0, 1.0, 1.0]}, {"layout": "CHWN"}, {"colour": "RGB"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(file | wrong, schema)


# The rounding bound ---------------------------------------------------------------------------


@pytest.fixture
def small_network(tmp_path) -> Path:
    onnx = pytest.importorskip("onnx")
    generator = np.random.default_rng(3)

    def constant(name: str, *shape: int) -> onnx.TensorProto:
        values = (
            generator.uniform(0.1, 1.0, shape) if name == "var" else generator.normal(size=shape)
        )
        return onnx.numpy_helper.from_array(values.astype(np.float32), name)

    text = """<ir_version: 8, opset_import: ["": 17]>
    small (float[N,8,9,9] x) => (float[N,5] y) {
      c = Conv<pads = [0, 1, 2, 1], strides = [2, 1], group = 2>(x, w, b)
      n = BatchNormalization(c, gamma, beta, mean, var)
      low = Constant<value_float = 0.0>()
      high = Constant<value_float = 6.0>()
      r = Clip(n, low, high)
      s = Add(r, n)
      p = GlobalAveragePool(s)
      f = Flatten(p)
      y = Gemm<transB = 1>(f, v, d)
    }"""
    model = onnx.parser.parse_model(text)
    shapes = {"w": (6, 4, 3, 3), "b": (6,), "gamma": (6,), "beta": (6,), "mean": (6,), "var": (6,)}
    model.graph.initializer.extend(constant(name, *shape) for name, shape in shapes.items())
    model.graph.initializer.extend([constant("v", 5, 6), constant("d", 5)])
    onnx.checker.check_model(model)
    path: Path = tmp_path / "small.onnx"
    onnx.save(model, path)
    return path


def test_float32_runs_stay_within_the_bound_and_near_it(load, small_network):
    onnxruntime = pytest.importorskip("onnxruntime")
    x = np.random.default_rng(4).normal(size=(16, 8, 9, 9)).astype(np.float32)
    bound = load("rounding").bound(small_network, x)
    results = []
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(small_network, options)
        results.append(session.run(None, {"x": x})[0])
    difference = np.abs(results[0] - results[1])
    assert (difference <= bound).all()
    assert difference.max() > 0
    assert difference.max() > 1e-3 * bound.max()  # not so loose that it could not fail


def test_the_bound_knows_what_transformers_and_detectors_use(load, tmp_path):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    text = """<ir_version: 8, opset_import: ["": 17]>
    small (float[2,16,64] x) => (float[2,63,16,1] y) {
      q = MatMul(x, w)
      t = Transpose<perm = [0, 2, 1]>(x)
      scores = MatMul(q, t)
      scale = Constant<value_float = 8.0>()
      scaled = Div(scores, scale)
      p = Softmax(scaled)
      mixed = MatMul(p, x)
      sum = Add(mixed, x)
      n = LayerNormalization<axis = -1>(sum, gamma, beta)
      e = Erf(n)
      g = Mul(e, n)
      s = Sigmoid(g)
      silu = Mul(s, g)
      h = HardSigmoid(silu)
      axes = Constant<value_ints = [3]>()
      u = Unsqueeze(h, axes)
      m = MaxPool<kernel_shape = [2, 1]>(u)
      back = Transpose<perm = [0, 2, 1, 3]>(m)
      low = LeakyRelu<alpha = 0.1>(back)
      y = Sub(low, back_shift)
    }"""
    model = onnx.parser.parse_model(text)
    generator = np.random.default_rng(5)
    for name, shape in {"w": (64, 64), "gamma": (64,), "beta": (64,), "back_shift": (1,)}.items():
        values = generator.normal(size=shape, scale=0.2).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.checker.check_model(model, full_check=True)
    path = tmp_path / "small.onnx"
    onnx.save(model, path)
    x = generator.normal(size=(2, 16, 64)).astype(np.float32)
    rounding = load("rounding")
    allowed = rounding.bound(path, x)
    exact = load("onnx.reference").ReferenceEvaluator(model).run(None, {"x": x})[0]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ours = session.run(None, {"x": x})[0]
    assert 1e-3 < rounding.over(allowed, ours, exact) <= 1
    assert rounding.over(allowed, session.run(None, {"x": x * np.float32(1.0001)})[0], exact) > 1
    ours[1, 2, 3, 0] = np.nan
    assert rounding.over(allowed, ours, exact) == float("inf")


def test_bound_names_the_op_it_does_not_know(load, small_network):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(small_network)
    model.graph.node[-4].op_type = "Mod"
    model.graph.node[-4].name = "here"
    onnx.save(model, small_network)
    with pytest.raises(ValueError, match="Mod node here"):
        load("rounding").bound(small_network, np.zeros((1, 8, 9, 9), np.float32))


# Scores and clocks ----------------------------------------------------------------------------


def test_scores_by_hand(peers):
    reference = np.array([[9.0, 0, 0, 0], [1.0, 0.9, 0.9, 0.9], [0, 9.0, 0, 0]], np.float32)
    other = np.array([[9.0, 0, 0, 0], [0.0, 0.9, 0.9, 0.9], [9.0, 0, 0, 0]], np.float32)
    score = peers.score(reference, other)
    assert score.agreement == pytest.approx(1 / 3)
    assert (score.confident, score.confident_count) == (0.5, 2)  # the second is a guess: 0.27
    signal, noise = 81 + 1 + 3 * 0.81 + 81, 1 + 81 + 81
    assert score.sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=1e-5)
    assert peers.sqnr_db(reference, reference) == float("inf")


def test_latency_times_everyone_equally_often_and_in_turn(peers):
    calls: list[str] = []
    x = np.zeros((1, 1), np.float32)

    def runner(name: str):
        return peers.Runner(name, lambda array: (calls.append(name), array)[1])

    times = peers.latency([runner("a"), runner("b")], x, rounds=4, warm=1, calls=3)
    assert {name: len(result.times) for name, result in times.items()} == {"a": 12, "b": 12}
    blocks = [name for name, _ in itertools.groupby(calls)]
    assert calls[:8] == ["a"] * 4 + ["b"] * 4
    assert blocks == list("ababa")  # the order turns, so neighbours join
    assert times["a"].best <= times["a"].median


def test_a_peer_is_quantized_once(peers, monkeypatch, tmp_path):
    made = []

    def maker(model: Path, calibration: dict[str, np.ndarray], output: Path) -> None:
        made.append(calibration["input"].shape)
        output.write_bytes(b"model")

    monkeypatch.setitem(peers.INT8_PEERS, "ORT INT8 MinMax", (".onnx", maker))
    model, data = tmp_path / "m.onnx", tmp_path / "c.npz"
    model.write_bytes(b"one")
    np.savez(data, input=np.zeros((2, 3), np.float32))
    first = peers.cached(model, data, tmp_path / "cache", "ORT INT8 MinMax")
    assert peers.cached(model, data, tmp_path / "cache", "ORT INT8 MinMax") == first
    assert made == [(2, 3)]
    model.write_bytes(b"another")
    assert peers.cached(model, data, tmp_path / "cache", "ORT INT8 MinMax") != first


SCRIPTS = ["tools/make_models.py", "tools/make_photos.py", "benchmarks/peers.py"]

NO_PATHS = ["benchmarks/models.py", "examples/demo_models.py"]


@pytest.mark.parametrize("script", NO_PATHS)
def test_help_lists_the_networks(script):
    done = subprocess.run(
        [sys.executable, str(ROOT / script), "no-such-network"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "unknown: no-such-network" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_what_is_written(script):
    done = subprocess.run(
        [sys.executable, str(ROOT / script), "--help"], capture_output=True, text=True, check=True
    )
    assert "build/" in done.stdout
