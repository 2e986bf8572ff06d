"""AWQ against its definition in NumPy float64, and what it gains on data that it has not seen."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import octavo

CHANNELS, OUTPUTS = 64, 24


def network(path):
    """layer norm with a few large gains, then two products of it."""
    rng = np.random.default_rng(5)
    gain = rng.uniform(0.5, 1, CHANNELS).astype(np.float32)
    gain[[3, 20, 41]] *= 30
    weights = {
        "gain": gain,
        "shift": np.zeros(CHANNELS, np.float32),
        "w1": rng.standard_normal((CHANNELS, OUTPUTS)).astype(np.float32),
        "w2": rng.standard_normal((CHANNELS, OUTPUTS)).astype(np.float32),
    }
    nodes = [
        helper.make_node("LayerNormalization", ["x", "gain", "shift"], ["n"], "norm", axis=-1),
        helper.make_node("MatMul", ["n", "w1"], ["y1"], "p1"),
        helper.make_node("MatMul", ["n", "w2"], ["y2"], "p2"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["M", CHANNELS])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["M", OUTPUTS]) for y in ("y1", "y2")],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return weights


def normed(x, weights):
    x = x.astype(np.float64)
    centred = x - x.mean(1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(1, keepdims=True) + 1e-5) * weights["gain"]


def rounded(w, group):
    """Symmetric 8 bits, a scale for each group of inputs of each output."""
    result = np.empty_like(w)
    for begin in range(0, len(w), group):
        part = w[begin : begin + group]
        step = np.abs(part).max(0) / 127
        result[begin : begin + group] = np.rint(part / step) * step
    return result


def samples(count, seed):
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((8, CHANNELS)).astype(np.float32),) for _ in range(count)]


def test_the_exponent_is_the_one_of_least_error(tmp_path):
    weights = network(tmp_path / "float.onnx")
    data = samples(20, 1)
    result = octavo.quantize(
        octavo.load_onnx(tmp_path / "float.onnx"),
        data,
        mode="weight_only",
        group_size=16,
        weights="awq",
    )
    x = normed(np.concatenate([s[0] for s in data]), weights)
    w = np.concatenate([weights["w1"], weights["w2"]], 1).astype(np.float64)
    signal = np.square(x @ w).sum()

    def sqnr(alpha):
        s = np.maximum(np.abs(x).mean(0), 1e-4) ** alpha
        s /= np.sqrt(s.min() * s.max())
        error = x @ (rounded(w * s[:, None], 16) / s[:, None] - w)
        return 10 * np.log10(signal / np.square(error).sum())

    found = {round(alpha, 2): sqnr(alpha) for alpha in np.arange(0, 1.01, 0.05)}
    (entry,) = result.record["quantization"]["smoothed"]
    assert entry["products"] == ["p1", "p2"]
    assert entry["by"] == "norm"
    # In float32: a weight next to a tie may go the other way, one of a thousand or so.
    assert entry["sqnr_db_before"] == pytest.approx(found[0.0], abs=0.05)
    assert entry["sqnr_db_after"] == pytest.approx(max(found.values()), abs=0.05)
    assert found[round(entry["alpha"], 2)] == pytest.approx(max(found.values()), abs=0.1)
    assert entry["sqnr_db_after"] > entry["sqnr_db_before"] + 3


@pytest.mark.parametrize("weights", ["awq", "awq+gptq"])
def test_it_gains_on_other_data(tmp_path, weights):
    network(tmp_path / "float.onnx")
    graph = octavo.load_onnx(tmp_path / "float.onnx")
    judging = np.concatenate([s[0] for s in samples(40, 2)])
    wanted = np.concatenate(octavo.compile(graph)(judging), 1).astype(np.float64)
    error = {}
    for method in ("max", weights):
        result = octavo.quantize(
            graph, samples(20, 1), mode="weight_only", bits=4, group_size=16, weights=method
        )
        got = np.concatenate(octavo.compile(result)(judging), 1)
        error[method] = np.square(got - wanted).sum()
    print(error)
    assert error[weights] < 0.5 * error["max"]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"mode": "static", "weights": "awq"}, "awq: is not for mode static"),
        ({"mode": "dynamic", "weights": "awq"}, "awq: is not for mode dynamic"),
        ({"mode": "weight_only", "weights": "adaround"}, "adaround: is not for mode weight_only"),
        ({"mode": "dynamic", "weights": "adaround"}, "adaround: is not for mode dynamic"),
    ],
)
def test_methods_have_their_modes(tmp_path, keywords, message):
    network(tmp_path / "float.onnx")
    with pytest.raises(octavo.UserError, match=message):
        octavo.quantize(octavo.load_onnx(tmp_path / "float.onnx"), samples(2, 1), **keywords)


def test_awq_needs_data(tmp_path):
    network(tmp_path / "float.onnx")
    with pytest.raises(octavo.UserError, match="awq fits weights to data"):
        octavo.quantize(
            octavo.load_onnx(tmp_path / "float.onnx"), mode="weight_only", weights="awq"
        )
