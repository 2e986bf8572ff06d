"""Small Q/DQ graphs, one per pattern that runtimes treat differently, and what they make of them.

Nodes whose treatment is in question have names of one letter.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Builder:
    """Adds nodes to a graph with input ``x`` f32 [1, 32, 16, 16]; outputs are ``NAME_o``."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(1)
        self.count = 0

    def constant(self, values: Any) -> str:
        self.count += 1
        name = f"constant{self.count}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def tensor(self, dtype: int, values: Any) -> str:
        """Integers of 4 bits too."""
        self.count += 1
        name = f"constant{self.count}"
        self.constants.append(helper.make_tensor(name, dtype, values.shape, values.flatten()))
        return name

    def op(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        self.count += 1
        name = name or f"{op}{self.count}"
        self.nodes.append(helper.make_node(op, inputs, [name + "_o"], name=name, **attributes))
        return name + "_o"

    def qdq(self, x: str, zero: int = 128, scale: Any = 0.05, dtype: Any = np.uint8) -> str:
        scales = np.float32(scale)
        attributes = {} if scales.ndim == 0 else {"axis": 1}
        s = self.constant(scales)
        z = self.constant(np.full(scales.shape, zero, dtype))
        q = self.op("QuantizeLinear", x, s, z, **attributes)
        return self.op("DequantizeLinear", q, s, z, **attributes)

    def weights(
        self, shape: tuple[int, ...], axis: int = 0, dtype: Any = np.int8, zero: int = 0
    ) -> str:
        low = -127 if dtype == np.int8 else 1
        w = self.random.integers(low, low + 254, shape).astype(dtype)
        n = shape[axis]
        s = self.constant(np.full(n, 0.01, np.float32))
        z = self.constant(np.full(n, zero, dtype))
        return self.op("DequantizeLinear", self.constant(w), s, z, axis=axis)

    def conv(self, x: str, name: str, channels: int = 32, kernel: int = 3, **weights: Any) -> str:
        w = self.weights((32, channels, kernel, kernel), **weights)
        return self.op("Conv", x, w, name=name, pads=[kernel // 2] * 4)

    opset, ir_version = 13, 8

    def model(self, output: str) -> onnx.ModelProto:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes, "pattern",
            [value("x", TensorProto.FLOAT, [1, 32, 16, 16])],
            [value(output, TensorProto.FLOAT, None)],
            self.constants,
        )  # fmt: skip
        opset = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opset, ir_version=self.ir_version)


PATTERNS: dict[str, Callable[[Builder], str]] = {}


def pattern(build: Callable[[Builder], str]) -> Callable[[Builder], str]:
    PATTERNS[build.__name__] = build
    return build


def ends(b: Builder, middle: Callable[[str], str], dtype: Any = np.uint8, **last: Any) -> str:
    """Conv A, quantized; `middle`; conv C, quantized."""
    zero = 128 if dtype == np.uint8 else 0
    a = b.conv(b.qdq("x", zero, dtype=dtype), "A")
    return b.qdq(b.conv(middle(a), "C", **last), zero, dtype=dtype)


def silu(b: Builder, x: str) -> str:
    return b.op("Mul", x, b.op("Sigmoid", x, name="S"), name="M")


def clip(b: Builder, x: str, scale: float) -> str:
    bounds = b.constant(np.float32(0)), b.constant(np.float32(6))
    return b.qdq(b.op("Clip", x, *bounds, name="R"), 0, scale)


@pattern
def conv_without_output_quantize(b: Builder) -> str:
    return b.conv(b.qdq("x"), "A")


@pattern
def conv_with_output_quantize(b: Builder) -> str:
    return b.qdq(b.conv(b.qdq("x"), "A"))


@pattern
def relu_to_i8(b: Builder) -> str:
    return ends(b, lambda a: b.qdq(b.op("Relu", a, name="R"), 0, dtype=np.int8))


@pattern
def relu_to_u8(b: Builder) -> str:
    return ends(b, lambda a: b.qdq(b.op("Relu", a, name="R"), 0))


@pattern
def relu_to_u8_with_zero_point(b: Builder) -> str:
    return ends(b, lambda a: b.qdq(b.op("Relu", a, name="R"), 10))


@pattern
def clip_that_quantize_covers(b: Builder) -> str:
    return ends(b, lambda a: clip(b, a, 6 / 255))


@pattern
def clip_wider_than_quantize(b: Builder) -> str:
    return ends(b, lambda a: clip(b, a, 4 / 255))


@pattern
def clip_narrower_than_quantize(b: Builder) -> str:
    return ends(b, lambda a: clip(b, a, 7 / 255))


@pattern
def silu_quantized_behind_only(b: Builder) -> str:
    return ends(b, lambda a: b.qdq(silu(b, a), 10))


@pattern
def silu_quantized_on_both_sides(b: Builder) -> str:
    return ends(b, lambda a: b.qdq(silu(b, b.qdq(a)), 10))


@pattern
def silu_of_i8(b: Builder) -> str:
    i8 = np.int8
    return ends(b, lambda a: b.qdq(silu(b, b.qdq(a, 0, dtype=i8)), 0, dtype=i8), i8)


@pattern
def silu_quantized_throughout(b: Builder) -> str:
    def middle(a: str) -> str:
        x = b.qdq(a)
        s = b.qdq(b.op("Sigmoid", x, name="S"), 0, 1 / 255)
        return b.qdq(b.op("Mul", x, s, name="M"), 10)

    return ends(b, middle)


@pattern
def leaky_relu_quantized_behind_only(b: Builder) -> str:
    return ends(b, lambda a: b.qdq(b.op("LeakyRelu", a, name="L", alpha=0.1), 10))


@pattern
def leaky_relu_quantized_on_both_sides(b: Builder) -> str:
    return ends(b, lambda a: b.qdq(b.op("LeakyRelu", b.qdq(a), name="L", alpha=0.1), 10))


def residual(b: Builder, dtype: Any, both: bool = True, relu: bool = False) -> str:
    zero = 128 if dtype == np.uint8 else 0
    x = b.qdq("x", zero, dtype=dtype)
    a = b.conv(x, "A")
    sum_ = b.op("Add", x, b.qdq(a, zero, dtype=dtype) if both else a, name="D")
    if relu:
        sum_, zero = b.op("Relu", sum_, name="R"), 0
    return b.qdq(b.conv(b.qdq(sum_, zero, dtype=dtype), "C"), zero, dtype=dtype)


@pattern
def residual_of_u8(b: Builder) -> str:
    return residual(b, np.uint8)


@pattern
def residual_of_i8(b: Builder) -> str:
    return residual(b, np.int8)


@pattern
def residual_with_shortcut_only(b: Builder) -> str:
    return residual(b, np.uint8, both=False)


@pattern
def residual_with_relu(b: Builder) -> str:
    return residual(b, np.uint8, relu=True)


def around(
    b: Builder, scale: float | None, op: str, *inputs: str, last: int = 3, **attributes: Any
) -> str:
    """Conv A, quantize, the op, quantize with `scale` or none, conv C."""

    def middle(a: str) -> str:
        y = b.op(op, b.qdq(a), *inputs, name="P", **attributes)
        return y if scale is None else b.qdq(y, scale=scale)

    return ends(b, middle, kernel=last)


POOL = {"kernel_shape": [2, 2], "strides": [2, 2]}
SCALES = {"same_scale": 0.05, "other_scale": 0.04, "no_quantize": None}


def each_scale(name: str, build: Callable[[Builder, float | None], str]) -> None:
    for suffix, scale in SCALES.items():
        PATTERNS[f"{name}_{suffix}"] = lambda b, scale=scale: build(b, scale)


def resize(b: Builder, scale: float | None) -> str:
    sizes = b.constant(np.array([1, 1, 2, 2], np.float32))
    return around(
        b, scale, "Resize", "", sizes, mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )  # fmt: skip


each_scale("resize", resize)
each_scale("max_pool", lambda b, scale: around(b, scale, "MaxPool", **POOL))
each_scale("average_pool", lambda b, scale: around(b, scale, "AveragePool", **POOL))
each_scale("global_pool", lambda b, scale: around(b, scale, "GlobalAveragePool", last=1))
each_scale("transpose", lambda b, scale: around(b, scale, "Transpose", perm=[0, 1, 3, 2]))


@pattern
def mean_that_drops_its_axes(b: Builder) -> str:
    pooled = b.op("ReduceMean", b.qdq(b.conv(b.qdq("x"), "A")), name="P", axes=[2, 3], keepdims=0)
    return b.qdq(b.op("Gemm", b.qdq(pooled), b.weights((32, 32)), name="G", transB=1))


@pattern
def activation_per_channel(b: Builder) -> str:
    return b.qdq(b.conv(b.qdq("x", scale=np.linspace(0.01, 0.2, 32)), "A"))


@pattern
def softmax(b: Builder) -> str:
    return around(b, 1 / 255, "Softmax", axis=-1)


@pattern
def hard_swish(b: Builder) -> str:
    def middle(a: str) -> str:
        x = b.qdq(a)
        return b.qdq(b.op("Mul", x, b.op("HardSigmoid", x, name="H", alpha=1 / 6), name="M"), 10)

    return ends(b, middle)


@pattern
def weights_of_u8(b: Builder) -> str:
    return b.qdq(b.conv(b.qdq("x"), "A", dtype=np.uint8, zero=128))


@pattern
def weights_of_i8_with_zero_point(b: Builder) -> str:
    return b.qdq(b.conv(b.qdq("x"), "A", zero=3))


def two_convs(
    b: Builder, op: str, quantized: tuple[bool, bool], channels: int, **attributes: Any
) -> str:
    x = b.qdq("x")
    sides = [b.conv(x, "A"), b.conv(x, "E")]
    if quantized[0]:
        sides = [b.qdq(side, scale=scale) for side, scale in zip(sides, (0.05, 0.04), strict=True)]
    y = b.op(op, *sides, name="K", **attributes)
    if quantized[1]:
        y = b.qdq(y, scale=0.06)
    return b.qdq(b.conv(y, "C", channels=channels))


@pattern
def product_of_tensors(b: Builder) -> str:
    return two_convs(b, "Mul", (True, True), 32)


@pattern
def concat(b: Builder) -> str:
    return two_convs(b, "Concat", (True, True), 64, axis=1)


@pattern
def concat_without_output_quantize(b: Builder) -> str:
    return two_convs(b, "Concat", (True, False), 64, axis=1)


@pattern
def concat_without_input_quantize(b: Builder) -> str:
    return two_convs(b, "Concat", (False, True), 64, axis=1)


def classifier(
    b: Builder, op: str, *, flatten: bool, output: bool, bias: tuple[str, ...] = ()
) -> str:
    pooled = b.qdq(b.op("GlobalAveragePool", b.qdq(b.conv(b.qdq("x"), "A")), name="P"))
    x = b.op("Flatten", pooled, name="F")
    if flatten:
        x = b.qdq(x)
    if op == "Gemm":
        y = b.op("Gemm", x, b.weights((32, 32)), *bias, name="G", transB=1)
    else:
        y = b.op("MatMul", x, b.weights((32, 32), axis=1), name="G")
    return b.qdq(y) if output else y


@pattern
def gemm_behind_plain_flatten(b: Builder) -> str:
    return classifier(b, "Gemm", flatten=False, output=False)


@pattern
def gemm_with_float_bias(b: Builder) -> str:
    bias = b.constant(np.linspace(-1, 1, 32, dtype=np.float32))
    return classifier(b, "Gemm", flatten=True, output=False, bias=(bias,))


@pattern
def gemm_with_float_bias_and_output_quantize(b: Builder) -> str:
    bias = b.constant(np.linspace(-1, 1, 32, dtype=np.float32))
    return classifier(b, "Gemm", flatten=True, output=True, bias=(bias,))


@pattern
def gemm_with_integer_bias(b: Builder) -> str:
    numbers = (
        np.arange(-16, 16, dtype=np.int32),
        np.full(32, 0.05 * 0.01, np.float32),
        np.zeros(32, np.int32),
    )
    bias = b.op("DequantizeLinear", *map(b.constant, numbers), axis=0)
    return classifier(b, "Gemm", flatten=True, output=False, bias=(bias,))


@pattern
def gemm_without_output_quantize(b: Builder) -> str:
    return classifier(b, "Gemm", flatten=True, output=False)


@pattern
def gemm_with_output_quantize(b: Builder) -> str:
    return classifier(b, "Gemm", flatten=True, output=True)


@pattern
def matmul_without_output_quantize(b: Builder) -> str:
    return classifier(b, "MatMul", flatten=True, output=False)


@pattern
def matmul_with_output_quantize(b: Builder) -> str:
    return classifier(b, "MatMul", flatten=True, output=True)


def weights_alone(name: str, op: str, dtype: int, scales: str | int, **how: int) -> None:
    """A product A of a float activation and integers: one scale, per output ("outputs") or input
    ("inputs"), or in groups along the inputs; `zero` is the zero point."""

    def build(b: Builder) -> str:
        b.opset, b.ir_version = 21, 10
        k, n = (72 if scales == 24 else 64), 96
        x = b.op("Reshape", "x", b.constant(np.array([128, 64])))
        if k != 64:
            x = b.op("MatMul", x, b.constant(np.ones((64, k), np.float32)))
        across = how.get("transB", 0)
        shape, inputs = ((n, k), 1) if across else ((k, n), 0)
        attributes: dict[str, int] = {}
        sizes: list[int] = []
        if scales in ("outputs", "inputs"):
            attributes["axis"] = inputs if scales == "inputs" else 1 - inputs
            sizes = [shape[attributes["axis"]]]
        elif isinstance(scales, int):
            attributes = {"axis": inputs, "block_size": scales}
            sizes = [*shape]
            sizes[inputs] //= scales
        w = b.random.integers(0, 8, shape)
        values = [b.tensor(dtype, w), b.constant(np.full(sizes, 0.01, np.float32))]
        if "zero" in how:
            values.append(b.tensor(dtype, np.full(sizes, how["zero"])))
        dq = b.op("DequantizeLinear", *values, **attributes)
        return b.op(op, x, dq, name="A", **({"transB": 1} if across else {}))

    PATTERNS[f"weights_alone_{name}"] = build


I4, U4, I8, U8 = TensorProto.INT4, TensorProto.UINT4, TensorProto.INT8, TensorProto.UINT8
weights_alone("matmul_i8", "MatMul", I8, "outputs")
weights_alone("matmul_i8_one_scale", "MatMul", I8, "tensor")
weights_alone("matmul_u8", "MatMul", U8, "outputs", zero=131)
weights_alone("matmul_i8_groups_of_16", "MatMul", I8, 16)
weights_alone("matmul_i8_scale_per_input", "MatMul", I8, "inputs")
weights_alone("matmul_i4", "MatMul", I4, "outputs")
weights_alone("matmul_u4_groups_of_32", "MatMul", U4, 32, zero=7)
weights_alone("matmul_i4_groups_of_8", "MatMul", I4, 8)
weights_alone("matmul_i4_groups_of_24", "MatMul", I4, 24)
weights_alone("gemm_i8", "Gemm", I8, "outputs")
weights_alone("gemm_u4_groups_of_16", "Gemm", U4, 16, zero=7)
weights_alone("gemm_i8_transposed", "Gemm", I8, "outputs", transB=1)
weights_alone("gemm_i4_groups_of_16_transposed", "Gemm", I4, 16, transB=1)


@pattern
def weights_alone_conv(b: Builder) -> str:
    return b.conv("x", "A")


@pattern
def weights_alone_depthwise_conv(b: Builder) -> str:
    w = b.weights((32, 1, 3, 3))
    return b.op("Conv", "x", w, name="A", pads=[1] * 4, group=32)


def dynamic(name: str, *, group: int = 0, bias: bool = False, one_scale: bool = False) -> None:
    """DynamicQuantizeLinear, an integer product A (a convolution if `group`), a cast C, both scales
    S multiplied in M, and a bias B."""

    def build(b: Builder) -> str:
        x = "x" if group else b.op("Reshape", "x", b.constant(np.array([128, 64])))
        b.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], ["q", "s", "z"], "dynamic"))
        shape = (32, 32 // group, 3, 3) if group else (64, 96)
        w = b.constant(b.random.integers(-127, 128, shape).astype(np.int8))
        zero = b.constant(np.int8(0))
        if group:
            i = b.op("ConvInteger", "q", w, "z", zero, name="A", pads=[1] * 4, group=group)
            channels: tuple[int, ...] = (32, 1, 1)
        else:
            i = b.op("MatMulInteger", "q", w, "z", zero, name="A")
            channels = (96,)
        f = b.op("Cast", i, name="C", to=TensorProto.FLOAT)
        scale = np.full(() if one_scale else channels, 0.01, np.float32)
        y = b.op("Mul", f, b.op("Mul", "s", b.constant(scale), name="S"), name="M")
        return b.op("Add", y, b.constant(np.ones(channels, np.float32)), name="B") if bias else y

    PATTERNS[f"dynamic_{name}"] = build


dynamic("matmul")
dynamic("matmul_with_bias", bias=True)
dynamic("matmul_with_bias_one_scale", bias=True, one_scale=True)
dynamic("conv", group=1)
dynamic("conv_with_bias", group=1, bias=True)
dynamic("conv_of_two_groups", group=2, bias=True)
dynamic("depthwise_conv", group=32, bias=True)


def model_of(name: str) -> onnx.ModelProto:
    b = Builder()
    return b.model(PATTERNS[name](b))


# ---- what the runtimes do. Treatment: "int8", "float", "weights" for float activations times
# integer weights, or "" for what has no kernel of its own.


def onnxruntime_treatment(model: onnx.ModelProto) -> dict[str, str]:
    """By node name, from the graph that ONNX Runtime's CPU provider would run."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 4
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    types = {v.name: v.type.tensor_type.elem_type for v in [*graph.value_info, *graph.input]}
    makers = {output: node for node in graph.node for output in node.output}

    def holds_integers(value: str) -> bool:
        if types.get(value) in (TensorProto.INT8, TensorProto.UINT8):
            return True
        maker = makers.get(value)
        if maker is None:
            return False
        if maker.op_type in ("Transpose", "Reshape", "Flatten", "MaxPool", "Resize"):
            return holds_integers(maker.input[0])
        return maker.op_type.startswith(("QuantizeLinear", "QLinear", "Nhwc"))

    result = {}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        name = node.name.split("_token")[0]
        if node.op_type == "MatMulNBits":
            result[name] = "weights"
            continue
        integer = node.op_type.startswith(
            ("QLinear", "QGemm", "MatMulInteger", "DynamicQuantizeMatMul", "ConvInteger")
        ) or holds_integers(node.input[0])
        result[name] = "int8" if integer else "float"
    return result


def openvino_treatment(model: onnx.ModelProto) -> dict[str, str]:
    """By node name, from the graph that OpenVINO's CPU plugin would run."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    nodes = [node.name for node in model.graph.node]
    result = {}
    for op in compiled.get_runtime_model().get_ordered_ops():
        info = op.get_rt_info()
        kind, precision, names = (
            info[key].astype(str)
            for key in ("layerType", "runtimePrecision", "originalLayersNames")
        )
        if kind in ("Input", "Output", "Const", "Reorder", "Convert"):
            continue
        # Pointwise regions ("Subgraph") compute in float whatever they read.
        integer = precision in ("u8", "i8") and kind != "Subgraph"
        # The first name is the kernel's own; the others run inside it.
        own = names.split(",")[0]
        matches = [n for n in nodes if own == n or own.startswith((n + "_o", n + "/"))]
        treatment = "int8" if integer else "float"
        if precision in ("u8", "i8", "u4", "i4") and op.input(0).get_element_type().is_real():
            treatment = "weights"
        result[max(matches, key=len, default=own)] = treatment
    return result
