"""Whole ONNX files: Q/DQ as other tools write it, external data, EfficientNet-Lite0."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import octavo
from octavo import _core as core

ROOT = Path(__file__).resolve().parents[2]


def run(path: Path, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def small_net(path: Path) -> None:
    """Conv, Relu, Conv with a residual, pooling, Gemm; the batch is dynamic."""
    random = np.random.default_rng(3)
    shapes = {
        "w1": (8, 3, 3, 3),
        "b1": (8,),
        "w2": (8, 8, 3, 3),
        "b2": (8,),
        "w3": (10, 8),
        "b3": (10,),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "conv2", pads=[1] * 4),
        helper.make_node("Add", ["c2", "r1"], ["s"], "add"),
        helper.make_node("GlobalAveragePool", ["s"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        [
            numpy_helper.from_array(random.normal(0, 0.3, s).astype(np.float32), n)
            for n, s in shapes.items()
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )


class Reader:
    """Calibration data for ONNX Runtime's quantizer."""

    def __init__(self) -> None:
        self.batches = iter([{"x": image(i)} for i in range(4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def image(seed: int, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (batch, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("activations", ["QUInt8", "QInt8"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_qdq_of_onnxruntime(tmp_path, activations, per_channel):
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    small_net(tmp_path / "float.onnx")
    path = tmp_path / "int8.onnx"
    quantize_static(
        tmp_path / "float.onnx",
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=getattr(QuantType, activations),
        weight_type=QuantType.QInt8,
        per_channel=per_channel,
    )
    graph = octavo.load_onnx(str(path))
    assert graph.stage == "quantized"
    assert graph.ops.count("quantize") > 3
    again = tmp_path / "again.onnx"
    octavo.export_onnx(graph, str(again))
    onnx.checker.check_model(str(again), full_check=True)
    stored = {t.name: t.data_type for t in onnx.load(again).graph.initializer}
    assert stored["w1_quantized"] == TensorProto.INT8
    assert stored["b1_quantized"] == TensorProto.INT32
    # A float that lies on the edge between two integers falls to either side: one step at most.
    model = onnx.load(path)
    scales = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    last = [n for n in model.graph.node if n.op_type == "DequantizeLinear"][-1]
    step = float(scales[last.input[1]].max()) * (1 + 2.0**-20)
    x = image(9)
    wanted = run(path, x)
    (ours,) = core.interpret(graph, [x])
    assert np.abs(ours - wanted).max() <= step
    assert np.abs(run(again, x) - wanted).max() <= step


def test_external_data(tmp_path):
    small_net(tmp_path / "m.onnx")
    graph = octavo.load_onnx(str(tmp_path / "m.onnx"))
    path = tmp_path / "external.onnx"
    octavo.export_onnx(graph, str(path), external_data=True)
    onnx.checker.check_model(str(path), full_check=True)
    assert (
        tmp_path / "external.onnx.data"
    ).stat().st_size == 8 * 8 * 9 * 4  # w2; the others are small
    np.testing.assert_array_equal(run(path, image(0)), run(tmp_path / "m.onnx", image(0)))
    back = octavo.load_onnx(str(path))
    np.testing.assert_array_equal(
        core.interpret(back, [image(0)])[0], core.interpret(graph, [image(0)])[0]
    )
    # And as onnx itself writes it.
    theirs = tmp_path / "theirs.onnx"
    onnx.save(
        onnx.load(tmp_path / "m.onnx"),
        theirs,
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    assert octavo.load_onnx(str(theirs)).ops == graph.ops
    (tmp_path / "w.bin").write_bytes(b"short")
    with pytest.raises(octavo.FileError, match=r"lie outside 'w\.bin'"):
        octavo.load_onnx(str(theirs))


def test_errors_are_python_exceptions(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        octavo.load_onnx(str(tmp_path / "none.onnx"))
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x08\x3a\xff")
    with pytest.raises(octavo.FileError, match="not an ONNX model, or truncated"):
        octavo.load_onnx(str(tmp_path / "bad.onnx"))
    node = helper.make_node("StringNormalizer", ["x", "x"], ["y"], "strings")
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 1])
    graph = helper.make_graph([node], "g", [value], [helper.make_empty_tensor_value_info("y")])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]),
        tmp_path / "strings.onnx",
    )
    wanted = r"StringNormalizer \(domain ai.onnx, opset 17\) at node 'strings'"
    with pytest.raises(octavo.UnsupportedError, match=wanted):
        octavo.load_onnx(str(tmp_path / "strings.onnx"))


@pytest.mark.peers
def test_efficientnet_lite0(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import make_models
    import rounding

    path = make_models.make("efficientnet-lite0", ROOT / "build/models")
    octavo.load_onnx(str(path))  # the file is in memory now
    times = []
    for _ in range(5):
        start = time.perf_counter()
        graph = octavo.load_onnx(str(path))
        times.append(time.perf_counter() - start)
    assert min(times) < 0.050
    again = tmp_path / "again.onnx"
    octavo.export_onnx(graph, str(again))
    onnx.checker.check_model(str(again), full_check=True)
    x = np.random.default_rng(1).uniform(-1, 1, (1, 3, 224, 224)).astype(np.float32)
    bound = rounding.bound(path, x)
    wanted = run(path, x)
    assert (np.abs(run(again, x) - wanted) <= bound).all()
    assert (np.abs(core.interpret(graph, [x])[0] - wanted) <= bound).all()
