"""Post-training quantization from Python: its files in ONNX Runtime, its record, its errors."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import octavo
from conftest import printed_seed

ROOT = Path(__file__).resolve().parents[2]


def two_layers(seed: int) -> onnx.ModelProto:
    """Conv (or grouped, or depthwise), Relu, Conv: one quantized tensor between two products."""
    random = np.random.default_rng(seed)
    channels, group = int(random.choice([4, 8])), int(random.choice([1, 2, 4]))
    kernel, pad = int(random.choice([1, 3])), int(random.integers(0, 2))
    weights = {
        "w1": random.normal(0, 0.4, (channels, 4 // group, kernel, kernel)),
        "b1": random.normal(0, 0.4, (channels,)),
        "w2": random.normal(0, 0.4, (5, channels, 3, 3)),
    }
    nodes = [
        helper.make_node(
            "Conv", ["x", "w1", "b1"], ["c"], "one", pads=[pad] * 4, strides=[1, 2], group=group
        ),
        helper.make_node("Relu", ["c"], ["h"], "relu"),
        helper.make_node("Conv", ["h", "w2"], ["y"], "two", pads=[1] * 4),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 10, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def with_output(path: Path, name: str, dtype: int) -> onnx.ModelProto:
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info(name, dtype, None))
    return model


@pytest.mark.parametrize("weights", ["gptq", "mse"])
def test_onnx_runtime_computes_the_same_within_one_step(tmp_path, weights):
    for _ in range(4):
        seed = printed_seed()
        random = np.random.default_rng(seed)
        onnx.save(two_layers(seed), tmp_path / "float.onnx")
        samples = [random.normal(size=(1, 4, 10, 12)).astype(np.float32) for _ in range(8)]
        graph = octavo.load_onnx(str(tmp_path / "float.onnx"))
        result = octavo.quantize(graph, samples, calibrator="max", weights=weights)
        octavo.export_onnx(result, str(tmp_path / "int8.onnx"))
        model = with_output(tmp_path / "int8.onnx", "h/quantized", TensorProto.UINT8)
        onnx.save(model, tmp_path / "both.onnx")
        constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        step = float(constants["h/scale"])
        w = constants["w2/quantized"] * constants["w2/scale"][:, None, None, None]
        program = octavo.compile(tmp_path / "both.onnx")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(str(tmp_path / "both.onnx"), options)
        for x in samples:
            y, h = program(x)
            want_y, want_h = session.run(None, {"x": x})
            flips = np.abs(h.astype(int) - want_h)
            assert flips.max() <= 1
            # A value that float32 rounding puts on the other side of a tie moves each output by at
            # most its weight times the step; sums of up to 72 products round by 1e-5 of the
            # largest.
            moved = step * np.abs(w).max() * min(int(flips.sum()), w[0].size)
            assert np.abs(y - want_y).max() <= moved + 1e-5 * np.abs(want_y).max()
            assert flips.mean() < 0.01


def test_record_says_sqnr_of_tensors_and_weights(tmp_path):
    onnx.save(two_layers(1), tmp_path / "float.onnx")
    random = np.random.default_rng(1)
    samples = [random.normal(size=(1, 4, 10, 12)).astype(np.float32) for _ in range(4)]
    graph = octavo.load_onnx(str(tmp_path / "float.onnx"))
    record = octavo.quantize(graph, samples, calibrator="max", compare=["mse"]).record
    assert [layer["name"] for layer in record["layers"]] == ["one", "two"]
    assert [(t["name"], t["layer"]) for t in record["tensors"]] == [
        ("x", ""),
        ("h", "one"),
        ("y", "two"),
    ]
    for name in ("max", "mse"):
        assert all(t["by_calibrator"][name]["sqnr_db"] > 20 for t in record["tensors"])
        assert all(t["by_calibrator"][name]["weights_sqnr_db"] > 20 for t in record["layers"])
    assert record["quantization"]["weights"] == "gptq"
    assert record["quantization"]["fitted_samples"] == 4
    assert record["warnings"] == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "there is no sample"),
        ([np.zeros((1, 3, 10, 12), np.float32)], "expects f32\\[N, 4, 10, 12\\]"),
        ([np.zeros((1, 4, 10, 12), np.float64)], "f64"),
        ([np.full((1, 4, 10, 12), np.nan, np.float32)], "NaN"),
    ],
)
def test_data_that_do_not_fit_are_one_clear_error(tmp_path, data, message):
    onnx.save(two_layers(1), tmp_path / "float.onnx")
    graph = octavo.load_onnx(str(tmp_path / "float.onnx"))
    with pytest.raises(octavo.UserError, match=message):
        octavo.quantize(graph, data)


def test_quantized_input_and_unknown_methods_are_refused(tmp_path):
    onnx.save(two_layers(1), tmp_path / "float.onnx")
    samples = [np.ones((1, 4, 10, 12), np.float32)]
    graph = octavo.load_onnx(str(tmp_path / "float.onnx"))
    quantized = octavo.quantize(graph, samples)
    with pytest.raises(octavo.UserError, match="is quantized already"):
        octavo.quantize(quantized, samples)
    with pytest.raises(octavo.UserError, match="use one of: max, mse, gptq"):
        octavo.quantize(graph, samples, weights="best")


def test_command_takes_weights_and_rules(tmp_path):
    onnx.save(two_layers(1), tmp_path / "float.onnx")
    random = np.random.default_rng(1)
    np.savez(tmp_path / "data.npz", x=random.normal(size=(4, 4, 10, 12)).astype(np.float32))
    rules = {"schema_version": 1, "rules": [{"name": "two", "precision": "float"}]}
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    arguments = ["float.onnx", "-o", "int8.onnx", "--data", "data.npz", "--weights", "gptq"]
    arguments += ["--rules", "rules.json", "--record", "run.json"]
    subprocess.run(["octavo", "quantize", *arguments], cwd=tmp_path, check=True)
    record = json.loads((tmp_path / "run.json").read_text())
    assert [layer["name"] for layer in record["layers"]] == ["one"]
    assert [s["node"] for s in record["quantization"]["skipped"]] == ["two"]
    initializers = {i.name for i in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    assert "w2" in initializers
    assert "w1/quantized" in initializers


def test_smoothing_moves_ranges_by_the_paper_s_formula(tmp_path):
    """NumPy in float64 computes the factors from the data, the gain and the weights; the file holds
    a norm divided and weights multiplied by them."""
    seed = printed_seed()
    random = np.random.default_rng(seed)
    gain = random.uniform(0.5, 1.5, 16) * np.where(np.arange(16) == 5, 20, 1)
    bias, w = random.normal(size=16), random.normal(size=(16, 8))
    gain, bias, w = (a.astype(np.float32) for a in (gain, bias, w))
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gain", "bias"], ["n"], "norm"),
        helper.make_node("MatMul", ["n", "w"], ["y"], "product"),
    ]
    graph = helper.make_graph(
        nodes,
        "smooth",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in (("gain", gain), ("bias", bias), ("w", w))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "float.onnx")
    x = random.normal(size=(24, 6, 16)).astype(np.float32)
    loaded = octavo.load_onnx(tmp_path / "float.onnx")
    options = {"calibrator": "max", "weights": "max", "bias_correction": False}
    samples = [one[None] for one in x]
    result = octavo.quantize(loaded, samples, smooth="folded", **options)
    (smoothed,) = result.record["quantization"]["smoothed"]
    assert (smoothed["by"], smoothed["products"]) == ("norm", ["product"])
    octavo.save(result, tmp_path / "int8.onnx")
    held = {
        i.name: numpy_helper.to_array(i).astype(np.float64)
        for i in onnx.load(tmp_path / "int8.onnx").graph.initializer
    }

    x = x.astype(np.float64)
    centred = x - x.mean(-1, keepdims=True)
    n = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * gain + bias
    alpha = smoothed["alpha"]
    logs = alpha * np.log(np.abs(n).max((0, 1))) - (1 - alpha) * np.log(np.abs(w).max(1))
    s = np.exp(logs - logs.mean())
    # float32: the norm sums 16 values twice, then a few operations; each at most half an ulp
    assert np.allclose(held["norm/gain/smoothed"] * s, gain, rtol=64 * 2**-24, atol=0)
    assert np.allclose(held["norm/bias/smoothed"] * s, bias, rtol=64 * 2**-24, atol=0)
    steps = held["w/smoothed/scale"]
    error = held["w/smoothed/quantized"] * steps - w * s[:, None]
    assert (np.abs(error) <= steps * (0.5 + 127 * 64 * 2**-24)).all()

    plain = octavo.quantize(loaded, samples, smooth="none", **options)
    sqnr = [r.record["calibrators"][0]["output_sqnr_db"] for r in (plain, result)]
    assert sqnr[1] > sqnr[0]
    with pytest.raises(octavo.UserError, match="'most' is not known"):
        octavo.quantize(loaded, samples, smooth="most")
