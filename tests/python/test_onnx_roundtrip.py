"""Each ONNX op Octavo reads: its meaning against ONNX Runtime, and what Octavo writes again.

The reference interpreter computes in float64 and rounds once. ONNX Runtime rounds at every step: n
steps on terms of magnitude m are at most n * 2**-24 * m away. Functions such as exp are its own
approximations, within ULPS units in the last place of the larger of 1 and the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import octavo
from octavo import _core as core

U = 2.0**-24
ULPS = 8
OPSETS = range(13, 23)
Array = NDArray[Any]


@dataclass
class Case:
    op: str
    inputs: list[Array]
    constants: list[Array | None] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 17
    # how far from ONNX Runtime the exact result may be, given the arguments and the result
    bound: Callable[[list[Array], Array], Array | float] = lambda _args, _y: 0.0

    @property
    def id(self) -> str:
        return f"{self.op}-{self.opset}-" + "-".join(
            f"{k}{v}".replace(" ", "") for k, v in self.attributes.items()
        )


def array(*shape: int, low: float = -2.0, high: float = 2.0) -> Array:
    generator = np.random.default_rng(abs(hash(shape)) % 2**32)
    return generator.uniform(low, high, shape).astype(np.float32)


def approximated(_args: list[Array], y: Array) -> Array:
    return ULPS * 2 * U * np.maximum(1.0, np.abs(y))


def one_rounding(_args: list[Array], y: Array) -> Array:
    return U * np.abs(y)


def product(args: list[Array], _y: Array) -> float:
    """At most one rounding for each of the products of one output, none above max |x| max |w|."""
    x, w = np.abs(args[0]), np.abs(args[1])
    steps = w[0].size + 2 if w.ndim > 2 else x.shape[-1] + 2
    addend = float(np.abs(args[2]).max()) if len(args) > 2 else 0.0
    return float(steps * U * (steps * x.max() * w.max() + addend))


def steps(count: int, magnitude: float) -> Callable[[list[Array], Array], float]:
    """`count` roundings of intermediate results of at most `magnitude`."""
    return lambda _args, _y: count * U * magnitude


def summed(args: list[Array], _y: Array) -> float:
    return float(args[0].size * U * np.abs(args[0]).sum())


X = array(2, 4, 9, 7)
I64 = np.int64
UNARY = {
    "Relu": None, "Neg": None, "Abs": None, "Floor": None, "Ceil": None, "Round": None,
    "Sigmoid": approximated, "Tanh": approximated, "Exp": approximated, "Erf": approximated,
    "Softplus": approximated, "HardSwish": approximated, "LeakyRelu": one_rounding,
    "Elu": approximated, "HardSigmoid": approximated,
}  # fmt: skip
CASES = [
    *(Case(op, [X], bound=b or (lambda _a, _y: 0.0)) for op, b in UNARY.items()),
    *(
        Case(op, [array(2, 4, 3, low=0.1)], bound=b)
        for op, b in {"Sqrt": one_rounding, "Log": approximated, "Reciprocal": one_rounding}.items()
    ),
    Case("LeakyRelu", [X], attributes={"alpha": 0.3}, bound=one_rounding),
    Case("Elu", [X], attributes={"alpha": 0.7}, bound=approximated),
    Case("HardSigmoid", [X], attributes={"alpha": 0.3, "beta": 0.4}, bound=approximated),
    *(Case(op, [X, array(4, 1, 7, low=0.5)]) for op in ("Add", "Sub", "Mul", "Div")),
    Case("Pow", [array(3, 5, low=0.5)], [np.float32(2.5)], bound=approximated),
    Case("Clip", [X], [np.float32(-0.5), np.float32(1.5)]),
    Case("Clip", [X], [None, np.float32(0.5)]),
    Case("Clip", [X], attributes={"min": -1.0, "max": 0.5}, opset=10),
    Case("Conv", [X], [array(8, 4, 3, 3), array(8)], {"pads": [1, 1, 1, 1]}, bound=product),
    Case("Conv", [X], [array(8, 2, 3, 2)], {"group": 2, "strides": [2, 1]}, bound=product),
    Case("Conv", [X], [array(4, 1, 3, 3)], {"group": 4, "dilations": [2, 2]}, bound=product),
    Case(
        "Conv",
        [X],
        [array(4, 4, 2, 3)],
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        bound=product,
    ),
    Case("Conv", [X], [array(4, 4, 2, 3)], {"auto_pad": "SAME_LOWER"}, bound=product),
    Case("Conv", [array(1, 3, 11)], [array(2, 3, 4)], {"pads": [3, 0]}, bound=product),
    Case("Gemm", [array(3, 5)], [array(5, 4), array(4)], bound=product),
    Case(
        "Gemm",
        [array(5, 3)],
        [array(4, 5)],
        {"transA": 1, "transB": 1, "alpha": 0.5},
        bound=steps(8, 32.0),
    ),
    Case("MatMul", [array(2, 3, 5), array(5, 4)], bound=product),
    Case(
        "BatchNormalization",
        [X],
        [array(4), array(4), array(4), array(4, low=0.5)],
        {"epsilon": 1e-3},
        bound=steps(8, 16.0),
    ),
    Case(
        "MaxPool", [X], attributes={"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}
    ),
    Case("MaxPool", [X], attributes={"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    Case("MaxPool", [X], attributes={"kernel_shape": [2, 2], "dilations": [2, 3]}),
    Case(
        "AveragePool",
        [X],
        attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
        bound=steps(10, 2.0),
    ),
    Case(
        "AveragePool",
        [X],
        attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
        bound=steps(10, 2.0),
    ),
    Case("GlobalAveragePool", [X], bound=steps(64, 2.0)),
    Case("GlobalMaxPool", [X]),
    *(
        Case(op, [X], attributes={"axes": [1, -1], "keepdims": keep}, bound=summed)
        for op in ("ReduceMean", "ReduceMax", "ReduceMin")
        for keep in (0, 1)
    ),
    Case("ReduceMean", [X], [np.array([2, 3], I64)], opset=18, bound=summed),
    Case("ReduceSum", [X], [np.array([0, 2], I64)], {"keepdims": 0}, bound=summed),
    Case("ReduceProd", [array(3, 4, low=0.5)], attributes={"axes": [1]}, bound=steps(8, 16.0)),
    Case("Softmax", [array(3, 5, 7)], attributes={"axis": 1}, bound=approximated),
    Case("Softmax", [array(3, 5)], opset=12, bound=approximated),
    Case("Reshape", [X], [np.array([0, -1, 3], I64)]),
    Case("Flatten", [X]),
    Case("Flatten", [X], attributes={"axis": 2}),
    Case("Flatten", [X], attributes={"axis": 0}),
    Case("Squeeze", [array(2, 1, 3, 1)], [np.array([1], I64)]),
    Case("Squeeze", [array(2, 1, 3, 1)], attributes={"axes": [-1]}, opset=11),
    Case("Unsqueeze", [array(2, 3)], [np.array([0, -1], I64)]),
    Case("Transpose", [X], attributes={"perm": [0, 2, 3, 1]}),
    Case("Transpose", [array(2, 3)]),
    Case("Concat", [X, array(2, 3, 9, 7)], attributes={"axis": 1}),
    Case(
        "Slice",
        [X],
        [
            np.array([1, 8], I64),
            np.array([9, -100], I64),
            np.array([1, 2], I64),
            np.array([1, -3], I64),
        ],
    ),
    Case("Slice", [X], attributes={"starts": [1], "ends": [3], "axes": [2]}, opset=9),
    Case("Split", [X], [np.array([1, 3], I64)], {"axis": 1}, outputs=2),
    Case("Split", [X], attributes={"axis": 1}, outputs=2),
    Case("QuantizeLinear", [X], [np.float32(0.02), np.uint8(128)]),
    Case("QuantizeLinear", [X], [array(4, low=0.01, high=0.1), np.zeros(4, np.int8)], {"axis": 1}),
    Case("DequantizeLinear", [(X * 50).astype(np.int8)], [np.float32(0.02), np.int8(-3)]),
    Case("Identity", [X]),
    Case("Dropout", [X]),
]


def dtype(value: Array) -> int:
    return helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype)


def model_of(case: Case) -> onnx.ModelProto:
    names = [f"x{i}" for i in range(len(case.inputs))]
    constants = [None if c is None else f"c{i}" for i, c in enumerate(case.constants)]
    outputs = [f"y{i}" for i in range(case.outputs)]
    node = helper.make_node(
        case.op,
        [*names, *(c or "" for c in constants)],
        outputs,
        name="the node",
        **case.attributes,
    )
    graph = helper.make_graph(
        [node],
        "case",
        [
            helper.make_tensor_value_info(n, dtype(x), x.shape)
            for n, x in zip(names, case.inputs, strict=True)
        ],
        [helper.make_empty_tensor_value_info(y) for y in outputs],
        [
            numpy_helper.from_array(np.asarray(c), name)
            for c, name in zip(case.constants, constants, strict=True)
            if c is not None and name is not None
        ],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=8
    )
    return onnx.shape_inference.infer_shapes(model)


def run(model: str | bytes, inputs: list[Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_op(case: Case, tmp_path):
    path = tmp_path / "case.onnx"
    model = model_of(case)
    onnx.save(model, path)
    wanted = run(model.SerializeToString(), case.inputs)
    graph = octavo.load_onnx(str(path))
    ours = core.interpret(graph, case.inputs)
    arguments = [*case.inputs, *(np.asarray(c) for c in case.constants if c is not None)]
    for a, b in zip(ours, wanted, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        error = np.abs(a.astype(np.float64) - b)
        assert (error <= case.bound(arguments, b)).all(), float(error.max())

    again = tmp_path / "again.onnx"
    for opset in OPSETS:
        octavo.export_onnx(graph, str(again), opset=opset)
        onnx.checker.check_model(str(again), full_check=True)
        for a, b in zip(run(str(again), case.inputs), wanted, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            # the same kernel again, or another: of another form of the op, of another opset
            exact = case.op not in ("HardSwish", "AveragePool", "ReduceMean")
            error = np.abs(a.astype(np.float64) - b)
            assert (error <= (0.0 if exact else case.bound(arguments, b))).all(), float(error.max())
        back = octavo.load_onnx(str(again))
        twice = tmp_path / "twice.onnx"
        octavo.export_onnx(back, str(twice), opset=opset)
        assert twice.read_bytes() == again.read_bytes()


def test_dynamic_batch_view(tmp_path):
    """x.view(x.size(0), -1), as exporters write it."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]),
        helper.make_node("Concat", ["n1", "minus"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {"zero": np.int64(0), "axes": np.array([0]), "minus": np.array([-1])}
    graph = helper.make_graph(
        nodes,
        "view",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 12])],
        [numpy_helper.from_array(np.asarray(v, np.int64), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "view.onnx"
    onnx.save(model, path)
    loaded = octavo.load_onnx(str(path))
    assert loaded.ops == ["reshape"]
    assert loaded.outputs == [("y", "f32[N, 12]")]
    x = array(5, 3, 4)
    (y,) = core.interpret(loaded, [x])
    np.testing.assert_array_equal(y, x.reshape(5, 12))
