"""octavo.quantization's observers, qconfigs and fake quantizers equal torch.ao's, number by number.

torch.ao is the oracle; nothing of it is used by Octavo.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
oq = pytest.importorskip("octavo.quantization")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch.ao.quantization as tq

pytestmark = [
    pytest.mark.usefixtures("torch_seed"),
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

PER_TENSOR = [torch.per_tensor_affine, torch.per_tensor_symmetric]
PER_CHANNEL = [
    torch.per_channel_affine,
    torch.per_channel_symmetric,
    torch.per_channel_affine_float_qparams,
]
RANGES = [{}, {"quant_min": 0, "quant_max": 127}, {"quant_min": -127, "quant_max": 127}]


def batches(count=5, shape=(6, 5, 4)):
    """Tensors whose ranges differ, all-positive and all-negative ones among them."""
    scale = torch.rand(count) * 4
    made = [torch.randn(shape) * s for s in scale]
    return [*made, torch.rand(shape), -torch.rand(shape)]


def same(ours, theirs):
    for mine, other in zip(ours.calculate_qparams(), theirs.calculate_qparams(), strict=True):
        assert torch.equal(mine.double(), other.double()), (mine, other)
        assert mine.shape == other.shape


@pytest.mark.parametrize("name", ["MinMaxObserver", "MovingAverageMinMaxObserver"])
@pytest.mark.parametrize("dtype", [torch.quint8, torch.qint8])
@pytest.mark.parametrize("qscheme", PER_TENSOR)
@pytest.mark.parametrize("kwargs", [*RANGES, {"reduce_range": True}, {"eps": 2**-12}])
def test_per_tensor(name, dtype, qscheme, kwargs):
    arguments = {"dtype": dtype, "qscheme": qscheme, **kwargs}
    if (
        qscheme == torch.per_tensor_symmetric
        and kwargs.get("reduce_range")
        and dtype != torch.qint8
    ):
        for module in (oq, tq):
            with pytest.raises(NotImplementedError):
                getattr(module, name)(**arguments)
        return
    ours, theirs = getattr(oq, name)(**arguments), getattr(tq, name)(**arguments)
    assert (ours.quant_min, ours.quant_max) == (theirs.quant_min, theirs.quant_max)
    for x in batches():
        assert ours(x) is x
        theirs(x)
        same(ours, theirs)
    assert ours.min_val == theirs.min_val
    assert ours.max_val == theirs.max_val


@pytest.mark.parametrize(
    "name", ["PerChannelMinMaxObserver", "MovingAveragePerChannelMinMaxObserver"]
)
@pytest.mark.parametrize("dtype", [torch.quint8, torch.qint8])
@pytest.mark.parametrize("qscheme", PER_CHANNEL)
@pytest.mark.parametrize("axis", [0, 1])
def test_per_channel(name, dtype, qscheme, axis):
    arguments = {"dtype": dtype, "qscheme": qscheme, "ch_axis": axis}
    ours, theirs = getattr(oq, name)(**arguments), getattr(tq, name)(**arguments)
    for x in batches():
        ours(x)
        theirs(x)
        same(ours, theirs)


def test_known_values():
    """Symmetric scales divide by 127.5; the affine zero point is qmin - round(min / scale)."""
    x = torch.tensor([-1.0, 0.5])
    observer = oq.MinMaxObserver(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric)
    observer(x)
    scale, zero = observer.calculate_qparams()
    assert scale.item() == np.float32(1) / np.float32(127.5)
    assert zero.item() == 0
    observer = oq.MinMaxObserver()
    observer(x)
    scale, zero = observer.calculate_qparams()
    step = np.float32(1.5) / np.float32(255)
    assert scale.item() == step
    assert zero.item() == -round(-1.0 / float(step))
    observer = oq.MinMaxObserver()
    observer(torch.zeros(3))
    assert observer.calculate_qparams()[0].item() == np.finfo(np.float32).eps


@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize("qscheme", PER_TENSOR)
@pytest.mark.parametrize("kind", ["normal", "grows", "outlier", "relu", "constant", "infinite"])
def test_histogram(kind, qscheme, reduce_range):
    arguments = {"dtype": torch.qint8, "qscheme": qscheme, "reduce_range": reduce_range}
    ours, theirs = oq.HistogramObserver(**arguments), tq.HistogramObserver(**arguments)
    data = {
        "normal": [torch.randn(3000) for _ in range(4)],
        "grows": [torch.randn(1000) * k for k in (0.1, 1, 3)],
        "outlier": [torch.cat([torch.randn(5000), torch.tensor([80.0])]), torch.randn(500)],
        "relu": [torch.randn(3000).relu() for _ in range(3)],
        "constant": [torch.full((9,), 2.0), torch.randn(100)],
        "infinite": [torch.tensor([1.0, -2.0, torch.inf]), torch.randn(50), torch.randn(0)],
    }[kind]
    for x in data:
        ours(x)
        theirs(x)
        assert torch.equal(ours.histogram, theirs.histogram)
        assert (ours.min_val, ours.max_val) == (theirs.min_val, theirs.max_val)
    same(ours, theirs)


def test_histogram_cuts_tails():
    x = torch.randn(100_000) ** 3
    ours, theirs = oq.HistogramObserver(), tq.HistogramObserver()
    ours(x)
    theirs(x)
    same(ours, theirs)
    assert ours.calculate_qparams()[0].item() < (x.max() - x.min()).item() / 255


def test_fixed_placeholder_noop():
    fixed = oq.FixedQParamsObserver(scale=1 / 256, zero_point=3)
    assert [p.item() for p in fixed(torch.ones(1)) * 0 + fixed.calculate_qparams()[0]] == [1 / 256]
    for name in ("PlaceholderObserver", "NoopObserver", "RecordingObserver"):
        observer = getattr(oq, name)()
        x = torch.randn(3)
        assert torch.equal(observer(x), x)
        with pytest.raises(RuntimeError):
            observer.calculate_qparams()
    assert oq.PlaceholderObserver(dtype=torch.float16).dtype == torch.float16


def test_nothing_seen():
    for name in ("MinMaxObserver", "PerChannelMinMaxObserver", "HistogramObserver"):
        observer = getattr(oq, name)()
        with pytest.warns(UserWarning, match="must run observer"):
            scale, zero = observer.calculate_qparams()
        assert scale.tolist() == [1.0]
        assert zero.tolist() == [0]


def test_reset_and_state_dict():
    for name in ("MinMaxObserver", "PerChannelMinMaxObserver", "HistogramObserver"):
        first, second = getattr(oq, name)(), getattr(oq, name)()
        x = torch.randn(7, 3)
        first(x)
        second.load_state_dict(first.state_dict())
        same(first, second)
        first.reset_min_max_vals()
        first(x * 2)
        theirs = getattr(tq, name)()
        theirs(x * 2)
        same(first, theirs)


def test_mistakes():
    with pytest.raises(ValueError, match="dtype"):
        oq.MinMaxObserver(dtype=torch.float64)
    with pytest.raises(ValueError, match="go together"):
        oq.MinMaxObserver(quant_min=0)
    with pytest.raises(ValueError, match="does not hold 0"):
        oq.MinMaxObserver(quant_min=3, quant_max=9)
    with pytest.raises(NotImplementedError, match="not per tensor"):
        oq.MinMaxObserver(qscheme=torch.per_channel_affine)
    with pytest.raises(NotImplementedError, match="not per channel"):
        oq.PerChannelMinMaxObserver(qscheme=torch.per_tensor_affine)
    with pytest.raises(ValueError, match="observer instance"):
        oq.QConfig(activation=oq.MinMaxObserver(), weight=oq.MinMaxObserver)


@pytest.mark.parametrize("backend", ["fbgemm", "x86", "qnnpack", "onednn"])
def test_default_qconfigs(backend):
    """torch's settings, but for the reduced range, which Octavo's kernels do not need."""
    pairs = [(oq.get_default_qconfig(backend), tq.get_default_qconfig(backend))]
    pairs += [
        (oq.get_default_qat_qconfig(backend, v), tq.get_default_qat_qconfig(backend, v))
        for v in (0, 1)
    ]
    for ours, theirs in pairs:
        for part in ("activation", "weight"):
            mine, other = getattr(ours, part)(), getattr(theirs, part)()
            assert type(mine).__name__ == type(other).__name__
            for name in ("dtype", "qscheme", "quant_min", "ch_axis"):
                assert getattr(mine, name, None) == getattr(other, name, None), name
            reduced = part == "activation" and backend in ("fbgemm", "x86")
            assert other.quant_max == (127 if reduced else mine.quant_max)
            assert mine.quant_max == (127 if mine.dtype == torch.qint8 else 255)


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in oq.__all__
        if n.startswith("default_") or (n.endswith("_qconfig") and n[:4] != "get_")
    ],
)
def test_named_defaults(name):
    ours, theirs = getattr(oq, name), getattr(tq, name)
    pairs = [(ours, theirs)]
    if name.endswith("qconfig") or name.endswith("_v2"):
        pairs = [(ours.activation, theirs.activation), (ours.weight, theirs.weight)]
    for make, other_make in pairs:
        mine, other = make(), other_make()
        assert type(mine).__name__ == type(other).__name__
        for attribute in ("dtype", "qscheme", "quant_min", "quant_max", "ch_axis", "is_dynamic"):
            assert getattr(mine, attribute, None) == getattr(other, attribute, None), attribute


@pytest.mark.parametrize(
    "name",
    ["default_fake_quant", "default_weight_fake_quant", "default_per_channel_weight_fake_quant"],
)
def test_fake_quantize(name):
    """Values, parameters and gradients, over steps in which the range moves."""
    ours, theirs = getattr(oq, name)(), getattr(tq, name)()
    for x in batches(shape=(6, 10)):
        mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, z = ours(mine), theirs(other)
        assert torch.equal(y, z)
        g = torch.randn_like(y)
        y.backward(g)
        z.backward(g)
        assert torch.equal(mine.grad, other.grad)
        assert torch.equal(ours.scale, theirs.scale)
        assert torch.equal(ours.zero_point, theirs.zero_point)
    x = torch.randn(6, 10) * 20
    before = ours.scale.clone()
    ours.apply(oq.disable_observer)
    ours(x)
    assert torch.equal(ours.scale, before)
    ours.apply(oq.disable_fake_quant)
    assert ours(x) is x
    ours.apply(oq.enable_fake_quant)
    assert not torch.equal(ours(x), x)
    ours.apply(oq.enable_observer)
    ours(x)
    assert not torch.equal(ours.scale, before)
    again = getattr(oq, name)()
    again.load_state_dict(ours.state_dict())
    assert torch.equal(again.scale, ours.scale)
