"""One mistake each in what networks bring: external data, subgraphs, huge dims, opsets, contrib and
integer ops, rules, targets. One error of the right type says where, what and what to do; nothing is
written."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import octavo
from conftest import samples, says_what_to_do

F, I64, U8, I8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8, TensorProto.INT8
node = helper.make_node


def net(
    nodes: list[NodeProto],
    inputs: dict[str, Any] | None = None,
    constants: dict[str, Any] | None = None,
    opset: int = 21,
    outputs: tuple[str, ...] = ("y",),
) -> ModelProto:
    """Inputs as shapes (f32) or (type, shape); constants as arrays."""
    given = {n: v if isinstance(v, tuple) else (F, v) for n, v in (inputs or {}).items()}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, *v) for n, v in given.items()],
        [onnx.ValueInfoProto(name=n) for n in outputs],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()],
    )
    domains = {n.domain for n in nodes} | {""}
    versions = [helper.make_opsetid(d, opset if d == "" else 1) for d in sorted(domains)]
    return helper.make_model(graph, opset_imports=versions, ir_version=10)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


# External data -----------------------------------------------------------------------------------


def external(*, drop: str = "", **entries: object) -> Callable[[Path], ModelProto]:
    """x + w of 4 elements; w lies in w.bin (16 bytes) unless entries say otherwise."""

    def build(folder: Path) -> ModelProto:
        (folder / "w.bin").write_bytes(bytes(16))
        (folder / "sub").mkdir()
        (folder.parent / "outside.bin").write_bytes(bytes(16))
        (folder / "link.bin").symlink_to(folder.parent / "outside.bin")
        model = net([node("Add", ["x", "w"], ["y"])], {"x": [4]}, {"w": f32(0, 0, 0, 0)})
        w = model.graph.initializer[0]
        w.ClearField("raw_data")
        w.data_location = TensorProto.EXTERNAL
        for key, value in ({"location": "w.bin", "offset": 0, "length": 16} | entries).items():
            if key != drop:
                w.external_data.add(key=key, value=str(value))
        return model

    return build


def external_attribute(folder: Path) -> ModelProto:
    tensor = TensorProto(name="w", data_type=F, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="gone.bin")
    return net([node("Constant", [], ["y"], "constant", value=tensor)])


EXTERNAL = {
    "missing": (external(location="gone.bin"), "'w'.*'gone.bin': No such file"),
    "no location": (external(drop="location"), "'w'.*(location|outside)"),
    "above the folder": (external(location="../outside.bin"), "'w'.*outside the model's folder"),
    "absolute": (external(location="/etc/hostname"), "'w'.*outside the model's folder"),
    "a link out": (external(location="link.bin"), "'w'.*outside the model's folder"),
    "a folder": (external(location="sub"), "'w'.*'sub' is not a file"),
    "short": (external(length=12), "'w'.*12 bytes, its shape wants 16"),
    "long": (external(length=20), "'w'.*20 (bytes|lie)"),
    "offset at the end": (external(offset=16), "'w'.*bytes 16 to 32 lie outside 'w.bin'.*16"),
    "offset over int64": (external(offset=2**63), "'w'.*'9223372036854775808' is not"),
    "negative length": (external(length=-16), "'w'.*'-16' is not an offset or length"),
    "in an attribute": (external_attribute, r"'constant'.*'gone.bin': No such file"),
}

# Subgraphs ---------------------------------------------------------------------------------------


def body(
    nodes: list[NodeProto], inputs: tuple[str, ...] = (), outputs: tuple[str, ...] = ()
) -> onnx.GraphProto:
    return helper.make_graph(
        nodes,
        "body",
        [onnx.ValueInfoProto(name=n) for n in inputs],
        [onnx.ValueInfoProto(name=n) for n in outputs],
    )


RELU = body([node("Relu", ["x"], ["r"])], outputs=("r",))


def choice(condition: Any = None, **branches: Any) -> ModelProto:
    branches = {"then_branch": RELU, "else_branch": RELU} | branches
    branches = {k: v for k, v in branches.items() if v is not None}
    return net(
        [node("If", ["c"], ["y"], "choice", **branches)],
        {"x": [2]},
        {"c": np.array(True) if condition is None else condition},
    )


def loop(
    nodes: list[NodeProto],
    inputs: tuple[str, ...] = ("i", "go", "s"),
    outputs: tuple[str, ...] = ("go", "t"),
    *,
    count: Any = 3,
    y: tuple[str, ...] = ("y",),
) -> ModelProto:
    counted = [] if count is None else ["n"]
    return net(
        [node("Loop", [*counted, *([""] * (2 - len(counted))), "x"], list(y), "loop",
              body=body(nodes, inputs, outputs))],
        {"x": [2]},
        {} if count is None else {"n": np.asarray(count)},
    )  # fmt: skip


STEP = [node("Relu", ["s"], ["t"])]


def scan(*shapes: list[int], count: int, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Any:
    names = [f"x{i}" for i in range(len(shapes))]
    return net(
        [node("Scan", names, ["y"], "scan", num_scan_inputs=count,
              body=body([node("Relu", [inputs[0] if inputs else "x0"], ["r"])], inputs, outputs))],
        dict(zip(names, shapes, strict=True)),
    )  # fmt: skip


SUBGRAPHS = {
    "cycle in a branch": (
        choice(
            then_branch=body(
                [node("Relu", ["b"], ["a"], "one"), node("Neg", ["a"], ["b"], "two")],
                outputs=("a",),
            )
        ),
        "cycle.*'one'.*'two'|'choice'.*cycle",
    ),
    "two outputs for one": (
        choice(then_branch=body([node("Relu", ["x"], ["r"])], outputs=("r", "r"))),
        "'choice'.*then_branch has 2 outputs, 1 are wanted",
    ),
    "no outputs for one": (
        choice(then_branch=body([node("Relu", ["x"], ["r"])])),
        "'choice'.*then_branch has 0 outputs, 1 are wanted",
    ),
    "an unknown name": (
        choice(then_branch=body([node("Relu", ["gone"], ["r"])], outputs=("r",))),
        "reads 'gone', which nothing defines",
    ),
    "an unknown output": (
        choice(then_branch=body([node("Relu", ["x"], ["r"])], outputs=("gone",))),
        "'gone', which nothing defines",
    ),
    "no else_branch": (choice(else_branch=None), "'choice'.*no subgraph 'else_branch'"),
    "a branch that is a number": (choice(else_branch=3), "'choice'.*else_branch"),
    "a float condition": (choice(condition=np.float32(1)), "'choice'.*condition.*bool"),
    "a condition of two": (choice(condition=np.array([True, False])), "'choice'.*condition"),
    "a loop body without state": (
        loop([node("Relu", ["x"], ["t"])], inputs=("i", "go")),
        "'loop'.*its subgraph takes 2 inputs, not 3",
    ),
    "a loop body with one output": (loop(STEP, outputs=("go",)), "'loop'.*body.*output"),
    "more loop outputs than the body's": (
        loop(STEP, y=("y", "z", "w")),
        "'loop'.*its body has 2 outputs, 4 are wanted",
    ),
    "a float count": (
        loop(STEP, count=np.float32(3)),
        "'loop'.*the number of steps must be one i64",
    ),
    "an endless loop": (loop(STEP, count=None), "'loop'.*(steps|condition)"),
    "a loop of 2^40 steps": (loop(STEP, count=2**40), "'loop'.*too many steps"),
    "no scanned input": (
        scan([3, 2], count=0, inputs=("a",), outputs=("r",)),
        "'scan'.*num_scan_inputs",
    ),
    "more scanned inputs than inputs": (
        scan([3, 2], count=5, inputs=("a",), outputs=("r",)),
        "'scan'.*num_scan_inputs",
    ),
    "a scan body without inputs": (
        scan([3, 2], count=1, inputs=(), outputs=("r",)),
        "'scan'.*its subgraph takes 0 inputs, not 1",
    ),
    "a scan body without outputs": (
        scan([3, 2], count=1, inputs=("a",), outputs=()),
        "'scan'.*its body has 0 outputs, 1 are wanted",
    ),
    "scanned lengths that differ": (
        scan([3, 2], [4, 2], count=2, inputs=("a", "b"), outputs=("r",)),
        "'scan'.*(length|3.*4|4.*3)",
    ),
}

# Cycles, opsets, huge dims -----------------------------------------------------------------------

RELU_AND_BACK = [node("Relu", ["b"], ["a"], "one"), node("Neg", ["a"], ["b"], "two")]
HUGE = "more than 2\\^40 elements"
GRAPHS = {
    "cycle": (net(RELU_AND_BACK, outputs=("a",)), "cycle: 'two' → 'one' → 'two'"),
    "opset 6": (net([node("Relu", ["x"], ["y"])], {"x": [2]}, opset=6), "opset 6.*7 to"),
    "opset 99": (net([node("Relu", ["x"], ["y"])], {"x": [2]}, opset=99), "opset 99"),
    "op of a later opset": (
        net([node("Gelu", ["x"], ["y"], "late")], {"x": [2]}, opset=17),
        "Gelu.*opset 17.*'late'",
    ),
    "domain that is not known": (
        net([node("Gelu", ["x"], ["y"], "odd", domain="org.example")], {"x": [2]}),
        "Gelu.*org.example.*'odd'",
    ),
    "input over 2^40": (net([node("Relu", ["x"], ["y"])], {"x": [2**21, 2**21]}), f"'x'.*{HUGE}"),
    "input over int64": (net([node("Relu", ["x"], ["y"])], {"x": [2**40] * 4}), f"'x'.*{HUGE}"),
    "product over 2^40": (
        net([node("MatMul", ["a", "b"], ["y"], "m")], {"a": [2**21, 1], "b": [1, 2**21]}),
        f"'m'.*{HUGE}",
    ),
    "sum over 2^40": (
        net([node("Add", ["a", "b"], ["y"], "m")], {"a": [2**21, 1], "b": [1, 2**21]}),
        f"'m'.*{HUGE}",
    ),
    "reshape over int64": (
        net([node("Reshape", ["x", "s"], ["y"], "r")], {"x": [4]}, {"s": ints(2**40, 2**40)}),
        f"'r'.*({HUGE}|4 elements)",
    ),
    "pads over int64": (
        net(
            [node("Conv", ["x", "w"], ["y"], "c", pads=[2**62] * 4)],
            {"x": [1, 1, 4, 4]},
            {"w": np.ones((1, 1, 1, 1), np.float32)},
        ),
        "'c'.*pads",
    ),
    "dilation over int64": (
        net(
            [node("Conv", ["x", "w"], ["y"], "c", dilations=[2**62, 2**62])],
            {"x": [1, 1, 4, 4]},
            {"w": np.ones((1, 1, 3, 3), np.float32)},
        ),
        "'c'.*(dilation|window|stride)",
    ),
    "scale of 1e30": (
        net([node("Resize", ["x", "", "s"], ["y"], "r")], {"x": [4]}, {"s": f32(1e30)}),
        "'r'.*an output size is out of range",
    ),
    "blocks over int64": (
        net([node("DepthToSpace", ["x"], ["y"], "d", blocksize=2**32)], {"x": [1, 4, 2, 2]}),
        "'d'.*block",
    ),
}

# Contrib ops -------------------------------------------------------------------------------------


def contrib(op: str, inputs: dict[str, Any], constants: dict[str, Any] | None = None, **how: Any):
    names = [*inputs, *(constants or {})]
    given = {k: v for k, v in inputs.items() if not k.startswith("_")}
    names = ["" if n.startswith("_") else n for n in names]
    return net([node(op, names, ["y"], "n", domain="com.microsoft", **how)], given, constants)


CONTRIB = {
    "heads that do not divide": (
        contrib("MultiHeadAttention", {"q": [1, 2, 10], "k": [1, 2, 10], "v": [1, 2, 10]},
                num_heads=3),
        "'n'.*3 heads do not divide 10",
    ),
    "attention without weights": (
        contrib("Attention", {"x": [1, 2, 8]}, num_heads=2), "'n'.*missing"),
    "attention with a float head count": (
        contrib("Attention", {"x": [1, 2, 8], "w": [8, 24], "b": [24]}, num_heads=2.0),
        "'n'.*num_heads.*FLOAT",
    ),
    "attention weights that do not fit": (
        contrib("Attention", {"x": [1, 2, 8], "w": [6, 24], "b": [24]}, num_heads=2),
        "'n'.*(weight|8)",
    ),
    "skip layer norm without gamma": (
        contrib("SkipLayerNormalization", {"x": [1, 2, 8], "s": [1, 2, 8]}), "'n'.*missing"),
    "skip of another shape": (
        contrib("SkipLayerNormalization", {"x": [1, 2, 8], "s": [1, 3, 8], "g": [8]}),
        "'n'.*(broadcast|shape|skip)",
    ),
    "bias gelu without bias": (contrib("BiasGelu", {"x": [2, 4]}), "'n'.*missing"),
    "bias gelu of another length": (
        contrib("BiasGelu", {"x": [2, 4], "b": [3]}), "'n'.*broadcast"),
    "op that is not implemented": (
        contrib("FusedConv", {"x": [1, 1, 4, 4], "w": [1, 1, 3, 3]}, activation="Mish9"),
        "FusedConv.*com.microsoft.*'n'",
    ),
    "5-bit weights": (
        contrib("MatMulNBits", {"x": [1, 16], "w": (U8, [1, 1, 8]), "s": [1]}, bits=5, K=16, N=1,
                block_size=16),
        "'n'.*5 bits",
    ),
    "blocks of 0": (
        contrib("MatMulNBits", {"x": [1, 16], "w": (U8, [1, 1, 8]), "s": [1]}, bits=4, K=16, N=1,
                block_size=0),
        "'n'.*block_size",
    ),
    "QLinearAdd without scales": (
        contrib("QLinearAdd", {"x": (U8, [2])}), "'n'.*missing"),
    "DynamicQuantizeMatMul without a scale": (
        contrib("DynamicQuantizeMatMul", {"x": [2, 4], "w": (I8, [4, 3])}), "'n'.*missing"),
}  # fmt: skip

# Integer ops -------------------------------------------------------------------------------------


def qlinear_conv(**changes: Any) -> ModelProto:
    values = {
        "xs": np.float32(0.1), "xz": np.uint8(3), "w": np.ones((2, 1, 1, 1), np.int8),
        "ws": np.float32(0.1), "wz": np.int8(0), "ys": np.float32(0.1), "yz": np.uint8(3),
    } | changes  # fmt: skip
    return net([node("QLinearConv", ["x", *values], ["y"], "q")], {"x": (U8, [1, 1, 4, 4])}, values)


def affine(op: str, x: Any, **values: Any) -> ModelProto:
    how = {k: v for k, v in values.items() if k in ("axis", "block_size", "output_dtype")}
    rest = {k: v for k, v in values.items() if k not in how}
    return net([node(op, ["x", *rest], ["y"], "q", **how)], {"x": x}, rest)


INTEGERS = {
    "x zero point of another type": (qlinear_conv(xz=np.int8(3)), "'q'.*zero"),
    "weight zero point of another type": (qlinear_conv(wz=np.uint8(0)), "'q'.*zero"),
    "y zero point of floats": (qlinear_conv(yz=np.float32(3)), "'q'.*(zero|f32)"),
    "a scale of integers": (qlinear_conv(xs=np.int64(1)), "'q'.*scale"),
    "a scale of 0": (qlinear_conv(xs=np.float32(0)), "'q'.*scale"),
    "weight scales that do not fit": (qlinear_conv(ws=f32(1, 1, 1)), "'q'.*"),
    "float weights": (qlinear_conv(w=np.ones((2, 1, 1, 1), np.float32)), "'q'.*"),
    "scales per channel that do not fit": (
        affine("QuantizeLinear", [2, 3], s=f32(1, 1), z=np.zeros(2, np.uint8), axis=1),
        "'q'.*(scale|3)",
    ),
    "a zero point of another length": (
        affine("DequantizeLinear", (U8, [2, 3]), s=f32(1, 1, 1), z=np.zeros(2, np.uint8)),
        "'q'.*zero",
    ),
    "a zero point of floats": (
        affine("QuantizeLinear", [2, 3], s=np.float32(1), z=np.float32(0)),
        "'q'.*the zero point must be an integer",
    ),
    "output_dtype against the zero point": (
        affine("QuantizeLinear", [2, 3], s=np.float32(1), z=np.uint8(0), output_dtype=I8),
        "'q'.*output_dtype is i8, the zero point u8",
    ),
    "an axis outside": (
        affine("DequantizeLinear", (U8, [2, 3]), s=f32(1, 1, 1), axis=2),
        "'q'.*axis 2",
    ),
    "blocks that do not fit": (
        affine("DequantizeLinear", (U8, [2, 6]), s=np.ones((2, 3), np.float32), axis=1,
               block_size=4),
        "'q'.*(block|group)",
    ),
    "floats dequantized": (
        affine("DequantizeLinear", [2, 3], s=np.float32(1)), "'q'.*f32"),
    "floats in ConvInteger": (
        net([node("ConvInteger", ["x", "w"], ["y"], "q")], {"x": [1, 1, 4, 4], "w": [1, 1, 1, 1]}),
        "'q'.*(f32|integer|u8)",
    ),
    "floats in MatMulInteger": (
        net([node("MatMulInteger", ["x", "w"], ["y"], "q")], {"x": [2, 3], "w": [3, 2]}),
        "'q'.*(f32|integer|u8)",
    ),
}  # fmt: skip

ALL = {
    f"{group}: {name}": case
    for group, cases in (
        ("external", EXTERNAL),
        ("subgraph", SUBGRAPHS),
        ("graph", GRAPHS),
        ("contrib", CONTRIB),
        ("integers", INTEGERS),
    )
    for name, case in cases.items()
}


def listing(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize("name", ALL)
def test_bad_network(name, tmp_path):
    model, message = ALL[name]
    folder = tmp_path / "m"
    folder.mkdir()
    if callable(model):
        model = model(folder)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    before = listing(tmp_path)
    with pytest.raises((octavo.UserError, octavo.FileError, octavo.UnsupportedError)) as caught:
        octavo.save(octavo.load_onnx(path), folder / "out.octavo")
    assert not isinstance(caught.value, octavo.InternalError)
    says_what_to_do(caught.value)
    text = str(caught.value)
    assert str(path) in text or "model.onnx" in text, text
    assert re.search(message, text), text
    assert "\n" not in text
    assert listing(tmp_path) == before


# Calls and files that only values or options make wrong ------------------------------------------

LOOKUP = net(
    [node("Gather", ["t", "i"], ["y"], "rows")],
    {"i": (TensorProto.INT64, ["n"])},
    {"t": np.ones((4, 3), np.float32)},
)
VIEW = net(
    [node("Reshape", ["x", "s"], ["y"], "view")],
    {"x": ["n", 3], "s": (TensorProto.INT64, [2])},
)
SUM = net([node("Add", ["a", "b"], ["y"], "sum")], {"a": ["n", 3], "b": ["m", 3]})
CALLS = {
    "a row that the table lacks": (LOOKUP, (np.array([1, 9]),), "rows.*index 9 is outside"),
    "sizes that a view lacks": (VIEW, (np.ones((2, 3), np.float32), np.array([4, 2])), "view"),
    "shapes that do not broadcast": (
        SUM,
        (np.ones((2, 3), np.float32), np.ones((5, 3), np.float32)),
        "sum",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_bad_values_at_run_time(name, tmp_path):
    model, arguments, message = CALLS[name]
    onnx.save(model, tmp_path / "m.onnx")
    program = octavo.compile(tmp_path / "m.onnx")
    with pytest.raises(octavo.UserError, match=message) as caught:
        program(*arguments)
    says_what_to_do(caught.value)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"opset": 12}, "opset: 12 is outside 13 to"),
        ({"opset": 99}, "opset: 99 is outside 13 to"),
        ({"opset": 21, "ir_version": 7}, "opset 21 needs at least IR version 10, not 7"),
    ],
)
def test_bad_export(keywords, message, model, tmp_path):
    with pytest.raises(octavo.UserError, match=message) as caught:
        octavo.export_onnx(octavo.load_onnx(model), tmp_path / "out.onnx", **keywords)
    says_what_to_do(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_without_onnx_form(tmp_path):
    onnx.save(
        net(
            [node("MatMul", ["x", "w"], ["y"], "fc")],
            {"x": ["n", 3]},
            {"w": np.eye(3, 4, dtype=np.float32)},
        ),
        tmp_path / "m.onnx",
    )
    graph = octavo.load_onnx(tmp_path / "m.onnx")
    graph = octavo.quantize(graph, mode="dynamic", activation="row")
    with pytest.raises(octavo.UserError, match="one scale for all") as caught:
        octavo.export_onnx(graph, tmp_path / "out.onnx")
    says_what_to_do(caught.value)


# Rules and targets -------------------------------------------------------------------------------

RULES = {
    "no JSON": ("rules: []", "not JSON"),
    "no version": ('{"rules": []}', "schema_version must be 1"),
    "another version": ('{"schema_version": 2, "rules": []}', "schema_version must be 1"),
    "no list": ('{"schema_version": 1, "rules": {}}', "'rules' must be a list"),
    "an unknown key": ('{"schema_version": 1, "rules": [], "more": 1}', "unknown key 'more'"),
    "a rule that is text": ('{"schema_version": 1, "rules": ["x"]}', r"rules\[0\] must be an obj"),
    "a name that is a number": (
        '{"schema_version": 1, "rules": [{"name": 3, "precision": "int8"}]}',
        r"rules\[0\]\.name must be text",
    ),
    "no precision": (
        '{"schema_version": 1, "rules": [{"precision": "int8"}, {"name": "a"}]}',
        r"rules\[1\]\.precision is missing",
    ),
    "groups of int8": (
        '{"schema_version": 1, "rules": [{"precision": "int8", "group_size": 32}]}',
        "group_size is for int8_weights and int4_weights only",
    ),
    "groups of half": (
        '{"schema_version": 1, "rules": [{"precision": "int4_weights", "group_size": 0.5}]}',
        "group_size must be a whole number",
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_bad_rules(name, model, tmp_path):
    text, message = RULES[name]
    path = tmp_path / "rules.json"
    path.write_text(text)
    with pytest.raises(octavo.FileError, match=message) as caught:
        octavo.quantize(
            octavo.load_onnx(model), [samples(1)], rules=path, record=tmp_path / "record.json"
        )
    assert "rules.json" in str(caught.value)
    assert "schemas/rules.schema.json" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["rules.json"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda g, _: octavo.lint(g, "abacus"), octavo.UserError, "abacus.*onnxruntime.*tensorrt"),
        (
            lambda g, _: octavo.quantize(g, [samples(1)], mode="guess"),
            octavo.UserError,
            "guess.*static",
        ),
        (
            lambda g, _: octavo.quantize(g, [samples(1)], mode="dynamic", calibrator="mse"),
            octavo.UserError,
            "calibrator",
        ),
        (
            lambda g, _: octavo.quantize(g, mode="static"),
            (octavo.UserError, TypeError),
            "data",
        ),
    ],
)
def test_bad_target_or_mode(call, error, message, model, tmp_path):
    with pytest.raises(error, match=message):
        call(octavo.load_onnx(model), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_there_are_forty_and_each_is_another():
    assert len(ALL) + len(RULES) >= 40
    assert len({str(message) for _, message in ALL.values()}) >= 40
