"""Dynamic quantization: files of ONNX Runtime's, files for ONNX Runtime, NumPy, errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

import octavo
from conftest import printed_seed


def block(path: Path, seed: int) -> Path:
    """Two branches from [B, S, 24], one of two products, added; a Gemm on the first row."""
    rng = np.random.default_rng(seed)
    weights = {
        "w1": rng.normal(0, 0.3, (24, 40)),
        "b1": rng.normal(0, 0.3, 40),
        "w2": rng.normal(0, 0.3, (40, 24)),
        "b2": rng.normal(0, 0.3, 24),
        "w3": rng.normal(0, 0.3, (24, 24)),
        "w4": rng.normal(0, 0.3, (9, 24)),
        "b4": rng.normal(0, 0.3, 9),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m1"], "up"),
        helper.make_node("Add", ["m1", "b1"], ["a1"], "up_bias"),
        helper.make_node("Relu", ["a1"], ["h"], "relu"),
        helper.make_node("MatMul", ["h", "w2"], ["m2"], "down"),
        helper.make_node("Add", ["b2", "m2"], ["a2"], "down_bias"),
        helper.make_node("MatMul", ["x", "w3"], ["m3"], "side"),
        helper.make_node("Add", ["a2", "m3"], ["s"], "sum"),
        helper.make_node("Gather", ["s", "first"], ["p"], "take", axis=1),
        helper.make_node("Gemm", ["p", "w4", "b4"], ["y"], "head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "S", 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 9])],
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items()]
        + [numpy_helper.from_array(np.array(0), "first")],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path


def values(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def in_onnxruntime(path: Path, x: np.ndarray, level: str = "ORT_DISABLE_ALL") -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def in_octavo(path: Path, x: np.ndarray) -> np.ndarray:
    return octavo.compile(path)(x)[0]


def with_output(path: Path, name: str) -> Path:
    """The model with this value as its only output."""
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    other = path.with_name(f"{path.stem}-{name}.onnx")
    onnx.save(model, other)
    return other


def constants(path: Path) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}


def kernels(program: octavo.Program, op: str) -> list[str]:
    return [s["kernel"] for s in octavo.inspect(program)["steps"] if s["op"] == op]


@pytest.mark.parametrize("per_channel", [False, True])
def test_onnx_runtimes_own_file_runs_in_the_integer_kernels(tmp_path, per_channel):
    seed = printed_seed()
    path = tmp_path / "int8.onnx"
    quantize_dynamic(
        str(block(tmp_path / "float.onnx", seed)),
        str(path),
        per_channel=per_channel,
        weight_type=QuantType.QInt8,
    )
    program = octavo.compile(path)
    x = values(seed, 3, 9, 24)
    (got,) = program(x)
    assert np.array_equal(in_onnxruntime(path, x), got)
    assert [k.split("_")[1] for k in kernels(program, "fused_gemm")] == ["int8"] * 4
    assert len(kernels(program, "dynamic_quantize")) == 3  # x is quantized once
    assert not kernels(program, "matmul_integer")


def test_our_file_in_onnx_runtime(tmp_path):
    seed = printed_seed()
    graph = octavo.load_onnx(block(tmp_path / "float.onnx", seed))
    result = octavo.quantize(graph, mode="dynamic", target="onnxruntime")
    octavo.export_onnx(result, tmp_path / "int8.onnx")
    ops = [n.op_type for n in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert ops.count("DynamicQuantizeLinear") == 3
    assert ops.count("MatMulInteger") == 4
    again = octavo.load_onnx(tmp_path / "int8.onnx")
    x = values(seed, 2, 5, 24)
    (got,) = octavo.compile(result)(x)
    assert np.array_equal(octavo.compile(again)(x)[0], got)
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        assert np.array_equal(in_onnxruntime(tmp_path / "int8.onnx", x, level), got)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "int8.onnx"), options)
    fused = [n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert fused.count("DynamicQuantizeMatMul") + fused.count("MatMulIntegerToFloat") == 4


def grouped(path: Path, seed: int) -> Path:
    """Convolutions of two groups, depthwise, and depthwise with two outputs a channel."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (12, 3, 3, 3), "w2": (12, 1, 3, 3), "w3": (24, 1, 5, 5)}
    weights = {n: rng.normal(0, 0.3, s).astype(np.float32) for n, s in shapes.items()}
    weights |= {f"b{n[1]}": rng.normal(0, 0.3, s[0]).astype(np.float32) for n, s in shapes.items()}

    def conv(x: str, i: int, group: int, **more: object) -> onnx.NodeProto:
        return helper.make_node(
            "Conv", [x, f"w{i}", f"b{i}"], [f"c{i}"], f"conv{i}", group=group, **more
        )

    nodes = [
        conv("x", 1, 2, pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"], "relu"),
        conv("r1", 2, 12, pads=[0, 1, 2, 1], strides=[2, 1]),
        conv("c2", 3, 12, pads=[2] * 4),
    ]
    graph = helper.make_graph(
        nodes,
        "grouped",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 6, 9, 8])],
        [helper.make_tensor_value_info("c3", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path


def test_convolutions_of_several_groups(tmp_path):
    seed = printed_seed()
    x = values(seed, 2, 6, 9, 8)
    graph = octavo.load_onnx(grouped(tmp_path / "float.onnx", seed))
    ours = octavo.quantize(graph, mode="dynamic", target="onnxruntime")
    octavo.export_onnx(ours, tmp_path / "ours.onnx")
    quantize_dynamic(
        str(tmp_path / "float.onnx"),
        str(tmp_path / "theirs.onnx"),
        op_types_to_quantize=["Conv"],
        weight_type=QuantType.QInt8,
    )
    for name in ("ours", "theirs"):
        path = tmp_path / f"{name}.onnx"
        assert [n.op_type for n in onnx.load(path).graph.node].count("ConvInteger") == 3
        program = octavo.compile(path)
        (got,) = program(x)
        assert np.array_equal(in_onnxruntime(path, x), got), name
        found = [k.split("_")[:2] for k in kernels(program, "fused_conv")]
        assert found == [["gemm", "int8"], ["depthwise", "int8"], ["gemm", "int8"]], name
    wanted = in_onnxruntime(tmp_path / "float.onnx", x)
    noise = np.square(in_octavo(tmp_path / "ours.onnx", x) - wanted).sum()
    assert 10 * np.log10(np.square(wanted).sum() / noise) > 25  # 8 bits, three layers


def dynamic_in_numpy(x: np.ndarray, w: np.ndarray, scales: np.ndarray, axis=None) -> np.ndarray:
    f = np.float32
    least, most = (
        np.clip(m(x, axis, keepdims=True), *b)
        for m, b in ((np.min, (None, f(0))), (np.max, (f(0), None)))
    )
    step = (most - least) / f(255)
    zero = np.rint(-least / step)
    q = np.clip(np.rint(x / step) + zero, 0, 255) - zero
    sums = (q.astype(np.int64) @ w.astype(np.int64)).astype(f)
    return sums * (step * scales)


def test_numpy_computes_the_same(tmp_path):
    seed = printed_seed()
    graph = octavo.load_onnx(block(tmp_path / "float.onnx", seed))
    rules = {"schema_version": 1, "rules": [{"precision": "float"}]}
    rules["rules"].append({"name": "side", "precision": "dynamic"})
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    result = octavo.quantize(graph, mode="dynamic", rules=tmp_path / "rules.json")
    octavo.export_onnx(result, tmp_path / "int8.onnx")
    held = constants(tmp_path / "int8.onnx")
    assert {"w3/quantized", "w3/scale", "w1", "w2", "w4"} <= set(held)
    x = values(seed, 2, 7, 24)
    got = in_octavo(with_output(tmp_path / "int8.onnx", "m3"), x)
    assert np.array_equal(got, dynamic_in_numpy(x, held["w3/quantized"], held["w3/scale"]))


def test_a_scale_for_each_row(tmp_path):
    seed = printed_seed()
    graph = octavo.load_onnx(block(tmp_path / "float.onnx", seed))
    # A tensor's scale and rows' of the same value; the others follow the mode.
    rules = octavo.Rules(({"name": "up", "precision": "dynamic", "activation": "tensor"},))
    result = octavo.quantize(graph, mode="dynamic", activation="row", rules=rules)
    found = {p["node"]: p.get("activation") for p in result.record["quantization"]["precisions"]}
    assert found == {"up": None, "down": "row", "side": "row", "head": "row"}
    program = octavo.compile(result)
    assert [k.split("_")[1] for k in kernels(program, "fused_gemm")] == ["int8"] * 4
    assert len(kernels(program, "dynamic_quantize")) == 4

    tensors = octavo.quantize(graph, mode="dynamic")
    octavo.export_onnx(tensors, tmp_path / "tensors.onnx")  # its weights are the same
    held = constants(tmp_path / "tensors.onnx")
    x = values(seed, 3, 9, 24)
    x[1] *= 100  # so that one scale for all would leave little of the others

    def product(name: str, x: np.ndarray, axis: int | None = -1) -> np.ndarray:
        return dynamic_in_numpy(x, held[f"{name}/quantized"], held[f"{name}/scale"], axis)

    h = np.maximum(product("w1", x, None) + held["b1"], 0)
    s = (product("w2", h) + held["b2"]) + product("w3", x)
    want = product("w4", s[:, 0]) + held["b4/bias"]
    (got,) = program(x)
    # The order of float additions may turn a rounding.
    assert np.abs(got - want).max() <= np.abs(want).max() / 100
    close = np.isclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    assert close.mean() > 0.9
    exact = octavo.compile(graph)(x)[0][[0, 2]]
    by_tensor = octavo.compile(tensors)(x)[0][[0, 2]]
    by_row = octavo.compile(octavo.quantize(graph, mode="dynamic", activation="row"))(x)[0][[0, 2]]
    assert np.square(by_row - exact).sum() < np.square(by_tensor - exact).sum() / 100


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"activation": "token"}, "activation: 'token' is not known"),
        ({"mode": "weight_only", "activation": "row"}, "row is not for mode weight_only"),
        ({"activation": "row", "target": "onnxruntime"}, "up.*activations at each call with one"),
    ],
)
def test_rows_are_refused_where_there_are_none(tmp_path, keywords, message):
    graph = octavo.load_onnx(block(tmp_path / "float.onnx", 3))
    with pytest.raises(octavo.UserError, match=message):
        octavo.quantize(graph, **{"mode": "dynamic"} | keywords)


def test_static_and_dynamic_in_one_graph(tmp_path):
    graph = octavo.load_onnx(block(tmp_path / "float.onnx", 1))
    rules = {"schema_version": 1, "rules": [{"name": "down", "precision": "dynamic"}]}
    rules["rules"].append({"op": "gemm", "precision": "float"})
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    data = [values(i, 2, 7, 24) for i in range(8)]
    result = octavo.quantize(graph, data, rules=tmp_path / "rules.json")
    quantization = result.record["quantization"]
    assert quantization["mode"] == "static"
    assert {p["node"]: p["precision"] for p in quantization["precisions"]} == {
        "up": "int8",
        "down": "dynamic",
        "side": "int8",
        "head": "float",
    }
    assert [layer["name"] for layer in result.record["layers"]] == ["up", "down", "side"]
    down = result.record["layers"][1]
    assert down["weights_sqnr_db"] > 30
    assert down["by_calibrator"] == {}
    # 8 bits of normal values through three layers.
    assert result.record["calibrators"][0]["output_sqnr_db"] > 25
    program = octavo.compile(result)
    assert len(kernels(program, "fused_gemm")) == 4
    assert sum(k.startswith("gemm_int8") for k in kernels(program, "fused_gemm")) == 3


def test_record_without_and_with_data(tmp_path):
    graph = octavo.load_onnx(block(tmp_path / "float.onnx", 2))
    record = octavo.quantize(graph, mode="dynamic").record
    assert record["calibrators"] == []
    assert record["data"]["calibration_samples"] == 0
    assert record["quantization"]["calibrator"] == "none"
    assert record["quantization"]["weights"] == "mse"
    record = octavo.quantize(graph, [values(3, 2, 5, 24)], mode="dynamic").record
    assert record["data"] == {
        "calibration_samples": 0,
        "evaluation_samples": 1,
        "evaluated_on_calibration_data": False,
    }
    assert [c["name"] for c in record["calibrators"]] == ["none"]
    assert record["calibrators"][0]["output_sqnr_db"] > 25


@pytest.mark.parametrize(
    ("target", "message"),
    [("tensorrt", "tensorrt has no dynamic quantization"), ("openvino", "computes .* in float")],
)
def test_targets_without_it_say_so(tmp_path, target, message):
    graph = octavo.load_onnx(block(tmp_path / "float.onnx", 3))
    with pytest.raises(octavo.UnsupportedError, match=message):
        octavo.quantize(graph, mode="dynamic", target=target)


def test_the_command(tmp_path, cli):
    block(tmp_path / "float.onnx", 4)
    done = cli(
        "quantize", tmp_path / "float.onnx", "-o", tmp_path / "q.octavo", "--mode", "dynamic"
    )
    assert done.returncode == 0, done.stderr
    assert "4 integer layers, 0 in float" in done.stdout
    x = values(4, 2, 5, 24)
    want = octavo.compile(octavo.quantize(octavo.load(tmp_path / "float.onnx"), mode="dynamic"))(x)
    assert np.array_equal(octavo.compile(tmp_path / "q.octavo")(x)[0], want[0])
