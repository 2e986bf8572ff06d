"""Cross-layer equalisation: the float function stays, one scale for all weights costs less."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import octavo
from conftest import validate

ROOT = Path(__file__).resolve().parents[2]


def mobile_block(rng: np.random.Generator) -> onnx.ModelProto:
    """Convolution, ReLU6, depthwise, ReLU, mean over the picture, Gemm; channels differ by 2^6."""
    uneven = 2.0 ** rng.permutation(np.linspace(-3, 3, 8))
    weights = {
        "w1": rng.normal(size=(8, 3, 3, 3)) * uneven[:, None, None, None],
        "b1": rng.normal(size=8) * uneven,
        "w2": rng.normal(size=(8, 1, 3, 3)) / uneven[:, None, None, None],
        "b2": rng.normal(size=8),
        "w3": rng.normal(size=(8, 5)),
        "zero": np.array(0.0),
        "six": np.array(6.0),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "one", pads=[1] * 4),
        helper.make_node("Clip", ["c1", "zero", "six"], ["h1"], "relu6"),
        helper.make_node("Conv", ["h1", "w2", "b2"], ["c2"], "two", group=8),
        helper.make_node("Relu", ["c2"], ["h2"], "relu"),
        helper.make_node("GlobalAveragePool", ["h2"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3"], ["y"], "three"),
    ]
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


def convolution(x: np.ndarray, w: np.ndarray, b: np.ndarray, depthwise: bool) -> np.ndarray:
    taps = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    product = "nchwij,cij->nchw" if depthwise else "nkhwij,ckij->nchw"
    return np.einsum(product, taps, w[:, 0] if depthwise else w) + b[:, None, None]


def in_numpy(held: dict[str, np.ndarray], x: np.ndarray, magnitudes: bool = False) -> np.ndarray:
    """The block in float64; or what the magnitudes of all terms sum up to, no clip at work."""
    w = {n: np.abs(v) if magnitudes else v for n, v in held.items()}
    x = np.pad(np.abs(x) if magnitudes else x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    h = convolution(x, w["w1"], w["b1"], False)
    h = h if magnitudes else np.clip(h, 0, 6)
    h = np.maximum(convolution(h, w["w2"], w["b2"], True), 0)
    return h.mean((2, 3)) @ w["w3"]


def run(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("where", ["folded", "all"])
def test_the_function_stays(tmp_path, rng, where):
    """Against NumPy in float64 on the weights that were given. Each dot product of n terms, and
    each factor, bound and bias, rounds: relative to the sum of magnitudes at most n + 3 times 2^-24
    a layer; n: 28, 10, 37 (the mean over 36 positions), 8."""
    model = mobile_block(rng)
    onnx.save(model, tmp_path / "float.onnx")
    graph = octavo.load_onnx(tmp_path / "float.onnx")
    octavo.export_onnx(octavo.equalize(graph, where=where), tmp_path / "equal.onnx")
    kinds = {n.op_type for n in onnx.load(tmp_path / "equal.onnx").graph.node}
    assert ("Min" in kinds, "Clip" in kinds) == (where == "all", where == "folded")
    held = {i.name: numpy_helper.to_array(i).astype(np.float64) for i in model.graph.initializer}
    now = {
        i.name: numpy_helper.to_array(i).astype(np.float64)
        for i in onnx.load(tmp_path / "equal.onnx").graph.initializer
    }
    x = (2 * rng.normal(size=(16, 3, 8, 8))).astype(np.float32)
    reference = in_numpy(held, x.astype(np.float64))
    allowed = (28 + 10 + 37 + 8 + 4 * 3) * 2**-24 * in_numpy(held, x.astype(np.float64), True)
    for got in (
        run(tmp_path / "equal.onnx", x),
        octavo.compile(octavo.equalize(graph, where=where))(x)[0],
    ):
        assert (np.abs(got - reference) <= allowed).all()
    # what the depthwise layer and the last one share; all: the first too
    columns = np.abs(now["w3/equalized"]).max(1)
    rows = np.abs(now["w2/equalized"]).max((1, 2, 3))
    within = np.abs(np.log(rows / columns) - np.median(np.log(rows / columns)))
    before = np.log(np.abs(held["w2"]).max((1, 2, 3)) / np.abs(held["w3"]).max(1))
    assert within.max() < np.abs(before - np.median(before)).max()
    assert ("w1/equalized" in now) == (where == "all")


def test_one_scale_for_all_weights(tmp_path, rng):
    """The file has scalars for scales; ONNX Runtime computes within a step of Octavo."""
    onnx.save(mobile_block(rng), tmp_path / "float.onnx")
    graph = octavo.load_onnx(tmp_path / "float.onnx")
    data = [rng.normal(size=(1, 3, 8, 8)).astype(np.float32) for _ in range(32)]
    judge = [rng.normal(size=(1, 3, 8, 8)).astype(np.float32) for _ in range(32)]
    sqnr = {}
    for scales, equalize in (("channel", "none"), ("tensor", "none"), ("tensor", "all")):
        result = octavo.quantize(
            graph,
            data,
            calibrator="max",
            weights="max",
            target="onnxruntime",
            weight_scales=scales,
            equalize=equalize,
            evaluation=judge,
            record=tmp_path / "run.json",
        )
        validate(result.record, "run_record")
        what = result.record["quantization"]
        assert what["weight_scales"] == scales
        assert [pair["products"] for pair in what["equalized"]] == (
            [["one", "two"], ["two", "three"]] if equalize == "all" else []
        )
        assert [pair["bounded"] for pair in what["equalized"]] == [True, False][
            : len(what["equalized"])
        ]
        sqnr[scales, equalize] = result.record["calibrators"][0]["output_sqnr_db"]
        path = tmp_path / f"{scales}-{equalize}.onnx"
        octavo.export_onnx(result, path)
        model = onnx.load(path)
        shapes = {i.name: tuple(i.dims) for i in model.graph.initializer}
        of_weights = [n for n in model.graph.node if n.input[0].startswith(("w", "b"))]
        assert len(of_weights) >= 5
        for node in of_weights:
            assert node.op_type == "DequantizeLinear"
            assert (shapes[node.input[1]] == ()) == (scales == "tensor")
        program = octavo.compile(path)
        # one step of a hidden value, moved to the output by the last layer
        y = np.concatenate([run(path, x) for x in judge])
        ours = np.concatenate([program(x)[0] for x in judge])
        assert ((y - ours) ** 2).sum() < 10**-3.5 * (y**2).sum()
    print(sqnr)
    assert sqnr["channel", "none"] > sqnr["tensor", "none"]


def test_one_scale_for_all_weights_gains(tmp_path, rng):
    """In the median network: in one of 20 channels are alike, and little is to be had."""
    gains = []
    for _ in range(9):
        onnx.save(mobile_block(rng), tmp_path / "float.onnx")
        graph = octavo.load_onnx(tmp_path / "float.onnx")
        samples = [rng.normal(size=(1, 3, 8, 8)).astype(np.float32) for _ in range(64)]
        none, equalized = (
            octavo.quantize(
                graph,
                samples[:32],
                calibrator="max",
                weights="max",
                weight_scales="tensor",
                equalize=equalize,
                evaluation=samples[32:],
            ).record["calibrators"][0]["output_sqnr_db"]
            for equalize in ("none", "all")
        )
        gains.append(equalized - none)
    print(sorted(gains))
    assert np.median(gains) > 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"equalize": "most"}, "equalize: 'most' is not known; use one of: none, folded, all"),
        ({"weight_scales": "row"}, "weight_scales: 'row' is not known; use channel or tensor"),
        ({"equalize": "all", "mode": "dynamic"}, "equalize: is not for mode dynamic"),
        ({"weight_scales": "tensor", "mode": "weight_only"}, "is not for mode weight_only"),
    ],
)
def test_what_is_refused(graph, batches, options, message):
    with pytest.raises(octavo.UserError, match=message):
        octavo.quantize(graph, batches, **options)
    with pytest.raises(octavo.UserError, match="where: 'most' is not known"):
        octavo.equalize(graph, where="most")
    with pytest.raises(octavo.UserError, match="is quantized already"):
        octavo.equalize(octavo.quantize(graph, batches))


def test_the_command_takes_both(tmp_path, model, data, cli):
    made = cli("quantize", model, "-o", tmp_path / "int8.onnx", "--data", data, "--equalize",
               "folded", "--weight-scales", "tensor", "--json")  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert '"weight_scales":"tensor"' in made.stdout.replace(" ", "")
