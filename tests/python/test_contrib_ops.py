"""Ops of ONNX Runtime's own domain, com.microsoft, against ONNX Runtime.

Float: both compute in float32 or better, ONNX Runtime with a rounding at every step: `n` steps on
terms of magnitude `m` are within ``n * 2**-24 * m`` (its exp, tanh and erf within 8 units in the
last place, counted as 8 steps). Integers: both round nearly the same real number to a step, so they
are at most one step apart, and only where it lies close to the middle between two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from octavo import _core as core

U = 2.0**-24
Array = NDArray[Any]


def floats(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def integers(dtype: type, *shape: int, seed: int = 0) -> Array:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max + 1, shape).astype(dtype)


def both(
    op: str,
    inputs: list[Array | None],
    attributes: dict[str, Any] | None = None,
    constants: tuple[int, ...] = (),
    outputs: int = 1,
) -> list[tuple[Array, Array]]:
    """Octavo's and ONNX Runtime's outputs; the inputs numbered in `constants` are initializers."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    node = helper.make_node(
        op, names, [f"y{i}" for i in range(outputs)], "node", domain="com.microsoft",
        **(attributes or {}),
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "contrib",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for i, (n, x) in enumerate(zip(names, inputs, strict=True))
            if x is not None and i not in constants
        ],
        [helper.make_empty_tensor_value_info(f"y{i}") for i in range(outputs)],
        [numpy_helper.from_array(np.asarray(inputs[i]), names[i]) for i in constants],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    ).SerializeToString()
    feed = {
        n: x
        for i, (n, x) in enumerate(zip(names, inputs, strict=True))
        if x is not None and i not in constants
    }
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    wanted = session.run(None, feed)
    program = core.compile_graph(core.load_onnx_bytes(model))
    return list(zip(program(feed), wanted, strict=True))


def check(pairs: list[tuple[Array, Array]], bound: float) -> None:
    for ours, theirs in pairs:
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        error = np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max()
        assert error <= bound, error


@pytest.mark.parametrize("op", ["Gelu", "FastGelu", "QuickGelu"])
def test_gelu(op):
    x = floats(4, 33, scale=2)
    check(both(op, [x]), 16 * U * float(np.abs(x).max()))


def test_gelu_with_a_bias():
    x, b = floats(4, 16), floats(16, seed=1)
    for op in ("BiasGelu", "FastGelu"):
        check(both(op, [x, b]), 16 * U * float(np.abs(x + b).max()))


@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_skip_layer_norm(op):
    x, skip, scale, bias = (
        floats(2, 3, 16),
        floats(2, 3, 16, seed=1),
        floats(16, seed=2),
        floats(16),
    )
    inputs = [x, skip, scale, bias] if op == "SkipLayerNormalization" else [x, skip, scale]
    # 16 terms in a mean, a square and a root
    check(both(op, inputs, {"epsilon": 1e-5}), 40 * U * 8)


@pytest.mark.parametrize("masked", [False, True])
def test_multi_head_attention(masked):
    q, k, v = (floats(2, n, 32, seed=i) for i, n in enumerate((5, 7, 7)))
    mask = np.array([[1] * 7, [1] * 4 + [0] * 3], np.int32) if masked else None
    # sums of 8 and of 7 products, an exp
    check(both("MultiHeadAttention", [q, k, v, None, mask], {"num_heads": 4}), 64 * U * 8)


@pytest.mark.parametrize("causal", [0, 1])
def test_fused_attention(causal):
    x, w, b = floats(2, 6, 16), floats(16, 48, seed=1, scale=0.3), floats(48, seed=2)
    attributes = {"num_heads": 2, "unidirectional": causal}
    check(both("Attention", [x, w, b], attributes, constants=(1, 2)), 64 * U * 16)


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_embedding(interleaved):
    x, angle = floats(2, 5, 32), floats(8, 4, seed=1)
    positions = np.stack([np.arange(5), np.arange(3, 8)])
    inputs = [x, positions, np.cos(angle), np.sin(angle)]
    attributes = {"interleaved": interleaved, "num_heads": 4}
    check(both("RotaryEmbedding", inputs, attributes), 3 * U * 8)


S = [np.float32(0.02), np.float32(0.03), np.float32(0.05)]
Z = [np.uint8(120), np.uint8(131), np.uint8(128)]


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_quantized_binary(op):
    a, b = integers(np.uint8, 4, 50), integers(np.uint8, 4, 50, seed=1)
    check(both(op, [a, S[0], Z[0], b, S[1], Z[1], S[2], Z[2]], constants=(1, 2, 4, 5, 6, 7)), 1)


@pytest.mark.parametrize("op", ["QLinearSigmoid", "QLinearLeakyRelu"])
def test_quantized_unary(op):
    x = integers(np.uint8, 2, 200)
    inputs = [x, S[1], Z[1], np.float32(1 / 256), np.uint8(0)]
    check(both(op, inputs, constants=(1, 2, 3, 4)), 1)


def test_quantized_global_average():
    x = integers(np.uint8, 2, 8, 7, 7)
    inputs = [x, S[1], Z[1], np.float32(0.01), Z[2]]
    check(both("QLinearGlobalAveragePool", inputs, constants=(1, 2, 3, 4)), 1)


def test_quantized_concat():
    a, b = integers(np.uint8, 2, 5), integers(np.uint8, 2, 3, seed=1)
    inputs = [S[2], Z[2], a, S[0], Z[0], b, S[1], Z[1]]
    check(both("QLinearConcat", inputs, {"axis": 1}, constants=(0, 1, 3, 4, 6, 7)), 1)


def test_dynamic_quantize_matmul():
    a, b = floats(3, 16), integers(np.int8, 16, 8)
    inputs = [a, b, np.float32(0.02), np.int8(0), floats(8, seed=1)]
    # The integer product is exact on both sides; a step of `a` decides where it is rounded.
    step = float(max(a.max(), 0) - min(a.min(), 0)) / 255
    bound = 8 * U * 16 * 3 * 128 * 0.02 + step * 0.02 * 128
    check(both("DynamicQuantizeMatMul", inputs, constants=(1, 2, 3, 4)), bound)


@pytest.mark.parametrize("zero_points", [False, True])
def test_matmul_nbits(zero_points):
    k, n, block = 64, 8, 32
    packed = integers(np.uint8, n, k // block, block // 2)
    scales = np.abs(floats(n * k // block, seed=1, scale=0.05)) + np.float32(0.01)
    inputs = [floats(3, k), packed, scales]
    if zero_points:
        inputs.append(integers(np.uint8, n * (k // block // 2), seed=2))
    attributes = {"K": k, "N": n, "bits": 4, "block_size": block}
    constants = tuple(range(1, len(inputs)))
    check(both("MatMulNBits", inputs, attributes, constants), k * U * k * 3 * 16 * 0.2)
