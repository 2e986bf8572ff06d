"""torch.ops.octavo against NumPy oracles (one rounding per operation) and liboctavo's functions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import octavo

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("torch_seed")]
torch: Any = pytest.importorskip("torch")
import octavo._torch  # noqa: E402

ops = torch.ops.octavo
HALVES = [torch.float16, torch.bfloat16]
DTYPES = [torch.float32, torch.float64, *HALVES]


def layouts(shape: tuple[int, ...] = (4, 6, 7, 9), dtype: Any = torch.float32) -> dict[str, Any]:
    """Tensors of one shape over memory of every kind."""
    x = torch.randn(shape, dtype=dtype)
    n, c, h, w = shape
    return {
        "contiguous": x,
        "channels_last": torch.randn(shape, dtype=dtype).to(memory_format=torch.channels_last),
        "transposed": torch.randn((w, c, h, n), dtype=dtype).permute(3, 1, 2, 0),
        "sliced": torch.randn((n, c, 2 * h, w), dtype=dtype)[:, :, ::2],
        "offset": torch.randn(n * c * h * w + 1, dtype=dtype)[1:].view(shape),
        "expanded": torch.randn((c, 1, 1), dtype=dtype).expand(shape),
        "flipped": torch.randn(shape, dtype=dtype).flip(1).transpose(2, 3).transpose(2, 3),
    }


def dense(x: Any) -> bool:
    return bool(torch.empty_like(x).stride() == x.stride())


def wide(x: Any) -> Any:
    """What is computed in: float64 of float64, float32 of the others, in NumPy."""
    return x.detach().to(torch.float64 if x.dtype == torch.float64 else torch.float32).numpy()


def nvidia_oracle(x: Any, amax: Any, bits: int, unsigned: bool, narrow: bool) -> tuple[Any, Any]:
    """Integers and scales, each operation rounded once in the type of x."""
    v = wide(x)
    a = amax.to(torch.float64 if v.dtype == np.float64 else torch.float32).numpy()
    bound = v.dtype.type(2 ** (bits - 1 + unsigned) - 1)
    with np.errstate(all="ignore"):
        scale = np.where(a <= 2.0**-24, v.dtype.type(0), bound / a)
        product = v * scale
        least = 0 if unsigned else -bound if narrow else -bound - 1
        q = np.clip(np.rint(np.where(np.isnan(product), 0, product)), least, bound) + 0.0
    assert q.dtype == v.dtype
    return q, np.where(scale == 0, v.dtype.type(1), scale)


def same(result: Any, oracle: Any, dtype: Any) -> bool:
    """Equal bits: the oracle rounded once to the stored type."""
    expected = torch.from_numpy(np.array(oracle)).to(dtype)
    return result.dtype == dtype and torch.equal(result, expected)


AMAX_SHAPES = [(), (1,), (6, 1, 1), (1, 6, 1, 1), (4, 1, 1, 1), (9,), (1, 6, 7, 1), (4, 1, 7, 1)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", AMAX_SHAPES)
def test_fake_tensor_quant_matches_the_oracle(dtype, shape):
    for name, x in layouts(dtype=dtype).items():
        amax = (torch.rand(shape) * 3).to(dtype)
        if amax.numel() > 1:
            amax.view(-1)[1] = 0
        for bits, unsigned, narrow in [(8, False, True), (8, False, False), (4, True, True)]:
            v = x.abs() if unsigned else x
            q, scale = nvidia_oracle(v, amax, bits, unsigned, narrow)
            y = ops.fake_tensor_quant(v, amax, bits, unsigned, narrow)
            assert same(y, q / scale, dtype), (name, bits, unsigned, narrow)
            if dense(v):
                assert y.stride() == v.stride(), name


def test_the_worked_example():
    torch.manual_seed(12345)
    x = torch.rand(10)
    q, scale = ops.tensor_quant(x, x.abs().max())
    assert q.tolist() == [126, 113, 127, 59, 11, 23, 47, 73, 43, 27]
    assert round(scale.item(), 4) == 128.0057
    fake = ops.fake_tensor_quant(x, x.abs().max())
    expected = [0.9843, 0.8828, 0.9921, 0.4609, 0.0859, 0.1797, 0.3672, 0.5703, 0.3359, 0.2109]
    assert [round(v, 4) for v in fake.tolist()] == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensor_quant_gives_integers_and_scale(dtype):
    for name, x in layouts(dtype=dtype).items():
        for shape in [(), (6, 1, 1)]:
            amax = (torch.rand(shape) + 0.5).to(dtype)
            q, scale = nvidia_oracle(x, amax, 8, False, True)
            outputs, scales = ops.tensor_quant(x, amax)
            assert same(outputs, q, dtype), name
            assert same(scales, scale, dtype) and scales.shape == amax.shape


@pytest.mark.parametrize("arithmetic", ["nvidia", "onnx", "torch"])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("granularity", ["tensor", "axis", "group"])
def test_scheme_operators_equal_liboctavo(arithmetic, affine, granularity):
    rng = np.random.default_rng(torch.initial_seed() % 2**32)
    for axis in (0, 1, 2, -1):
        for bits, signed, narrow in [
            (8, True, False),
            (8, True, True),
            (4, False, False),
            (16, True, False),
        ]:
            scheme = octavo.Scheme(
                bits=bits, signed=signed, narrow=narrow, symmetric=not affine,
                granularity=granularity, axis=axis, group_size=4 if granularity == "group" else 0,
            )  # fmt: skip
            x = rng.normal(size=(5, 6, 10)).astype(np.float32)
            shape: tuple[int, ...] = ()
            if granularity == "axis":
                shape = (x.shape[axis],)
            elif granularity == "group":
                shape = tuple(-(-n // 4) if i == axis % 3 else n for i, n in enumerate(x.shape))
            scale = rng.uniform(0.01, 0.2, size=shape).astype(np.float32)
            if arithmetic == "nvidia" and not affine:
                scale = np.asarray(1 / scale, np.float32)
            zero = rng.integers(scheme.least, scheme.most + 1, size=shape) if affine else None
            arguments = (
                torch.from_numpy(np.asarray(scale)), None if zero is None else torch.tensor(zero),
                axis, scheme.group_size, bits, signed, narrow, arithmetic,
            )  # fmt: skip
            given = (scheme, scale, zero, arithmetic)
            q = octavo.quantize_tensor(x, *given)
            assert np.array_equal(ops.quantize(torch.from_numpy(x), *arguments).numpy(), q)
            back = ops.dequantize(torch.from_numpy(q), *arguments).numpy()
            assert back.tobytes() == octavo.dequantize_tensor(q, *given).tobytes()
            fake = ops.fake_quantize(torch.from_numpy(x), *arguments).numpy()
            assert fake.tobytes() == octavo.fake_quantize(x, *given).tobytes()
            assert fake.tobytes() == back.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_fake_affine_matches_the_oracle(dtype):
    for name, x in layouts(dtype=dtype).items():
        least, most = torch.tensor(-0.7), torch.tensor(1.9)
        v = wide(x)
        lo, hi = (v.dtype.type(t.item()) for t in (least, most))
        step = (hi - lo) / v.dtype.type(255)
        zero = np.rint(lo / step) + 128
        q = np.clip(np.rint(v / step) - zero, -128, 127)
        y = ops.fake_affine_tensor_quant(x, least, most)
        assert same(y, (q + zero) * step, dtype), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_e4m3_equals_torchs_float8(dtype):
    edges = torch.tensor([0.0, 2.0**-24, 2.0**-25, 448.0, 464.0, 1e30])
    spread = torch.randn(4000) * 10.0 ** torch.randint(-6, 4, (4000,))
    x = torch.cat([spread, edges]).to(dtype)
    v = torch.from_numpy(wide(x))
    fp8 = v.clamp(-448, 448).to(torch.float8_e4m3fn).to(v.dtype)
    expected = torch.where(v.abs() < 2.0**-24, 0, fp8)
    assert torch.equal(ops.scaled_e4m3(x, None), expected.to(dtype))
    amax = torch.tensor(3.0, dtype=v.dtype)
    scale = torch.div(torch.tensor(448.0, dtype=v.dtype), amax)
    fp8 = (v * scale).clamp(-448, 448).to(torch.float8_e4m3fn).to(v.dtype) / scale
    expected = torch.where(v.abs() < 2.0**-24, 0, fp8)
    assert torch.equal(ops.scaled_e4m3(x, amax), expected.to(dtype))


def test_gradients_are_straight_through_and_inclusive():
    x = torch.tensor([-2.0, -1.0, -0.5, 0.0, 1.0, 1.0000001, 3.0, float("nan")], requires_grad=True)
    grad = torch.arange(1.0, 9.0)
    one = torch.tensor(1.0, requires_grad=True)
    inside = torch.tensor([0.0, 1, 1, 1, 1, 0, 0, 0])
    for f in (
        lambda: ops.fake_tensor_quant(x, one),
        lambda: ops.tensor_quant(x, one)[0],
        lambda: ops.scaled_e4m3(x, one),
        lambda: ops.fake_affine_tensor_quant(x, -one, one),
    ):
        x.grad = None
        f().backward(grad)
        assert torch.equal(x.grad, grad * inside)
    assert one.grad is None
    # 0.5 quantizes to 127 / 2 and 1.004 still rounds to 127: what is within after rounding passes.
    y = torch.tensor([-1.1, -1.004, 0.3, 1.003, 1.004], requires_grad=True)
    ops.fake_quantize(y, torch.tensor(1 / 127), None, 0, 0, 8, True, True, "onnx").sum().backward()
    rounded = np.rint(wide(y) / np.float32(1 / 127))
    assert y.grad.tolist() == [float(abs(r) <= 127) for r in rounded]


def test_per_channel_gradient():
    for name, x in layouts().items():
        v = x.detach().requires_grad_()
        amax = torch.rand(6, 1, 1) + 0.2
        grad = torch.randn(x.shape)
        (got,) = torch.autograd.grad(ops.fake_tensor_quant(v, amax), v, grad)
        assert torch.equal(got, torch.where(x.abs() <= amax, grad, 0)), name


def test_learnable_clip_takes_gradients_from_outside():
    x = torch.tensor([-2.0, -1.0, 0.5, 1.5, 2.0], requires_grad=True)
    low, high = (torch.tensor(v, requires_grad=True) for v in (-1.0, 1.5))
    y = ops.learnable_clip(x, low, high)
    assert y.tolist() == [-1, -1, 0.5, 1.5, 1.5]
    y.backward(torch.tensor([1.0, 2, 4, 8, 16]))
    assert x.grad.tolist() == [0, 0, 4, 0, 0]
    assert (low.grad.item(), high.grad.item()) == (3, 24)


def test_learnable_clip_gradcheck():
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    low = (-torch.rand(7, dtype=torch.float64)).requires_grad_()
    high = torch.rand(5, 1, dtype=torch.float64).requires_grad_()
    # Away from the corners, where there is no derivative.
    near = (x - low).abs().minimum((x - high).abs()) < 1e-3
    with torch.no_grad():
        x[near] = 100.0
    assert torch.autograd.gradcheck(ops.learnable_clip, (x, low, high))


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_learnable_step_has_the_gradients_of_lsq(axis):
    x = torch.randn(5, 6, 4, dtype=torch.float64, requires_grad=True)
    count = 1 if axis is None else x.shape[axis]
    step = (torch.rand(count, dtype=torch.float64) * 0.1 + 0.01).requires_grad_()
    grad = torch.randn(5, 6, 4, dtype=torch.float64)
    y = ops.learnable_step(x, step, None, axis or 0, 4, True, False, 0.25)
    y.backward(grad)
    s = step.detach().view([-1 if i == axis else 1 for i in range(3)])
    v = x.detach() / s
    assert torch.equal(y, v.round().clamp(-8, 7) * s)
    inside = (v > -8) & (v < 7)
    assert torch.equal(x.grad, grad * inside)
    slope = torch.where(inside, v.round() - v, v.clamp(-8, 7)) * grad * 0.25
    expected = slope.sum() if axis is None else slope.sum([i for i in range(3) if i != axis])
    # Sums of 120 terms of at most 2, in any order.
    assert torch.allclose(step.grad, expected.view(-1), rtol=0, atol=120 * 2 * 120 * 2.0**-53)


def test_step_gradient_does_not_depend_on_threads():
    code = (
        "import torch, octavo._torch\n"
        "torch.manual_seed(1)\n"
        "x = torch.randn(300, 1000); s = torch.full((1,), 0.03, requires_grad=True)\n"
        "torch.ops.octavo.learnable_step(x, s, None, 0, 8, True, False, 1.0).backward(x)\n"
        "print(s.grad.item().hex())\n"
    )
    results = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env=os.environ | {"OCTAVO_NUM_THREADS": threads},
        ).stdout
        for threads in ("1", "2", "3")
    }  # fmt: skip
    assert len(results) == 1


def test_double_backward():
    x = torch.tensor([-2.0, 0.3, 5.0], dtype=torch.float64, requires_grad=True)
    one = torch.tensor(1.0, dtype=torch.float64)
    scale = torch.tensor(0.01, dtype=torch.float64)
    for f in (
        lambda: ops.fake_tensor_quant(x, one),
        lambda: ops.fake_quantize(x, scale, None, 0, 0, 8, True, False, "onnx"),
    ):
        grad = torch.ones(3, dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(f(), x, grad, create_graph=True)
        (second,) = torch.autograd.grad(first, grad, torch.full((3,), 3.0, dtype=torch.float64))
        assert second.tolist() == [0, 3, 0]


def test_non_finite_values():
    x = torch.tensor([float("nan"), float("inf"), float("-inf"), 1e38, -1e-45])
    amax = torch.tensor(2.0)
    assert ops.fake_tensor_quant(x, amax).tolist() == [0, 2, -2, 2, 0]
    assert ops.tensor_quant(x, amax)[0].tolist() == [0, 127, -127, 127, 0]
    scale = torch.tensor(0.5)
    assert ops.quantize(x, scale, None, 0, 0, 8, True, False, "onnx").tolist() == [
        0, 127, -128, 127, 0,
    ]  # fmt: skip
    e4m3 = ops.scaled_e4m3(x, None)
    assert torch.isnan(e4m3[0]) and e4m3[1:].tolist() == [448, -448, 448, 0]
    clipped = ops.learnable_clip(x, torch.tensor(-1.0), torch.tensor(1.0))
    assert torch.isnan(clipped[0]) and clipped[1:4].tolist() == [1, -1, 1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_and_scalar_tensors(dtype):
    one = torch.tensor(1.0)
    for shape in [(0,), (3, 0, 2)]:
        x = torch.empty(shape, dtype=dtype, requires_grad=True)
        y = ops.fake_tensor_quant(x, one)
        assert y.shape == shape and y.dtype == dtype
        y.sum().backward()
        assert x.grad.shape == shape
        assert ops.quantize(x, one, None, 0, 0, 8, True, False, "onnx").shape == shape
        assert ops.learnable_clip(x, -one, one).shape == shape
    x = torch.tensor(0.3, dtype=dtype)
    q, scale = nvidia_oracle(x, one, 8, False, True)
    assert same(ops.fake_tensor_quant(x, one), q / scale, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_variant(dtype):
    amax = torch.rand(6, 1, 1) + 0.5
    for name, x in layouts(dtype=dtype).items():
        expected = ops.fake_tensor_quant(x, amax)
        reverse = torch.empty(x.shape[::-1], dtype=dtype).permute(3, 2, 1, 0)
        for out in (torch.empty_like(x), reverse, torch.empty(0, dtype=dtype)):
            result = ops.fake_tensor_quant.out(x, amax, out=out)
            assert result is out and torch.equal(out, expected), name
        if dense(x):
            clone = x.clone()
            ops.fake_tensor_quant.out(clone, amax, out=clone)
            assert torch.equal(clone, expected)
    with pytest.raises(RuntimeError, match="out="):
        ops.fake_tensor_quant.out(
            torch.ones(3, requires_grad=True), amax[0, 0, 0], out=torch.empty(3)
        )
    with pytest.raises(TypeError, match="out is Double"):
        ops.fake_tensor_quant.out(torch.ones(3), amax[0], out=torch.empty(3).double())


def test_a_large_tensor_takes_the_same_steps():
    # Written past the caches, from an odd address on, in both layouts of channels.
    x = torch.randn(3 * 1024 * 1024 + 7)[7:].view(3, 1024, 1024)
    for shape in [(), (3, 1, 1), (1024, 1), (1024,)]:
        amax = torch.rand(shape) + 0.5
        q, scale = nvidia_oracle(x, amax, 8, False, True)
        assert same(ops.fake_tensor_quant(x, amax), q / scale, torch.float32)


MISTAKES = [
    (lambda x, a: ops.fake_tensor_quant(x, a, 8, True), TypeError, "Negative values encountered"),
    (lambda x, a: ops.tensor_quant(x, a, 8, True), TypeError, "Negative values encountered"),
    (lambda x, a: ops.fake_tensor_quant(x, -a), ValueError, "Negative values in amax"),
    (lambda x, a: ops.tensor_quant(x, -a), ValueError, "Negative values in amax"),
    (lambda x, a: ops.fake_tensor_quant(x, a * float("nan")), ValueError, "NaN in amax"),
    (lambda x, a: ops.fake_tensor_quant(x, a * float("inf")), ValueError, "infinite"),
    (lambda x, a: ops.fake_tensor_quant(x, torch.ones(5)), ValueError, "does not broadcast"),
    (lambda x, a: ops.fake_tensor_quant(x, a, 1), ValueError, "num_bits is 1"),
    (lambda x, a: ops.fake_tensor_quant(x, a, 64), ValueError, "num_bits is 64"),
    (lambda x, a: ops.fake_tensor_quant(x.int(), a), TypeError, "inputs is Int"),
    (lambda x, a: ops.tensor_quant(x.half(), a * 1e-4), ValueError, "too large for FP16"),
    (lambda x, a: ops.fake_affine_tensor_quant(x, a, -a), ValueError, "upside down"),
    (lambda x, a: ops.fake_affine_tensor_quant(x, a * 1e9, a * 1e9 + 64), ValueError, "too far"),
    (lambda x, a: ops.scaled_e4m3(x, a, 5, 2), NotImplementedError, "4 exponent"),
    (lambda x, a: ops.scaled_e4m3(x, -a), ValueError, "amax"),
    (lambda x, a: quantize(x, a, bits=17), ValueError, "17 bits"),
    (lambda x, a: quantize(x, a * 0), ValueError, "a scale of 0"),
    (lambda x, a: quantize(x, a, zero_point=torch.tensor(200)), ValueError, "zero point of 200"),
    (lambda x, a: quantize(x, a, zero_point=torch.tensor(0.5)), ValueError, "zero point of 0.5"),
    (lambda x, a: quantize(x, torch.ones(3)), ValueError, "as many as axis 0"),
    (lambda x, a: quantize(x, torch.ones(3), axis=4), IndexError, "axis 4"),
    (lambda x, a: quantize(x, torch.ones(3), group_size=2), ValueError, "groups of 2"),
    (lambda x, a: quantize(x, a, arithmetic="fast"), ValueError, "'fast' is not known"),
    (lambda x, a: ops.learnable_clip(x, a * float("nan"), a), ValueError, "bound is NaN"),
    (
        lambda x, a: ops.dequantize(x.short(), a, None, 0, 0, 8, True, False, "onnx"),
        TypeError,
        "q is Short",
    ),
]


def quantize(x: Any, scale: Any, zero_point: Any = None, **changes: Any) -> Any:
    how = {"axis": 0, "group_size": 0, "bits": 8, "arithmetic": "onnx"} | changes
    return ops.quantize(x, scale, zero_point, is_signed=True, narrow=False, **how)


@pytest.mark.parametrize(("call", "error", "text"), MISTAKES)
def test_mistakes(call, error, text):
    with pytest.raises(error, match=text):
        call(torch.tensor([-1.0, 2.0]), torch.tensor(1.0))


def operator_calls() -> list[tuple[Any, tuple[Any, ...]]]:
    def x(dtype: Any = torch.float32) -> Any:
        return torch.randn(3, 4, 5, dtype=dtype, requires_grad=True)

    one, channels = torch.tensor(1.0), torch.rand(4, 1) + 0.5
    scheme = (1, 0, 8, True, False, "onnx")
    return [
        (ops.fake_tensor_quant.default, (x(), one)),
        (ops.fake_tensor_quant.default, (x(torch.bfloat16), channels, 8, False, False)),
        (ops.fake_tensor_quant.default, (x().transpose(0, 2), one)),
        (ops.tensor_quant.default, (x(), channels)),
        (ops.fake_affine_tensor_quant.default, (x(), -one, one)),
        (ops.scaled_e4m3.default, (x(), None)),
        (ops.scaled_e4m3.default, (x(), one)),
        (ops.quantize.default, (x().detach(), channels.view(-1), None, *scheme)),
        (
            ops.dequantize.default,
            (torch.ones(3, 4, 5, dtype=torch.int8), channels.view(-1), None, *scheme),
        ),
        (ops.fake_quantize.default, (x(), channels.view(-1) * 0.01, None, *scheme)),
        (
            ops.fake_quantize.default,
            (x(), torch.rand(3, 2, 5) + 0.1, None, 1, 2, 4, True, False, "torch"),
        ),
        (
            ops.learnable_clip.default,
            (x(), (-channels).requires_grad_(), channels.clone().requires_grad_()),
        ),
        (
            ops.learnable_step.default,
            (x(), (one * 0.1).requires_grad_(), None, 0, 8, True, False, 0.5),
        ),
    ]


@pytest.mark.parametrize("index", range(len(operator_calls())))
def test_opcheck(index):
    """Schema, autograd registration, FakeTensor, AOT dispatch with static and dynamic shapes."""
    operator, arguments = operator_calls()[index]
    torch.library.opcheck(operator, arguments)


def test_meta_tensors_have_the_results_shape_type_and_strides():
    for index, (operator, arguments) in enumerate(operator_calls()):
        real = operator(*arguments)
        meta = operator(*(a.to("meta") if torch.is_tensor(a) else a for a in arguments))
        pairs = zip(*((t if isinstance(t, tuple) else (t,)) for t in (real, meta)), strict=True)
        for r, m in pairs:
            assert m.is_meta and (m.shape, m.dtype, m.stride()) == (r.shape, r.dtype, r.stride()), (
                index,
                operator,
            )


def test_autocast_leaves_types_alone():
    x = torch.randn(4, 5, requires_grad=True)
    amax = torch.tensor(2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for v in (x, x.bfloat16(), x.half()):
            y = ops.fake_tensor_quant(v, amax)
            assert y.dtype == v.dtype
            y.sum().backward()
        product = torch.nn.functional.linear(ops.fake_tensor_quant(x, amax), x)
        assert product.dtype == torch.bfloat16
    plain = ops.fake_tensor_quant(x.bfloat16(), amax)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ops.fake_tensor_quant(x.bfloat16(), amax), plain)
    assert x.grad.dtype == torch.float32


PROGRAM = r"""
#include <ATen/Functions.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <cstdio>

int main() {
  const auto op = c10::Dispatcher::singleton()
                      .findSchemaOrThrow("octavo::fake_tensor_quant", "")
                      .typed<at::Tensor(const at::Tensor&, const at::Tensor&, int64_t, bool,
                                        bool)>();
  const at::Tensor x = at::linspace(-2, 2, 9).requires_grad_();
  const at::Tensor y = op.call(x, at::scalar_tensor(1), 8, false, true);
  y.sum().backward();
  for (int i = 0; i < 9; ++i)
    std::printf("%g %g\n", y[i].item<double>(), x.grad()[i].item<double>());
}
"""


def test_a_cpp_program_calls_the_operators(tmp_path: Path):
    """libtorch and liboctavo_torch alone: no Python in the program."""
    folder, torch_folder = Path(octavo._core.__file__).parent, Path(torch.__file__).parent
    source, program = tmp_path / "program.cpp", tmp_path / "program"
    source.write_text(PROGRAM)
    libraries = [folder / "liboctavo_torch.so"]
    libraries += [torch_folder / "lib" / f"lib{name}.so" for name in ("torch", "torch_cpu", "c10")]
    subprocess.run(
        ["g++", "-std=c++20", f"-isystem{torch_folder}/include", str(source), "-o", str(program),
         "-Wl,--no-as-needed", *map(str, libraries), f"-Wl,-rpath,{torch_folder}/lib:{folder}"],
        check=True,
    )  # fmt: skip
    lines = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split("\n")
    x = torch.linspace(-2, 2, 9)
    expected = ops.fake_tensor_quant(x, torch.tensor(1.0))
    for line, v, y in zip(lines, x, expected, strict=False):
        assert line == f"{y.item():g} {float(abs(v) <= 1):g}"
    assert len(lines) == 10


def test_another_torch_is_refused(tmp_path: Path):
    with pytest.raises(ImportError, match="built without torch operators; build it"):
        octavo._torch._check(octavo._torch._built_against(tmp_path), "2.13.0")
    (tmp_path / "_torch_build.json").write_text('{"torch": "2.12.1+cpu"}\n')
    built = octavo._torch._built_against(tmp_path)
    with pytest.raises(ImportError, match=r"against torch 2\.12\.1\+cpu, and torch 2\.13\.0 is"):
        octavo._torch._check(built, "2.13.0")
    octavo._torch._check(built, "2.12.1+cpu")
