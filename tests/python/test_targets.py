"""The linter and the placements, checked against the runtimes themselves (docs/targets.md)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import octavo
from qdq_patterns import PATTERNS, Builder, model_of, onnxruntime_treatment, openvino_treatment

TREATMENT: dict[str, Callable[[onnx.ModelProto], dict[str, str]]] = {
    "onnxruntime": onnxruntime_treatment,
    "openvino": openvino_treatment,
}
TARGETS = ["octavo", "onnxruntime", "openvino", "tensorrt"]


def lint(model: onnx.ModelProto, target: str, folder: Path) -> octavo.LintReport:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return octavo.lint(octavo.load_onnx(str(path)), target)


def run_fails_in_onnxruntime(model: onnx.ModelProto) -> bool:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    try:
        session.run(None, {"x": np.zeros((1, 32, 16, 16), np.float32)})
    except Exception as error:  # its own class is not public
        return "must be a scalar" in str(error)
    return False


def test_findings_on_qlinear_ops_carry_the_names_of_the_files_nodes(tmp_path: Path) -> None:
    values = {
        "xs": np.float32(0.1), "xz": np.uint8(3), "w": np.ones((2, 1, 1, 1), np.int8),
        "ws": np.float32(0.1), "wz": np.int8(0), "ys": np.float32(0.1), "yz": np.uint8(3),
    }  # fmt: skip
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("QLinearConv", ["x", *values], ["y"], "stem/first")],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, [1, 1, 4, 4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, [1, 2, 4, 4])],
        [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in values.items()],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    for target in ("onnxruntime", "openvino", "octavo"):
        report = lint(model, target, tmp_path)
        assert (report.findings, report.integer) == ([], ["stem/first/conv"])
    report = lint(model, "tensorrt", tmp_path)
    assert report.integer == ["stem/first/conv"]
    assert {(f.node, f.op, f.reason) for f in report.findings} == {
        (node, op, reason)
        for node, op in (("stem/first/dequantize", "dequantize"), ("stem/first", "quantize"))
        for reason in ("its zero point is not 0", "its integers are unsigned")
    }


@pytest.mark.peers
@pytest.mark.parametrize("target", TREATMENT)
@pytest.mark.parametrize("name", PATTERNS)
def test_lint_says_what_the_runtime_does(name: str, target: str, tmp_path: Path) -> None:
    model = model_of(name)
    report = lint(model, target, tmp_path)
    in_float = {f.node: f.reason for f in report.findings if f.kind == "float"}
    weights = {f.node for f in report.findings if f.kind == "weights"}
    if (name, target) == ("activation_per_channel", "onnxruntime"):
        # It makes an integer convolution of it, and that refuses at run time.
        assert in_float["A"] == "an activation has more than one scale"
        assert run_fails_in_onnxruntime(model)
        return
    truth = TREATMENT[target](model)
    judged = 0
    for node in model.graph.node:
        if len(node.name) != 1:
            continue
        lists = (in_float, weights, report.integer)
        assert sum(node.name in found for found in lists) == 1, node.name
        actual = truth.get(node.name, "")
        if not actual:  # inside another kernel, integer or float as that one
            continue
        judged += 1
        said = "float" if node.name in in_float else "weights" if node.name in weights else "int8"
        assert actual == said, (
            f"{name}, {target}, {node.op_type} {node.name}: the runtime runs it in {actual}; "
            f"the linter: {in_float.get(node.name, said)}"
        )
    assert judged > 0


@pytest.mark.parametrize("name", [n for n in PATTERNS if n.startswith("weights_alone_")])
def test_what_octavo_keeps_as_integers(name: str, tmp_path: Path) -> None:
    """The packed weights of a product have the size of the integers or of the floats."""
    model = model_of(name)
    onnx.save(model, tmp_path / "model.onnx")
    graph = octavo.load_onnx(str(tmp_path / "model.onnx"))
    kinds = {f.node: f.kind for f in octavo.lint(graph, "octavo").findings}
    steps = octavo.inspect(octavo.compile(graph))["steps"]
    (step,) = (s for s in steps if s["node"] == "A")
    sizes = {i.name: int(np.prod(i.dims)) for i in model.graph.initializer}
    (dequantize,) = (n for n in model.graph.node if n.op_type == "DequantizeLinear")
    kept = step["packed_bytes"] < 2 * sizes[dequantize.input[0]]
    assert kinds["A"] == ("weights" if kept else "float")


@pytest.mark.parametrize("name", [n for n in PATTERNS if n.startswith("dynamic_")])
def test_dynamic_products(name: str, tmp_path: Path) -> None:
    """Octavo runs a whole chain in one kernel; TensorRT has none of it."""
    report = lint(model_of(name), "octavo", tmp_path)
    assert [f for f in report.findings if len(f.node) == 1] == []
    assert "A" in report.integer
    graph = octavo.load_onnx(str(tmp_path / "model.onnx"))
    ops = [step["op"] for step in octavo.inspect(octavo.compile(graph))["steps"]]
    assert {"cast", "mul", "add"}.isdisjoint(ops)
    report = lint(model_of(name), "tensorrt", tmp_path)
    assert ("A", "tensorrt has no dynamic quantization") in {
        (f.node, f.reason) for f in report.findings if f.kind == "float"
    }


def small_network(path: Path) -> onnx.ModelProto:
    """Conv, SiLU, two branches, residual, concat, pooling, classifier: all weights float."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(16, 32, 3, padding=1)
            self.a = nn.Conv2d(32, 32, 1)
            self.b = nn.Conv2d(32, 32, 3, padding=1)
            self.c = nn.Conv2d(64, 32, 1)
            self.head = nn.Linear(32, 20)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = nn.functional.silu(self.stem(x))
            y = torch.relu(self.a(x) + x)
            z = nn.functional.max_pool2d(self.b(y), 3, 1, 1)
            y = self.c(torch.cat([y, z], 1))
            return self.head(nn.functional.relu(y).mean((2, 3)))

    torch.manual_seed(5)
    torch.onnx.export(
        Block().eval(), (torch.zeros(1, 16, 12, 12),), str(path), opset_version=13, dynamo=False
    )
    return onnx.load(path)


@pytest.mark.peers
@pytest.mark.parametrize("target", TARGETS)
def test_a_placement_satisfies_its_own_target(target: str, tmp_path: Path) -> None:
    path = tmp_path / "float.onnx"
    small_network(path)
    seed = 11
    data = np.random.default_rng(seed).normal(size=(8, 16, 12, 12)).astype(np.float32)
    result = octavo.quantize(
        octavo.load_onnx(str(path)), [(x[None],) for x in data], target=target, calibrator="max"
    )
    exported = tmp_path / f"{target}.onnx"
    octavo.export_onnx(result, str(exported))
    model = onnx.load(exported)
    assert not [n.op_type for n in model.graph.node if n.op_type == "BatchNormalization"]
    report = octavo.lint(octavo.load_onnx(str(exported)), target)
    ops = {n.name: n.op_type for n in model.graph.node}
    floats = {ops.get(f.node, f.op) for f in report.findings}
    # ONNX Runtime has no integer SiLU unless its parts are quantized; all products are integer.
    assert floats <= {"Sigmoid", "Mul", "silu", "ReduceMean", "reduce_mean"}, report.findings
    assert not [f for f in report.findings if f.kind == "rule"]
    if target in TREATMENT:
        truth = TREATMENT[target](model)
        products = [n.name for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
        assert len(products) == 5
        assert {truth[name] for name in products} == {"int8"}


def test_unknown_targets_are_named(tmp_path: Path) -> None:
    with pytest.raises(octavo.UserError, match="tensorrt"):
        lint(model_of("conv_with_output_quantize"), "tflite", tmp_path)


# ---- TensorRT's published rules, one mistake each


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("conv_with_output_quantize", "rule", "zero point is not 0"),
        ("weights_of_u8", "rule", "unsigned"),
        ("weights_of_i8_with_zero_point", "rule", "zero point is not 0"),
        ("max_pool_other_scale", "rule", "do not share one scale"),
        ("concat", "rule", "do not share one scale"),
    ],
)
def test_tensorrt_rules(name: str, kind: str, reason: str, tmp_path: Path) -> None:
    report = lint(model_of(name), "tensorrt", tmp_path)
    assert any(f.kind == kind and reason in f.reason for f in report.findings), report.findings


def signed(scale: float = 0.05):
    return lambda b, x: b.qdq(x, 0, scale, np.int8)


def clean(b: Builder) -> str:
    """As TensorRT wants it: convolutions, a shortcut, a concat and a pool of one scale."""
    q = signed()
    x = q(b, "x")
    a = b.conv(q(b, b.op("Relu", b.conv(x, "A"), name="R")), "B")
    shortcut = q(b, b.op("Add", x, a, name="D"))
    pooled = b.op("MaxPool", shortcut, name="P", kernel_shape=[3, 3], pads=[1] * 4)
    k = b.op("Concat", q(b, pooled), shortcut, name="K", axis=1)
    return b.conv(q(b, k), "C", channels=64)


def no_quantize_before_conv(b: Builder) -> str:
    return b.conv(b.op("Relu", b.conv(signed()(b, "x"), "A"), name="R"), "C")


def float_weights(b: Builder) -> str:
    w = b.constant(np.ones((32, 32, 1, 1), np.float32))
    return b.op("Conv", signed()(b, "x"), w, name="A")


def quantized_bias(b: Builder) -> str:
    scale, zero = b.constant(np.float32(0.01)), b.constant(np.int32(0))
    bias = b.op("DequantizeLinear", b.constant(np.ones(32, np.int32)), scale, zero)
    return b.op("Conv", signed()(b, "x"), b.weights((32, 32, 1, 1)), bias, name="A")


def batch_normalization(b: Builder) -> str:
    ones = [b.constant(np.ones(32, np.float32)) for _ in range(4)]
    return b.op("BatchNormalization", b.conv(signed()(b, "x"), "A"), *ones, name="N")


def several_scales_on_an_activation(b: Builder) -> str:
    return b.conv(b.qdq("x", 0, np.linspace(0.01, 0.2, 32), np.int8), "A")


def addition_of_floats(b: Builder) -> str:
    x = signed()(b, "x")
    return b.op("Add", "x", b.conv(x, "A"), name="D")


def pool_of_other_scale(b: Builder) -> str:
    pooled = b.op("MaxPool", signed()(b, "x"), name="P", kernel_shape=[3, 3])
    return b.conv(signed(0.04)(b, pooled), "C")


def concat_of_other_scales(b: Builder) -> str:
    k = b.op("Concat", signed()(b, "x"), signed(0.04)(b, "x"), name="K", axis=1)
    return b.conv(signed()(b, k), "C", channels=64)


@pytest.mark.parametrize(
    ("build", "kind", "node", "reason"),
    [
        (no_quantize_before_conv, "float", "C", "an input is not dequantized"),
        (float_weights, "float", "A", "its weights are not dequantized"),
        (several_scales_on_an_activation, "float", "A", "more than one scale"),
        (addition_of_floats, "float", "D", "an input is not dequantized"),
        (quantized_bias, "rule", "A", "its bias is quantized"),
        (batch_normalization, "rule", "N", "not folded"),
        (pool_of_other_scale, "rule", "P", "do not share one scale"),
        (concat_of_other_scales, "rule", "K", "do not share one scale"),
    ],
)
def test_tensorrt_names_each_mistake(
    build: Callable[[Builder], str], kind: str, node: str, reason: str, tmp_path: Path
) -> None:
    b = Builder()
    report = lint(b.model(build(b)), "tensorrt", tmp_path)
    found = [(f.kind, f.node) for f in report.findings if reason in f.reason]
    assert (kind, node) in found, report.findings


def test_tensorrt_has_nothing_against_a_clean_file(tmp_path: Path) -> None:
    b = Builder()
    report = lint(b.model(clean(b)), "tensorrt", tmp_path)
    assert report.findings == []
    assert set("ABCDKPR") <= set(report.integer)


# ---- from a shell


def test_inspect_lint_says_by_its_exit_code_whether_it_found_something(tmp_path: Path) -> None:
    def run(build: Callable[[Builder], str], *more: str) -> subprocess.CompletedProcess[str]:
        b = Builder()
        path = tmp_path / "model.onnx"
        onnx.save(b.model(build(b)), path)
        command = ["octavo", "inspect", str(path), "--lint", *more]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    good = run(clean, "tensorrt")
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout == (
        "tensorrt: 7 nodes on integers, 0 with integer weights alone, 0 in float; rules broken: 0\n"
    )
    bad = run(pool_of_other_scale, "tensorrt")
    assert bad.returncode == 1
    assert "do not share one scale" in bad.stdout
    assert "rules broken: 1" in bad.stdout
    as_json = run(pool_of_other_scale, "tensorrt", "--json")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout)["findings"][0]["kind"] == "rule"
    unknown = run(clean, "tflite")
    assert unknown.returncode == 3
    assert "use one of: octavo, onnxruntime, openvino, tensorrt" in unknown.stderr
