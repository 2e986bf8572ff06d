"""The three arithmetics against NumPy float32 oracles, one rounding per operation, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

import octavo
from octavo import _core

F = NDArray[np.float32]
f32 = np.float32
ISAS = ["portable", "avx2", "avx512", "amx"]


def expand(values: Any, shape: tuple[int, ...], scheme: octavo.Scheme) -> Any:
    """One parameter for each element."""
    if scheme.granularity == "tensor":
        return np.broadcast_to(values.reshape(()), shape)
    axis = scheme.axis % len(shape)
    if scheme.granularity == "axis":
        return np.broadcast_to(
            values.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape
        )
    return np.repeat(values, scheme.group_size, axis).take(range(shape[axis]), axis)


def oracle_quantize(x: F, scheme: octavo.Scheme, s: F, z: Any, arithmetic: str) -> Any:
    with np.errstate(all="ignore"):
        if arithmetic == "nvidia" and scheme.symmetric:
            r = x * s
        elif arithmetic == "torch":
            r = x * (f32(1) / s)
        else:
            r = x / s
        assert r.dtype == np.float32
        r = np.rint(np.where(np.isnan(r), f32(0), r))
    wide = np.clip(r.astype(np.float64), -1e9, 1e9).astype(np.int64) + z
    return np.clip(wide, scheme.least, scheme.most)


def oracle_dequantize(q: Any, scheme: octavo.Scheme, s: F, z: Any, arithmetic: str) -> F:
    whole = (q - z).astype(np.float32)
    if arithmetic == "nvidia" and scheme.symmetric:
        return np.asarray(whole / np.where(s == 0, f32(1), s))
    return np.asarray(whole * s)


def same_bits(a: Any, b: Any) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def random_scheme(rng: np.random.Generator, rank: int) -> octavo.Scheme:
    signed = bool(rng.integers(2))
    return octavo.Scheme(
        bits=int(rng.integers(2, 17)),
        signed=signed,
        narrow=signed and bool(rng.integers(2)),
        symmetric=bool(rng.integers(2)),
        granularity=str(rng.choice(["tensor", "axis", "group"])) if rank else "tensor",
        axis=int(rng.integers(-rank, rank)) if rank else 0,
        group_size=int(rng.integers(1, 9)),
    )


def parameter_shape(shape: tuple[int, ...], scheme: octavo.Scheme) -> tuple[int, ...]:
    if scheme.granularity == "tensor":
        return ()
    axis = scheme.axis % len(shape)
    if scheme.granularity == "axis":
        return (shape[axis],)
    blocks = -(-shape[axis] // scheme.group_size)
    return (*shape[:axis], blocks, *shape[axis + 1 :])


def random_input(rng: np.random.Generator, shape: tuple[int, ...], each: F, scheme: Any) -> F:
    """Values of the scheme's size, halves exactly between steps, and the special ones."""
    size = int(np.prod(shape))
    span = f32(max(scheme.most, 1) * 1.3)
    x = (rng.standard_normal(size) * span).astype(np.float32)
    x[::3] = np.rint(x[::3]) + f32(0.5)
    x = (x.reshape(shape) * each).astype(np.float32).reshape(-1)
    special = np.array(
        [0.0, -0.0, 1e-45, -1e-45, 1e-39, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan], np.float32
    )
    at = rng.integers(0, max(size, 1), min(size // 4, 10))
    x[at] = rng.choice(special, len(at))
    return x.reshape(shape)


@pytest.mark.parametrize("arithmetic", ["nvidia", "onnx", "torch"])
def test_bit_exact(arithmetic: str, rng: np.random.Generator) -> None:
    best = _core.best_isa()
    try:
        for _ in range(150):
            shape = tuple(rng.integers(1, 12, rng.integers(0, 5)))
            if rng.integers(8) == 0:
                shape = (3, int(rng.integers(1, 40000)))
            scheme = random_scheme(rng, len(shape))
            where = parameter_shape(shape, scheme)
            step = (10.0 ** rng.uniform(-6, 3, where)).astype(np.float32)
            multiplies = arithmetic == "nvidia" and scheme.symmetric
            s = np.asarray(f32(1) / step if multiplies else step, np.float32)
            if multiplies and rng.integers(3) == 0:
                s.reshape(-1)[0] = 0
            z = np.zeros(where, np.int32)
            if not scheme.symmetric:
                z = rng.integers(scheme.least, scheme.most + 1, where, dtype=np.int32)
            each, zero = expand(s, shape, scheme), expand(z, shape, scheme).astype(np.int64)
            x = random_input(rng, shape, expand(step, shape, scheme), scheme)
            q = oracle_quantize(x, scheme, each, zero, arithmetic)
            back = oracle_dequantize(q, scheme, each, zero, arithmetic)
            for isa in ISAS:
                _core.set_isa_limit(isa)
                ours = octavo.quantize_tensor(x, scheme, s, z, arithmetic)
                assert same_bits(ours, q.astype(ours.dtype)), (isa, scheme.granularity, shape)
                assert np.array_equal(ours.astype(np.int64), q)
                assert same_bits(octavo.dequantize_tensor(ours, scheme, s, z, arithmetic), back)
                assert same_bits(octavo.fake_quantize(x, scheme, s, z, arithmetic), back)
    finally:
        _core.set_isa_limit(best)


def test_arithmetics_differ_in_the_last_bit_only(rng: np.random.Generator) -> None:
    scheme = octavo.Scheme(narrow=True)
    x = rng.standard_normal(100000).astype(np.float32)
    amax = np.abs(x).max()
    step = f32(amax / f32(127))
    onnx_ = octavo.quantize_tensor(x, scheme, step, arithmetic="onnx").astype(int)
    torch_ = octavo.quantize_tensor(x, scheme, step, arithmetic="torch").astype(int)
    nvidia = octavo.quantize_tensor(x, scheme, f32(127) / amax, arithmetic="nvidia").astype(int)
    assert max(np.abs(onnx_ - torch_).max(), np.abs(onnx_ - nvidia).max()) <= 1


def test_worked_example_of_seed_12345() -> None:
    """pytorch-quantization's: manual_seed(12345); x = torch.rand(10); tensor_quant(x, max)."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(12345)
    x = torch.rand(10).numpy()
    scheme = octavo.Scheme(narrow=True)
    scale, zero = octavo.quantization_parameters(
        f32(0), np.asarray(x.max()), scheme, arithmetic="nvidia"
    )
    assert zero == 0
    assert f"{float(scale):.4f}" == "128.0057"
    q = octavo.quantize_tensor(x, scheme, scale, arithmetic="nvidia")
    assert q.tolist() == [126, 113, 127, 59, 11, 23, 47, 73, 43, 27]
    fake = octavo.fake_quantize(x, scheme, scale, arithmetic="nvidia")
    listed = [0.9843, 0.8828, 0.9921, 0.4609, 0.0859, 0.1797, 0.3672, 0.5703, 0.3359, 0.2109]
    assert np.abs(fake - listed).max() <= 0.5e-4 + 1e-7  # four decimals


def test_parameters_from_ranges(rng: np.random.Generator) -> None:
    low = -(10.0 ** rng.uniform(-5, 5, 500)).astype(np.float32)
    high = (10.0 ** rng.uniform(-5, 5, 500)).astype(np.float32)
    amax = np.maximum(-low, high)
    signed = octavo.Scheme(bits=8)
    for arithmetic, expected in (
        ("nvidia", f32(127) / amax),
        ("onnx", amax / f32(127)),
        ("torch", np.maximum(amax / f32(127.5), np.finfo(np.float32).eps)),
    ):
        scale, zero = octavo.quantization_parameters(low, high, signed, arithmetic)
        assert same_bits(scale, expected)
        assert not zero.any()
    affine = octavo.Scheme(bits=8, signed=False, symmetric=False)
    scale, zero = octavo.quantization_parameters(low, high, affine)
    assert same_bits(scale, (high - low) / f32(255))
    assert np.array_equal(zero, np.clip(0 - np.rint(low / scale), 0, 255).astype(np.int32))
    tiny = np.array([2.0**-24, np.nextafter(f32(2.0**-24), f32(1))], np.float32)
    scale, _ = octavo.quantization_parameters(tiny * 0, tiny, signed, "nvidia")
    assert scale[0] == 0
    assert scale[1] == f32(127) / tiny[1]


def test_half_inputs_are_computed_in_float32(rng: np.random.Generator) -> None:
    scheme = octavo.Scheme(bits=8)
    x = rng.standard_normal(1000).astype(np.float16)
    wide = x.astype(np.float32)
    step = f32(0.0173)
    assert same_bits(
        octavo.quantize_tensor(x, scheme, step), octavo.quantize_tensor(wide, scheme, step)
    )
    fake = octavo.fake_quantize(x, scheme, step)
    assert same_bits(fake, octavo.fake_quantize(wide, scheme, step).astype(np.float16))
    torch = pytest.importorskip("torch")
    half = torch.from_numpy(wide).to(torch.bfloat16)
    assert same_bits(
        octavo.quantize_tensor(half, scheme, step),
        octavo.quantize_tensor(half.float().numpy(), scheme, step),
    )


def test_torch_arithmetic_is_torchs(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    x = (rng.standard_normal((5, 700)) * 3).astype(np.float32)
    scheme = octavo.Scheme(bits=8, signed=False, symmetric=False)
    for _ in range(20):
        step, zero = f32(rng.uniform(0.005, 0.05)), int(rng.integers(0, 256))
        theirs = torch.fake_quantize_per_tensor_affine(
            torch.from_numpy(x), float(step), zero, 0, 255
        )
        ours = octavo.fake_quantize(x, scheme, step, np.int32(zero), "torch")
        assert same_bits(ours, theirs.numpy())


@pytest.mark.parametrize("group", [0, 3])
def test_graph_ops_are_the_onnx_arithmetic(
    group: int, tmp_path: Path, rng: np.random.Generator
) -> None:
    for axis in (0, 1, 2):
        shape = (6, 9, 12)
        scheme = octavo.Scheme(
            bits=8,
            signed=False,
            symmetric=False,
            axis=axis,
            group_size=group,
            granularity="group" if group else "axis",
        )
        where = parameter_shape(shape, scheme)
        s = rng.uniform(0.01, 0.1, where).astype(np.float32)
        z = rng.integers(0, 256, where).astype(np.uint8)
        x = random_input(rng, shape, expand(s, shape, scheme), scheme)
        attributes = {"axis": axis, **({"block_size": group} if group else {})}
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes),
        ]
        graph = helper.make_graph(
            nodes,
            "qdq",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [
                helper.make_tensor_value_info("q", TensorProto.UINT8, shape),
                helper.make_tensor_value_info("y", TensorProto.FLOAT, shape),
            ],
            [onnx.numpy_helper.from_array(s, "s"), onnx.numpy_helper.from_array(z, "z")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        onnx.save(model, str(tmp_path / "qdq.onnx"))
        q, y = _core.interpret(octavo.load_onnx(str(tmp_path / "qdq.onnx")), [x])
        zero = z.astype(np.int32)
        assert same_bits(octavo.quantize_tensor(x, scheme, s, zero), q)
        assert same_bits(octavo.dequantize_tensor(q, scheme, s, zero), y)
        assert same_bits(octavo.fake_quantize(x, scheme, s, zero), y)


def test_matmul_identity(rng: np.random.Generator) -> None:
    """sum (qa-za)(qb-zb) = sum qa qb - zb sum qa - za sum qb + K za zb, and the float of it.

    Both sides of the first are exact integers. The dequantized operands carry one float32 rounding
    for each element, which bounds how far the float64 product may be.
    """
    for _ in range(100):
        m, k, n = rng.integers(1, 40, 3)
        a_scheme = octavo.Scheme(signed=False, symmetric=False, bits=int(rng.integers(2, 9)))
        b_scheme = octavo.Scheme(symmetric=False, bits=int(rng.integers(2, 9)))
        parts = []
        for shape, scheme in (((m, k), a_scheme), ((k, n), b_scheme)):
            x = (rng.standard_normal(shape) + rng.normal()).astype(np.float32)
            s, z = octavo.quantization_parameters(np.asarray(x.min()), np.asarray(x.max()), scheme)
            q = octavo.quantize_tensor(x, scheme, s, z)
            real = octavo.dequantize_tensor(q, scheme, s, z)
            parts.append((q.astype(np.int64), int(z), s, real))
        (qa, za, sa, a), (qb, zb, sb, b) = parts
        direct = (qa - za) @ (qb - zb)
        terms = (
            qa @ qb - zb * qa.sum(1, keepdims=True) - za * qb.sum(0, keepdims=True) + k * za * zb
        )
        assert np.array_equal(direct, terms)
        exact = direct * (np.float64(sa) * np.float64(sb))
        # a and b each carry one float32 rounding per element: (1 + 2^-24)^2 on each product.
        allowed = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64)) * 2.1 * 2.0**-24
        assert (np.abs(a.astype(np.float64) @ b.astype(np.float64) - exact) <= allowed).all()


def test_integer_product_is_the_identity_on_every_isa(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """The INT8 kernels' answer: the exact integer sum, zero point's terms included, times sa sb."""
    best = _core.best_isa()
    path = str(tmp_path / "product.onnx")
    try:
        for _ in range(8):
            m, k, n = (int(v) for v in rng.integers(1, 70, 3))
            a = (rng.standard_normal((m, k)) + rng.normal()).astype(np.float32)
            a_scheme = octavo.Scheme(signed=False, symmetric=False)
            b_scheme = octavo.Scheme(narrow=True)
            b = rng.standard_normal((k, n)).astype(np.float32)
            sa, za = octavo.quantization_parameters(a.min(), a.max(), a_scheme)
            sb, _ = octavo.quantization_parameters(b.min(), b.max(), b_scheme)
            qb = octavo.quantize_tensor(b, b_scheme, sb)
            constants = {"sa": sa, "za": za.astype(np.uint8), "qb": qb, "sb": sb, "zb": np.int8(0)}
            graph = helper.make_graph(
                [
                    helper.make_node("QuantizeLinear", ["x", "sa", "za"], ["q"]),
                    helper.make_node("DequantizeLinear", ["q", "sa", "za"], ["a"]),
                    helper.make_node("DequantizeLinear", ["qb", "sb", "zb"], ["b"]),
                    helper.make_node("MatMul", ["a", "b"], ["y"]),
                ],
                "product",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, (m, k))],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, (m, n))],
                [
                    onnx.numpy_helper.from_array(np.asarray(v), name)
                    for name, v in constants.items()
                ],
            )
            opset = [helper.make_opsetid("", 17)]
            onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
            qa = octavo.quantize_tensor(a, a_scheme, sa, za).astype(np.int64)
            whole = qb.astype(np.int64)
            exact = qa @ whole - int(za) * whole.sum(0, keepdims=True)
            for isa in ISAS:
                _core.set_isa_limit(isa)
                program = octavo.compile(path)
                kernels = [step["kernel"] for step in program.profile(a)]
                assert any(kernel.startswith("gemm_int8") for kernel in kernels), kernels
                assert same_bits(program(a)[0], exact.astype(np.float32) * (sa * sb)), kernels
    finally:
        _core.set_isa_limit(best)


def test_errors() -> None:
    x = np.ones((2, 3), np.float32)
    scheme = octavo.Scheme()
    one = f32(1)
    for bits in (-1, 0, 1, 17):
        with pytest.raises(octavo.UserError, match="2 to 16"):
            octavo.Scheme(bits=bits)
    with pytest.raises(octavo.UserError, match="narrow"):
        octavo.Scheme(signed=False, narrow=True)
    with pytest.raises(octavo.UserError, match="group_size"):
        octavo.Scheme(granularity="group")
    for scale in (0, -1, np.nan, np.inf):
        with pytest.raises(octavo.UserError, match="scale"):
            octavo.quantize_tensor(x, scheme, f32(scale))
    with pytest.raises(octavo.UserError, match="symmetric"):
        octavo.quantize_tensor(x, scheme, one, np.int32(1))
    with pytest.raises(octavo.UserError, match="outside"):
        octavo.quantize_tensor(x, octavo.Scheme(symmetric=False), one, np.int32(128))
    with pytest.raises(octavo.UserError, match="3 scales"):
        octavo.quantize_tensor(x, octavo.Scheme(granularity="axis"), np.ones(3, np.float32))
    with pytest.raises(octavo.UserError, match="axis 2"):
        octavo.quantize_tensor(x, octavo.Scheme(granularity="axis", axis=2), one)
    with pytest.raises(octavo.UserError, match="arithmetic"):
        octavo.quantize_tensor(x, scheme, one, arithmetic="other")
    with pytest.raises(octavo.UserError, match="f32, f16 or bf16"):
        octavo.quantize_tensor(x.astype(np.int32), scheme, one)
    with pytest.raises(octavo.UserError, match="the scheme has i8"):
        octavo.dequantize_tensor(x, scheme, one)
    with pytest.raises(octavo.UserError, match="unsigned"):
        octavo.quantization_parameters(f32(-1), one, octavo.Scheme(signed=False))
    for low, high in ((np.nan, 1), (0, np.inf), (2, 1)):
        with pytest.raises(octavo.UserError, match="range"):
            octavo.quantization_parameters(f32(low), f32(high), scheme)
    with pytest.raises(TypeError):
        octavo.quantize_tensor("text", scheme, one)
