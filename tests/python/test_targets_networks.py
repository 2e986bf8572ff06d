"""A whole network quantized for each target: EfficientNet-Lite0 (docs/targets.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import octavo
from qdq_patterns import onnxruntime_treatment, openvino_treatment

pytestmark = pytest.mark.peers
ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "build/models/efficientnet-lite0.onnx"
PHOTOS = ROOT / "build/photos/calibration.npz"
needs_files = pytest.mark.skipif(
    not (MODEL.exists() and PHOTOS.exists()), reason="make demo makes the model and the photographs"
)


def photographs(count: int) -> np.ndarray:
    with np.load(PHOTOS) as file:
        return file[file.files[0]][:count]


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """The exported file for a target."""
    made: dict[str, Path] = {}

    def get(target: str) -> Path:
        if target not in made:
            path = tmp_path_factory.mktemp(target) / "int8.onnx"
            data = [(x[None],) for x in photographs(4)]
            graph = octavo.load_onnx(str(MODEL))
            result = octavo.quantize(graph, data, target=target, calibrator="max", weights="max")
            octavo.export_onnx(getattr(result, "graph", result), str(path))
            made[target] = path
        return made[target]

    return get


def products(model: onnx.ModelProto) -> list[str]:
    return [n.name for n in model.graph.node if n.op_type in ("Conv", "Gemm")]


@needs_files
@pytest.mark.parametrize(
    ("target", "treatment"),
    [("onnxruntime", onnxruntime_treatment), ("openvino", openvino_treatment)],
)
def test_the_runtime_runs_every_product_in_int8(quantized, target, treatment):
    model = onnx.load(quantized(target))
    truth = treatment(model)
    assert len(products(model)) == 50
    assert {name: truth[name] for name in products(model) if truth[name] != "int8"} == {}
    assert octavo.lint(octavo.load_onnx(str(quantized(target))), target).findings == []


@needs_files
def test_for_tensorrt_only_what_gains_nothing_is_float(quantized):
    model = onnx.load(quantized("tensorrt"))
    report = octavo.lint(octavo.load_onnx(str(quantized("tensorrt"))), "tensorrt")
    # The stem has 3 channels; the pool and what reshapes it stand before the last Gemm.
    assert [f.op for f in report.findings] == ["conv", "clip", "reduce_mean", "reshape"]
    assert {f.kind for f in report.findings} == {"float"}
    assert set(products(model)) - set(report.integer) == {report.findings[0].node}
    zeros = [n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    assert zeros
    for name in zeros:
        assert constants[name].dtype == np.int8
        assert not constants[name].any()


def one_layer(model: onnx.ModelProto, output: str, arrays: dict[str, np.ndarray]):
    """The nodes between quantized tensors and `output`, as a model of their own."""
    makers = {o: n for n in model.graph.node for o in n.output}
    constants = {i.name: i for i in model.graph.initializer}
    nodes, inputs, used, seen = [], {}, {}, set()

    def visit(value: str, *, first: bool = False) -> None:
        if value in constants:
            used[value] = constants[value]
        elif value in arrays and not first:
            inputs[value] = arrays[value]
        elif value and value not in seen:
            seen.add(value)
            for name in makers[value].input:
                visit(name)
            nodes.append(makers[value])

    visit(output, first=True)
    info = helper.make_tensor_value_info
    kinds = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.float32): TensorProto.FLOAT}
    graph = helper.make_graph(
        nodes,
        "layer",
        [info(n, kinds[a.dtype], a.shape) for n, a in inputs.items()],
        [info(output, kinds[arrays[output].dtype], None)],
        list(used.values()),
    )
    layer = helper.make_model(
        graph, opset_imports=list(model.opset_import), ir_version=model.ir_version
    )
    return layer, inputs


@needs_files
def test_each_tensor_of_our_program_is_onnx_runtimes_within_one_step(quantized, tmp_path):
    import onnxruntime

    model = onnx.load(quantized("onnxruntime"))
    tensors = [n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    x, y = model.graph.input[0].name, model.graph.output[0].name
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    for name in tensors:
        watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.UINT8, None))
    onnx.save(watched, tmp_path / "watched.onnx")
    picture = photographs(1)
    arrays = dict(
        zip([y, *tensors], octavo.compile(tmp_path / "watched.onnx")(picture), strict=True)
    )
    arrays[x] = picture
    assert len(tensors) > 50
    changed = values = 0
    for name in [*tensors, y]:
        # ONNX Runtime reads what our program read, so that its steps do not add up over layers.
        layer, inputs = one_layer(model, name, arrays)
        session = onnxruntime.InferenceSession(
            layer.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        want = session.run(None, inputs)[0]
        if name == y:
            # Exact sums, then three float32 roundings on each side: 6 u |y|.
            assert (np.abs(arrays[y] - want) <= 6 * 2.0**-24 * np.abs(want)).all()
            continue
        # Sums are exact integers; float32 roundings before the last one can only cross a tie.
        steps = np.abs(arrays[name].astype(int) - want)
        assert steps.max() <= 1, name
        changed += int((steps != 0).sum())
        values += steps.size
    print(f"{changed} of {values} values differ by one step")
