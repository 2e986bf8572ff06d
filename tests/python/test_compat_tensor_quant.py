"""octavo.compat.pytorch_quantization: descriptors, functions, installing."""

from __future__ import annotations

import copy
import importlib
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("octavo._torch")

import octavo.compat  # noqa: E402

pytestmark = pytest.mark.peers


@pytest.fixture
def tq() -> Iterator[Any]:
    octavo.compat.install()
    yield importlib.import_module("pytorch_quantization.tensor_quant")
    octavo.compat.uninstall()


# ---- installing


def test_install_and_uninstall() -> None:
    theirs = types.ModuleType("pytorch_quantization")
    sys.modules["pytorch_quantization"] = theirs
    try:
        octavo.compat.install()
        ours = importlib.import_module("pytorch_quantization")
        assert ours.__name__ == "octavo.compat.pytorch_quantization"
        for name in (
            "calib",
            "calib.histogram",
            "calib.max",
            "cuda_ext",
            "nn.functional",
            "nn.modules._utils",
            "nn.modules.quant_rnn",
            "nn.modules.tensor_quantizer",
            "optim.helper",
            "quant_modules",
            "tensor_quant",
            "utils.quant_logging",
        ):
            module = importlib.import_module(f"pytorch_quantization.{name}")
            assert module is importlib.import_module(f"{ours.__name__}.{name}")
        octavo.compat.install()  # twice is once
        octavo.compat.uninstall()
        assert sys.modules["pytorch_quantization"] is theirs
        assert "pytorch_quantization.nn" not in sys.modules
    finally:
        octavo.compat.uninstall()
        sys.modules.pop("pytorch_quantization", None)
    with pytest.raises(ImportError):
        importlib.import_module("pytorch_quantization")


WITHOUT_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import octavo
import octavo.compat
print(octavo.calibrator_names())
"""


@pytest.mark.parametrize(
    "code",
    [
        "octavo.compat.install()",
        "import octavo.nn",
        "import octavo.quantization",
        "import octavo._export",
        "import octavo.capture",
    ],
)
def test_without_torch(code: str) -> None:
    """octavo works; what needs torch says so, and what to install, in one error."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "'mse'" in done.stdout
    version = torch.__version__
    assert (
        f"ImportError: octavo._torch needs torch, which is not installed; install torch {version}\n"
    ) in done.stderr


def test_a_build_without_torch_says_how_to_get_it() -> None:
    module = importlib.import_module("octavo._torch")
    assert "install torch, then build it in an environment with torch" in module._missing(None)


def test_versions(caplog: pytest.LogCaptureFixture) -> None:
    try:
        for version, axis in (("2.1", 0), ("2.2", 1)):
            octavo.compat.install(version)
            p = importlib.import_module("pytorch_quantization")
            assert p.__version__.startswith(version)
            for dims in (1, 2, 3):
                name = f"QUANT_DESC_8BIT_CONVTRANSPOSE{dims}D_WEIGHT_PER_CHANNEL"
                assert getattr(p.tensor_quant, name).axis == axis
                module = getattr(p.nn, f"QuantConvTranspose{dims}d")(4, 6, 3)
                assert module.weight_quantizer.axis == axis
        with pytest.raises(ValueError, match="num_bits must be > 0"):
            p.tensor_quant.QuantDescriptor(num_bits=0)
        octavo.compat.install("2.1")
        zero = p.nn.TensorQuantizer(p.tensor_quant.QuantDescriptor(num_bits=0))
        assert "num_bits is 0" in caplog.text
        assert not zero(torch.ones(3)).any()
        with pytest.raises(ValueError, match="version"):
            octavo.compat.install("1.0")
    finally:
        octavo.compat.install("2.2")
        octavo.compat.uninstall()


# ---- descriptors


def test_defaults(tq: Any) -> None:
    d = tq.QuantDescriptor()
    assert tq.QuantDescriptor is tq.ScaledQuantDescriptor
    expected = {
        "num_bits": 8,
        "name": None,
        "fake_quant": True,
        "axis": None,
        "amax": None,
        "learn_amax": False,
        "scale_amax": None,
        "calib_method": "max",
        "unsigned": False,
        "narrow_range": False,
    }
    assert {name: getattr(d, name) for name in expected} == expected
    with pytest.raises(AttributeError):
        d.axis = 1
    axes = {
        "8BIT_PER_TENSOR": None,
        "UNSIGNED_8BIT_PER_TENSOR": None,
        "8BIT_LINEAR_WEIGHT_PER_ROW": 0,
        **{f"8BIT_CONV{i}D_WEIGHT_PER_CHANNEL": 0 for i in (1, 2, 3)},
        **{f"8BIT_CONVTRANSPOSE{i}D_WEIGHT_PER_CHANNEL": 1 for i in (1, 2, 3)},
    }
    for name, axis in axes.items():
        d = getattr(tq, f"QUANT_DESC_{name}")
        assert (d.num_bits, d.axis, d.unsigned) == (8, axis, "UNSIGNED" in name)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"num_bits": "8"}, TypeError, "num_bits must be a postive integer"),
        ({"num_bits": 8.0}, TypeError, "num_bits must be a postive integer"),
        ({"num_bits": (5, 2)}, TypeError, "num_bits must be a postive integer"),
        ({"num_bits": -1}, ValueError, "num_bits must be > 0, not -1"),
        ({"name": 3}, TypeError, "name must be a string or None"),
        ({"amax": "oops"}, TypeError, "amax must be float, list or ndarray"),
        ({"amax": 3}, TypeError, "amax must be float, list or ndarray"),
        ({"axis": 0, "learn_amax": True}, TypeError, "axis is ignored and must be None"),
        ({"bits": 3}, TypeError, "Unused keys: .*bits"),
    ],
)
def test_refused_descriptors(tq: Any, arguments: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        tq.QuantDescriptor(**arguments)


EXAMPLES: list[dict[str, Any]] = [
    {},
    {"num_bits": 4, "name": "a", "axis": (1, 2), "amax": 3.1415926536},
    {"axis": 0},
    {"amax": [1.5, 2.5], "unsigned": True},
    {"num_bits": (4, 3)},
    {"learn_amax": True, "scale_amax": 0.9, "fake_quant": False},
    {"narrow_range": True, "calib_method": "histogram"},
]


@pytest.mark.parametrize("arguments", EXAMPLES)
def test_dict_makes_an_equal_descriptor(tq: Any, arguments: dict[str, Any]) -> None:
    """The original's dict() forgets narrow_range and calib_method."""
    d = tq.QuantDescriptor(**arguments)
    again = tq.QuantDescriptor(**d.dict())
    assert again == d
    for name in ("num_bits", "axis", "narrow_range", "calib_method", "unsigned", "fake_quant"):
        assert getattr(again, name) == getattr(d, name)
    assert copy.deepcopy(d) == d
    assert d != tq.QuantDescriptor(num_bits=7)


@pytest.mark.parametrize("arguments", EXAMPLES)
def test_yaml(tq: Any, arguments: dict[str, Any]) -> None:
    pytest.importorskip("yaml")
    d = tq.QuantDescriptor(**arguments)
    assert tq.QuantDescriptor.from_yaml(d.to_yaml()) == d


def test_yaml_of_the_original(tq: Any) -> None:
    pytest.importorskip("yaml")
    text = "amax: 3.1415927410125732\naxis:\n- 1\n- 2\nname: a\nnum_bits: 2\n"
    d = tq.QuantDescriptor.from_yaml(text)
    assert d == tq.QuantDescriptor(num_bits=2, name="a", axis=(1, 2), amax=3.1415926536)
    assert d.to_yaml() == text


def test_text(tq: Any) -> None:
    assert str(tq.QuantDescriptor()) == "QuantDescriptor(8bit fake axis= per-tensor)"
    d = tq.QuantDescriptor(
        num_bits=4, name="w", fake_quant=False, unsigned=True, amax=1.5, scale_amax=0.5
    )
    assert str(d) == ("w: (unsigned 4bit real axis= per-tensor amax=1.5 full_range scale_amax=0.5)")
    assert str(tq.QuantDescriptor(learn_amax=True)).endswith("per-tensor learn_amax)")


# ---- functions: the oracle computes in NumPy float32, each operation rounded


def oracle(x: Any, amax: Any, bits: int, unsigned: bool, narrow: bool) -> tuple[Any, Any, Any]:
    bound = np.float32(2 ** (bits - 1 + unsigned) - 1)
    low = np.float32(0) if unsigned else (-bound if narrow else -bound - 1)
    amax = np.asarray(amax, np.float32)
    zero = amax <= 2**-24
    with np.errstate(divide="ignore"):
        scale = np.where(zero, np.float32(1), bound / amax)
    q = np.where(zero, np.float32(0), np.clip(np.rint(x * scale), low, bound))
    return q, scale, q / scale


@pytest.mark.parametrize("bits", [3, 4, 8, 11])
@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_quantization(
    tq: Any, rng: np.random.Generator, bits: int, unsigned: bool, narrow: bool, axis: int | None
) -> None:
    x = rng.normal(size=(5, 7, 9)).astype(np.float32)
    x = np.abs(x) if unsigned else x
    others = tuple(i for i in range(3) if i != axis)
    amax = np.abs(x).max() if axis is None else np.abs(x).max(others, keepdims=True)
    amax = np.float32(0.8) * amax  # so that some are clipped
    if axis is not None:
        amax.reshape(-1)[1] = 1e-9  # counts as zero
    q, scale, fake = oracle(x, amax, bits, unsigned, narrow)
    tx, ta = torch.from_numpy(x), torch.as_tensor(amax)
    got_q, got_scale = tq.tensor_quant(tx, ta, bits, unsigned, narrow)
    np.testing.assert_array_equal(got_q.numpy(), q)
    np.testing.assert_array_equal(got_scale.numpy(), scale)
    for function in (tq.fake_tensor_quant, tq.legacy_fake_tensor_quant):
        got = function(tx, ta, bits, unsigned, narrow)
        np.testing.assert_array_equal(got.numpy(), fake)
    strided = torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1))).permute(1, 2, 0)
    np.testing.assert_array_equal(
        tq.fake_tensor_quant(strided, ta, bits, unsigned, narrow).numpy(), fake
    )


def test_the_worked_example(tq: Any) -> None:
    torch.manual_seed(12345)
    x = torch.rand(10)
    q, scale = tq.tensor_quant(x, x.abs().max())
    assert q.tolist() == [126, 113, 127, 59, 11, 23, 47, 73, 43, 27]
    assert round(scale.item(), 4) == 128.0057
    fake = tq.fake_tensor_quant(x, x.abs().max())
    rounded = [round(v, 4) for v in fake.tolist()]
    assert rounded == [
        0.9843, 0.8828, 0.9921, 0.4609, 0.0859, 0.1797, 0.3672, 0.5703, 0.3359, 0.2109,
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_is_computed_in_float32(tq: Any, rng: np.random.Generator, dtype: str) -> None:
    x = torch.from_numpy(rng.normal(size=1000).astype(np.float32)).to(getattr(torch, dtype))
    amax = x.float().abs().max()
    _, _, fake = oracle(x.float().numpy(), amax.numpy(), 8, False, True)
    got = tq.fake_tensor_quant(x, amax)
    assert got.dtype == x.dtype
    assert torch.equal(got, torch.from_numpy(fake).to(x.dtype))


def test_refused_values(tq: Any) -> None:
    x = torch.tensor([-1.0, 2.0])
    for function in (tq.tensor_quant, tq.fake_tensor_quant, tq.legacy_fake_tensor_quant):
        with pytest.raises(TypeError, match="Negative values encountered in unsigned"):
            function(x, torch.tensor(2.0), 8, True)
        with pytest.raises(ValueError, match="Negative values in amax"):
            function(x, torch.tensor(-2.0))
        with pytest.raises(ValueError, match="NaN"):
            function(x, torch.tensor(float("nan")))
    half = x.half()
    with pytest.raises(ValueError, match="scale is too large for FP16"):
        tq.tensor_quant(half, torch.tensor(1e-4).half())
    assert torch.isfinite(tq.fake_tensor_quant(half, torch.tensor(1e-4).half())).all()


def test_gradients_pass_where_nothing_is_clipped(tq: Any) -> None:
    x = torch.tensor([-3.0, -2.0, -0.5, 0.0, 1.0, 2.0, 2.5], requires_grad=True)
    grad = torch.arange(1.0, 8.0)
    inside = torch.tensor([0.0, 1, 1, 1, 1, 1, 0])  # |x| = amax is inside
    amax = torch.tensor(2.0)
    for run in (
        lambda: tq.fake_tensor_quant(x, amax),
        lambda: tq.legacy_fake_tensor_quant(x, amax),
        lambda: tq.tensor_quant(x, amax)[0],
        lambda: tq.scaled_e4m3(x, amax),
        lambda: tq.fake_affine_tensor_quant(x, torch.tensor(-2.0), amax),
    ):
        x.grad = None
        run().backward(grad)
        assert torch.equal(x.grad, grad * inside)


def test_affine(tq: Any, rng: np.random.Generator) -> None:
    x = rng.normal(size=1000).astype(np.float32)
    low, high = np.float32(-1.5), np.float32(2.25)
    step = (high - low) / np.float32(255)
    zero = np.rint(low / step) + np.float32(128)
    q = np.clip(np.rint(x / step) - zero, -128, 127)
    expected = (q + zero) * step
    got = tq.fake_affine_tensor_quant(
        torch.from_numpy(x), torch.tensor(float(low)), torch.tensor(float(high))
    )
    np.testing.assert_array_equal(got.numpy(), expected)
    same = tq.fake_affine_tensor_quant(torch.from_numpy(x), float(low), float(high))
    assert torch.equal(same, got)


@pytest.mark.parametrize("amax", [None, 2.0, 1e-3])
def test_e4m3(tq: Any, rng: np.random.Generator, amax: float | None) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = rng.normal(size=2000).astype(np.float32)
    scale = np.float32(1) if amax is None else np.float32(448) / np.float32(amax)
    scaled = np.clip(x * scale, -448, 448)
    expected = scaled.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) / scale
    expected[np.abs(x) < 2**-24] = 0
    got = tq.scaled_e4m3(torch.from_numpy(x), None if amax is None else torch.tensor(amax))
    np.testing.assert_array_equal(got.numpy(), expected)
    with pytest.raises(NotImplementedError, match="E=4 & M=3"):
        tq.scaled_e4m3(torch.from_numpy(x), None, 5, 2)


def test_cuda_ext(tq: Any, rng: np.random.Generator) -> None:
    cuda_ext = importlib.import_module("pytorch_quantization.cuda_ext")
    x = torch.from_numpy(rng.normal(size=(3, 4, 5)).astype(np.float32))
    amax = torch.tensor([0.8, 0.9, 0.7, 0.6])
    expected = tq.fake_tensor_quant(x, amax.view(1, 4, 1), 5)
    assert torch.equal(cuda_ext.fake_tensor_quant_with_axis(x, amax, 1, 5), expected)
    one = tq.fake_tensor_quant(x, torch.tensor(0.7))
    assert torch.equal(cuda_ext.fake_tensor_quant(x, torch.tensor(0.7)), one)
    assert torch.equal(cuda_ext.fake_e4m3fy(x), tq.scaled_e4m3(x))
    cuda_ext.fake_tensor_quant_(x, torch.tensor(0.7))
    assert torch.equal(x, one)


def test_the_functions_of_autograd(tq: Any) -> None:
    x, amax = torch.tensor([0.3, -0.7]), torch.tensor(0.7)
    assert torch.equal(
        tq.FakeTensorQuantFunction.apply(x, amax), tq.LegacyFakeTensorQuantFunction.apply(x, amax)
    )
    assert torch.equal(tq.TensorQuantFunction.apply(x, amax)[0], tq.tensor_quant(x, amax)[0])
    assert torch.equal(tq.ScaledE4M3Function.apply(x), tq.scaled_e4m3(x))
    assert tq.FakeAffineTensorQuantFunction.apply(x, -amax, amax).shape == x.shape


@pytest.mark.parametrize("keepdims", [False, True])
def test_reduce_amax(tq: Any, rng: np.random.Generator, keepdims: bool) -> None:
    reduce_amax = importlib.import_module("pytorch_quantization.utils").reduce_amax
    x = rng.normal(size=(3, 4, 1, 5)).astype(np.float32)
    for axis in (0, 1, -1, (0,), (0, 2), [1, 3], (0, 1, 3)):
        expected = np.abs(x).max(tuple(np.atleast_1d(axis)), keepdims=keepdims)
        got = reduce_amax(torch.from_numpy(x), axis, keepdims).numpy()
        if expected.size == 1:
            expected = expected.reshape(())
        np.testing.assert_array_equal(got, expected)
    assert reduce_amax(torch.from_numpy(x)).shape == ()
    with pytest.raises(ValueError, match="Cannot reduce more axes"):
        reduce_amax(torch.from_numpy(x), (0, 1, 2, 3, 0))
