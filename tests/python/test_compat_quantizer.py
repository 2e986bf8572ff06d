"""octavo.compat.pytorch_quantization: TensorQuantizer, Clip, calibrators, optimizer helpers."""

from __future__ import annotations

import copy
import importlib
import io
import logging
import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("octavo._torch")


pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("torch_seed")]


def quantizer(ptq: Any, *, options: dict[str, bool] | None = None, **descriptor: Any) -> Any:
    return ptq.nn.TensorQuantizer(ptq.tensor_quant.QuantDescriptor(**descriptor), **options or {})


# ---- forward


def test_the_range_of_each_input(ptq: Any) -> None:
    q = quantizer(ptq)
    assert q.amax is None
    assert q.step_size is None
    for scale in (1, 10):
        x = scale * torch.randn(3, 7)
        expected = ptq.tensor_quant.fake_tensor_quant(x, x.abs().max(), 8, False, False)
        assert torch.equal(q(x), expected)
    assert "_amax" not in q.state_dict()


@pytest.mark.parametrize("axis", [0, 1, -1, -3, (0, 1), (0, -1)])
def test_axis(ptq: Any, axis: Any) -> None:
    """A negative axis is per tensor in the original."""
    x = torch.randn(3, 4, 5)
    kept = {a % 3 for a in np.atleast_1d(axis).tolist()}
    amax = x.abs().amax([i for i in range(3) if i not in kept], keepdim=True)
    got = quantizer(ptq, axis=axis)(x)
    assert torch.equal(got, ptq.tensor_quant.fake_tensor_quant(x, amax, 8, False, False))
    calibrated = quantizer(ptq, axis=axis, options={"if_calib": True, "if_quant": False})
    calibrated(x)
    calibrated.load_calib_amax()
    assert torch.equal(calibrated.amax, amax)


def test_torch_s_fake_quantization(ptq: Any) -> None:
    """2.1's export switch: torch's operators, over all integers."""
    x = torch.randn(3, 4)
    ptq.nn.TensorQuantizer.use_fb_fake_quant = True
    try:
        one = quantizer(ptq, amax=1.5)(x)
        rows = quantizer(ptq, axis=0, unsigned=True)(x.abs())
        with pytest.raises(TypeError, match="Multiple axis"):
            quantizer(ptq, axis=(0, 1))(x)
    finally:
        ptq.nn.TensorQuantizer.use_fb_fake_quant = False
    assert torch.equal(one, torch.fake_quantize_per_tensor_affine(x, 1.5 / 127, 0, -128, 127))
    scale, zero = x.abs().amax(1) / 255, torch.zeros(3, dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(x.abs(), scale, zero, 0, 0, 255)
    assert torch.equal(rows, expected)


def test_real_quantization(ptq: Any) -> None:
    q = quantizer(ptq, fake_quant=False)
    x = torch.randn(20)
    integers, scale = ptq.tensor_quant.tensor_quant(x, x.abs().max())
    assert torch.equal(q(x), integers)
    assert torch.equal(q.scale, scale)


def test_inputs_that_are_not_finite(ptq: Any) -> None:
    """Their own range is not finite either: NaN out, channel by channel."""
    x = torch.tensor([[1.0, -2.0], [float("inf"), 1.0], [float("nan"), 1.0]])
    y = quantizer(ptq, axis=0)(x)
    assert torch.equal(y[0], quantizer(ptq)(x[0]))
    assert y[1:].isnan().all()
    with pytest.raises(ValueError, match="NaN"):
        quantizer(ptq, amax=float("nan"))(x)


def test_narrow_range_scale_amax_and_bits(ptq: Any) -> None:
    x = torch.linspace(-1, 1, 101)
    q = quantizer(ptq, amax=0.5, scale_amax=0.9, num_bits=4, narrow_range=True)
    scaled = torch.tensor(np.float32(0.5)) * 0.9
    expected = ptq.tensor_quant.fake_tensor_quant(x, scaled, 4, False, True)
    for _ in range(2):  # amax itself does not change
        assert torch.equal(q(x), expected)
    assert len(torch.unique(expected)) == 15
    q.narrow_range = False
    assert len(torch.unique(q(x))) == 16
    q.num_bits, q.unsigned = 3, True
    assert q.maxbound == 7
    assert torch.equal(q.step_size, q.amax / 7)


def test_pre_quant_scale(ptq: Any) -> None:
    q = quantizer(ptq, amax=127.0)
    x = torch.tensor([[0, 0.4, 1.1, 2.0]])
    assert q(x).tolist() == [[0, 0, 1, 2]]
    q.pre_quant_scale = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert q(x).tolist() == [[0, 1, 3, 8]]
    q.disable()
    assert torch.equal(q(x), x * q.pre_quant_scale)
    with pytest.raises(RuntimeError, match="Changing shape when setting pre_quant_scale"):
        q.pre_quant_scale = 2.0


def test_fp8(ptq: Any) -> None:
    x = torch.randn(3, 5)
    q = quantizer(ptq, num_bits=(4, 3))
    assert torch.equal(q(x), ptq.tensor_quant.scaled_e4m3(x, x.abs().max()))
    assert q.maxbound == 448


# ---- amax


def test_setting_amax(ptq: Any, caplog: pytest.LogCaptureFixture) -> None:
    q = quantizer(ptq, amax=3.14)
    q.amax = 0.577
    assert q.amax == torch.tensor(0.577)
    assert q.step_size == torch.tensor(0.577) / 127
    with pytest.raises(RuntimeError, match="Changing shape when setting amax is not allowed"):
        q.amax = np.float32([1, 2])
    q.amax = None
    assert "meaningless" in caplog.text
    assert q.amax == torch.tensor(0.577)
    fresh = quantizer(ptq)
    values = torch.tensor([3.0, 2.0])
    fresh.amax = values
    values[0] = 9
    assert fresh.amax.tolist() == [3, 2]  # a copy
    assert list(fresh.state_dict()) == ["_amax"]


def test_amax_is_not_the_calibrators_own_tensor(ptq: Any) -> None:
    """In the original, collecting on changes the amax that was loaded before."""
    q = quantizer(ptq, options={"if_calib": True, "if_quant": False})
    q(torch.tensor([1.0]))
    q.load_calib_amax()
    q(torch.tensor([5.0]))
    assert q.amax == 1
    q.amax = 0.5
    assert q._calibrator.compute_amax() == 5
    q.load_calib_amax()
    assert q.amax == 5


def test_a_calibrator_that_saw_nothing(ptq: Any, caplog: pytest.LogCaptureFixture) -> None:
    for method in ("max", "histogram"):
        q = quantizer(ptq, calib_method=method)
        arguments = ["entropy"] if method == "histogram" else []
        with pytest.raises(RuntimeError, match="Calibrator returned None"):
            q.load_calib_amax(*arguments)
        q.load_calib_amax(*arguments, strict=False)
        assert torch.isnan(q.amax)
        assert "NaN" in caplog.text
        with pytest.raises(ValueError, match="NaN"):
            q(torch.ones(3))
    none = quantizer(ptq, calib_method=None)
    with pytest.raises(RuntimeError, match="Calibrator not created"):
        none.load_calib_amax()
    with pytest.raises(ValueError, match="Calibrator was not created"):
        none.enable_calib()


def test_state_dict(ptq: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Loading amax into a fresh quantizer needs a GPU in the original."""
    source = quantizer(ptq, amax=[3.0, 2.0])
    source.pre_quant_scale = 2.0
    buffer = io.BytesIO()
    torch.save(source.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer)
    fresh = quantizer(ptq)
    fresh.load_state_dict(state)
    assert fresh.amax.tolist() == [3, 2]
    assert fresh.pre_quant_scale == 2
    assert fresh.amax.device.type == "cpu"
    state["_amax"][0] = 9
    assert fresh.amax[0] == 3
    again = quantizer(ptq, amax=[1.0, 1.0])
    again.pre_quant_scale = 1.0
    again.load_state_dict(source.state_dict())
    assert again.amax.tolist() == [3, 2]
    assert "Overwriting amax" in caplog.text
    with pytest.raises(RuntimeError, match="Missing key"):
        again.load_state_dict({})
    assert "No amax in state_dict" in caplog.text
    with pytest.raises(RuntimeError, match="size mismatch"):
        quantizer(ptq, amax=1.0).load_state_dict(source.state_dict())


@pytest.mark.parametrize("method", ["max", "histogram"])
def test_copies_and_pickles(ptq: Any, method: str) -> None:
    q = quantizer(ptq, calib_method=method, options={"if_calib": True})
    q(torch.randn(100))
    arguments = ["mse"] if method == "histogram" else []
    for other in (copy.deepcopy(q), pickle.loads(pickle.dumps(q))):
        before = q._calibrator.compute_amax(*arguments)
        assert torch.equal(other._calibrator.compute_amax(*arguments), before)
        other(torch.tensor([50.0]))
        assert torch.equal(q._calibrator.compute_amax(*arguments), before)


def test_repr(ptq: Any) -> None:
    q = quantizer(ptq)
    assert repr(q) == (
        "TensorQuantizer(8bit fake per-tensor amax=dynamic calibrator=MaxCalibrator scale=1.0 "
        "quant)"
    )
    q.amax = 0.5
    assert "amax=0.5000" in repr(q)
    q.disable()
    assert repr(q) == "TensorQuantizer(disabled)"
    q = quantizer(ptq, axis=0, unsigned=True, narrow_range=True, fake_quant=False, scale_amax=0.5)
    q.amax = np.float32([[1], [2]])
    q.enable_calib()
    assert repr(q) == (
        "TensorQuantizer(unsigned 8bit narrow axis=0 amax=[1.0000, 2.0000](2) *0.5 "
        "calibrator=MaxCalibrator quant calib)"
    )
    q = quantizer(ptq, learn_amax=True, calib_method="histogram")
    q.pre_quant_scale = 1.0
    assert "pre_quant_scale learned calibrator=HistogramCalibrator scale=1.0 quant clip" in repr(q)


# ---- clipping


def test_clip_learns(ptq: Any) -> None:
    x = torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0], requires_grad=True)
    grad = torch.tensor([1.0, 2, 4, 8, 16, 32])
    clip = ptq.nn.Clip(-1.0, 1.0, learn_min=True, learn_max=True)
    y = clip(x)
    assert y.tolist() == [-1, -1, 0, 0.5, 1, 1]
    y.backward(grad)
    assert x.grad.tolist() == [0, 0, 4, 8, 0, 0]  # strictly inside
    assert clip.clip_value_min.grad == 3
    assert clip.clip_value_max.grad == 48
    with pytest.raises(ValueError, match="must be scalar"):
        ptq.nn.Clip(torch.tensor(0.3), torch.tensor(0.7), learn_min=True)
    functional = importlib.import_module("pytorch_quantization.nn.functional")
    x = torch.randn(4, 3, requires_grad=True)
    low, high = -torch.rand(4, 1), torch.rand(1, 3)
    y = functional.clip(x, low, high)
    assert torch.equal(y, torch.maximum(torch.minimum(x, high), low))
    low.requires_grad_()
    with pytest.raises(ValueError, match="can only be scalar"):
        functional.clip(x, low, high).sum().backward()


def test_learn_amax(ptq: Any) -> None:
    x = torch.rand(100)
    q = quantizer(ptq, amax=0.5, learn_amax=True)
    expected = ptq.tensor_quant.fake_tensor_quant(x.clip(-0.5, 0.5), torch.tensor(0.5), 8)
    assert torch.equal(q(x), expected)
    q(x).sum().backward()
    assert q.clip.clip_value_max.grad == (x >= 0.5).sum()
    q.enable_calib()
    q(x)
    q.load_calib_amax()
    q.init_learn_amax()
    assert q.clip.clip_value_max == x.max()
    assert q.clip.clip_value_min == -x.max()
    q.disable_clip()
    assert not q.clip.clip_value_max.requires_grad
    plain = quantizer(ptq)
    with pytest.raises(ValueError, match="learn_amax is False"):
        plain.enable_clip()
    with pytest.raises(RuntimeError, match="learn_amax=False"):
        plain.init_learn_amax()
    with pytest.raises(ValueError, match="learn_amax is False"):
        quantizer(ptq, options={"if_clip": True})


# ---- calibrators


def test_max_calibrator(ptq: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "octavo.compat")
    for axis, kept in ((None, ()), (0, (0,)), (-4, (0,)), ((0, 2), (0, 2))):
        c = ptq.calib.MaxCalibrator(8, axis, False, track_amax=True)
        assert c.compute_amax() is None
        batches = [torch.randn(4, 3, 2, 5), torch.randn(4, 3, 2, 5)]
        for b in batches:
            c.collect(b)
        expected = torch.maximum(*batches).maximum(-torch.minimum(*batches))
        reduced = [i for i in range(4) if i not in kept]
        expected = expected.amax(reduced, keepdim=bool(kept))
        assert torch.equal(c.compute_amax(), expected)
        assert np.array_equal(np.maximum(*c.amaxs), expected.numpy())
        assert "amaxs=" in repr(c)
        if kept:
            with pytest.raises(RuntimeError, match="amax shape changed!"):
                c.collect(torch.randn(5, 3, 7, 5))
        c.reset()
        assert c.compute_amax() is None
    assert caplog.text.count("negative values") <= 1
    assert str(ptq.calib.MaxCalibrator(7, 1, False)) == "MaxCalibrator(track_amax=False)"


def test_histogram_calibrator(ptq: Any) -> None:
    c = ptq.calib.HistogramCalibrator(8, None, False, grow_method="stretch")
    assert c.compute_amax("mse") is None
    assert c._calib_hist is None
    x = torch.randn(4000)
    c.collect(x.double())
    half = (x / 2).half()
    c.collect(half)
    edges = torch.linspace(0, x.abs().max(), 2049)
    assert torch.allclose(c._calib_bin_edges, edges, rtol=0, atol=1e-6)
    expected = torch.histc(x.abs(), 2048, 0, x.abs().max().item())
    expected += torch.histc(half.float().abs(), 2048, 0, x.abs().max().item())
    assert torch.equal(c._calib_hist.float(), expected)
    amax = c.compute_amax("percentile", percentile=90)
    share = (torch.cat([x, half]).abs() <= amax).float().mean()
    assert abs(share - 0.9) < 0.01
    for method in ("entropy", "mse"):
        amax = c.compute_amax(method, stride=2, start_bin=200)
        assert amax.shape == ()
        assert 0.09 < amax / x.abs().max() <= 1.01
    assert str(c).startswith("HistogramCalibrator(calib_bin_edges=[0.000, ...,")
    assert "calib_hist=tensor" in repr(c)
    with pytest.raises(ValueError, match="Invalid percentile"):
        c.compute_amax("percentile", percentile=200)
    with pytest.raises(TypeError, match="Unknown calibration method"):
        c.compute_amax("max")
    with pytest.raises(NotImplementedError, match="only supports per tensor"):
        ptq.calib.HistogramCalibrator(8, 0, False)
    c.reset()
    assert c.compute_amax("mse") is None
    array = ptq.calib.HistogramCalibrator(8, None, False, num_bins=19, torch_hist=False)
    array.collect(torch.tensor([0.0, 1.0]))
    assert isinstance(array._calib_hist, np.ndarray)
    assert len(array._calib_bin_edges) == 20


def test_histogram_memory(ptq: Any) -> None:
    """The original grows to 204,802,112 bins here."""
    c = ptq.calib.HistogramCalibrator(8, None, False)
    c.collect(torch.linspace(0, 1e-3, 1000))
    c.collect(torch.tensor([100.0]))
    assert len(c._calib_hist) <= 8 * 2048
    assert c._calib_hist.sum() == 1001
    assert abs(c.compute_amax("percentile", percentile=100) - 100) < 100 / 1024


def test_computing_leaves_the_histogram_alone(ptq: Any) -> None:
    """The original's entropy copies bin 1 over bin 0 of an array's histogram for good."""
    c = ptq.calib.HistogramCalibrator(8, None, False, torch_hist=False)
    c.collect(torch.cat([torch.zeros(500), torch.rand(500)]))
    before = c._calib_hist.copy()
    c.compute_amax("entropy")
    np.testing.assert_array_equal(c._calib_hist, before)


@pytest.mark.parametrize("method", ["max", "mse", "percentile"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_calibrate_weights(ptq: Any, method: str, per_channel: bool) -> None:
    model = torch.nn.Sequential(
        ptq.nn.QuantConv2d(3, 8, 3), ptq.nn.QuantConvTranspose2d(8, 6, 3), ptq.nn.QuantLinear(5, 4)
    )
    ptq.calib.calibrate_weights(model, method, per_channel, percentile=99)
    for module, axis in zip(model, (0, 1, 0), strict=True):
        amax = module.weight_quantizer.amax
        if not per_channel:
            assert amax.shape == ()
            channels = [module.weight]
        else:
            shape = [1] * module.weight.dim()
            shape[axis] = module.weight.shape[axis]
            assert list(amax.shape) == shape
            channels = list(module.weight.unbind(axis))
        for channel, got in zip(channels, amax.reshape(-1), strict=True):
            if method == "max":
                expected = channel.abs().max()
            else:
                c = ptq.calib.HistogramCalibrator(8, None, False)
                c.collect(channel)
                expected = c.compute_amax(method, percentile=99)
            assert got == expected
    with pytest.raises(TypeError, match="Unsupported calibration method"):
        ptq.calib.calibrate_weights(model, "entropy")


# ---- optimizer helpers


def test_parameters_by_name(ptq: Any) -> None:
    helper = ptq.optim.helper
    model = torch.nn.Sequential(ptq.nn.QuantLinear(3, 4), torch.nn.Linear(4, 5))
    assert [p.shape for p in helper.match_parameters(model, ["^0.*weight", "bias"])] == [
        (4, 3),
        (4,),
        (5,),
    ]
    groups = helper.group_parameters(
        model, [["weight"], ["bias"]], [0.1, 0.2], [0.3, 0.4], [0.5, 0.6]
    )
    optimizer = torch.optim.SGD(groups)
    kept = [(g["lr"], g["momentum"], g["weight_decay"]) for g in optimizer.param_groups]
    assert kept == [(0.1, 0.3, 0.5), (0.2, 0.4, 0.6)]
    with pytest.raises(TypeError, match="must be list of list of patterns"):
        helper.group_parameters(model, [["weight"], "bias"])
    for option in ("lrs", "momentums", "weight_decays"):
        with pytest.raises(TypeError, match="must match"):
            helper.group_parameters(model, [["weight"], ["bias"]], **{option: [0.1]})
    helper.freeze_parameters(model, ["^1"])
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, False]
    weight = model[0].weight
    expected = model[0].weight_quantizer(weight).detach().clone()
    helper.quant_weight_inplace(model)
    assert model[0].weight is weight
    assert torch.equal(weight, expected)
