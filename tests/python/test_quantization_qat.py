"""Training with fake quantization: values, gradients and converted integers equal torch.ao's."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
oq = pytest.importorskip("octavo.quantization")
from torch import nn  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch.ao.quantization as tq

pytestmark = [
    pytest.mark.usefixtures("torch_seed"),
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def qconfig(q):
    return q.QConfig(
        activation=q.FakeQuantize.with_args(
            observer=q.MovingAverageMinMaxObserver,
            quant_min=0,
            quant_max=255,
            dtype=torch.quint8,
            qscheme=torch.per_tensor_affine,
        ),
        weight=q.default_per_channel_weight_fake_quant,
    )


def prepared(q, layers, fuse, config=None):
    model = q.QuantWrapper(copy.deepcopy(layers)).train()
    model.qconfig = qconfig(q) if config is None else config
    if fuse:
        model = q.fuse_modules_qat(model, [[f"module.{i}" for i in group] for group in fuse])
    return q.prepare_qat(model)


def train(model, data, targets, rate=1e-2):
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    losses = []
    for x, y in zip(data, targets, strict=True):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_linear_layers_train_as_torch_ao():
    """The same operations in the same order: losses and integers are equal bit for bit."""
    layers = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5))
    data = torch.randn(60, 16, 20)
    targets = data @ torch.randn(20, 5)
    models, losses = [], []
    for q in (oq, tq):
        model = prepared(q, layers, [(0, 1)])
        losses.append(train(model, data, targets))
        models.append(q.convert(model.eval()))
    assert losses[0] == losses[1]
    assert np.mean(losses[0][-20:]) < np.mean(losses[0][:20])
    for i in (0, 2):
        a, b = models[0].module[i], models[1].module[i]
        assert torch.equal(a.weight().int_repr(), b.weight().int_repr())
        assert (a.scale, a.zero_point) == (b.scale, b.zero_point)
    x = data.reshape(-1, 20)
    steps = [m.scale for m in (models[0].module[0], models[0].module[2])]
    # The first layer may round a tie the other way; the second sees that through its weights.
    wide = models[0].module[2].weight().dequantize().abs().sum(1).max()
    assert (models[0](x) - models[1](x)).abs().max() <= steps[0] * wide + steps[1]


CONVS = [
    ([nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU()], [(0, 1, 2)]),
    ([nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)], [(0, 1)]),
    ([nn.Conv2d(3, 6, 3), nn.ReLU()], [(0, 1)]),
    ([nn.Conv2d(3, 6, 3)], []),
]


@pytest.mark.parametrize(("layers", "fuse"), CONVS)
def test_convolutions(layers, fuse):
    """Folded BatchNorm: the factors are rounded in another order, once each (2^-22 relative)."""
    layers = nn.Sequential(*layers)
    x = torch.randn(4, 3, 8, 8)
    outputs, gradients, converted = [], [], []
    for q in (oq, tq):
        model = prepared(q, layers, fuse)
        assert model.module[0]._get_name() == prepared(tq, layers, fuse).module[0]._get_name()
        y = model(x)
        y.square().mean().backward()
        outputs.append(y.detach())
        gradients.append(model.module[0].weight.grad)
        step = model.module[0].activation_post_process.scale.item()
        converted.append(q.convert(model.eval()))
    # A value near a tie may take the other step.
    assert (outputs[0] - outputs[1]).abs().max() <= step * 1.01
    assert ((outputs[0] - outputs[1]).abs() > step / 2).float().mean() < 0.01
    size = gradients[1].abs().max()
    assert (gradients[0] - gradients[1]).abs().max() <= 0.02 * size
    a, b = converted[0].module[0], converted[1].module[0]
    assert a._get_name() == b._get_name()
    assert (a.weight().int_repr().int() - b.weight().int_repr().int()).abs().max() <= 1
    assert a.scale == pytest.approx(b.scale, rel=0.02)


def test_linear_batch_norm():
    layers = nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8))
    model = prepared(oq, layers, [(0, 1)])
    data = torch.randn(50, 32, 10)
    train(model, data, torch.randn(50, 32, 8))
    model.eval()
    x = data.reshape(-1, 10)
    fake = model(x)
    integer = oq.convert(model)(x)
    step = model.module[0].activation_post_process.scale.item()
    assert (fake - integer).abs().max() <= 2 * step


@pytest.mark.parametrize("version", [0, 1])
def test_default_qconfig_trains_and_converts(version):
    layers = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5))
    model = prepared(oq, layers, [(0, 1)], oq.get_default_qat_qconfig("x86", version))
    targets = torch.randn(20, 5)
    data = torch.randn(200, 16, 20)
    losses = train(model, data, data @ targets)
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) / 2
    model.apply(oq.disable_observer)
    model.eval()
    x = data.reshape(-1, 20)
    fake, integer = model(x), oq.convert(model)(x)
    first, last = model.module[0].activation_post_process, model.module[2].activation_post_process
    # Fake quantization rounds float sums, the integers exact ones: ties apart they are equal.
    wide = model.module[2].weight.abs().sum(1).max() * 1.01
    assert (fake - integer).abs().max() <= first.scale.item() * wide + last.scale.item()
    assert (fake - integer).abs().mean() <= 0.05 * last.scale.item()


def test_fused_equals_moving_average():
    """FusedMovingAvgObsFakeQuantize is FakeQuantize over the same observer."""
    for ours, plain in (
        (oq.default_fused_per_channel_wt_fake_quant, oq.default_per_channel_weight_fake_quant),
        (oq.default_fused_wt_fake_quant, oq.default_weight_fake_quant),
    ):
        a, b = ours(), plain()
        for _ in range(4):
            x = torch.randn(6, 9, requires_grad=True)
            other = x.detach().clone().requires_grad_()
            y, z = a(x), b(other)
            assert torch.equal(y, z)
            y.sum().backward()
            z.sum().backward()
            assert torch.equal(x.grad, other.grad)
        assert torch.equal(a.scale, b.scale)


def test_state_dict_of_a_prepared_model():
    layers = nn.Sequential(nn.Linear(4, 3))
    first, second = prepared(oq, layers, []), prepared(oq, layers, [])
    x = torch.randn(8, 4)
    first(x)
    second.load_state_dict(first.state_dict())
    first.eval().apply(oq.disable_observer)
    second.eval().apply(oq.disable_observer)
    assert torch.equal(first(x), second(x))


def test_quantize_and_quantize_qat():
    data = torch.randn(20, 4)
    for function in (oq.quantize, oq.quantize_qat):
        model = oq.QuantWrapper(nn.Sequential(nn.Linear(4, 3)))
        model.qconfig = qconfig(oq) if function is oq.quantize_qat else oq.default_qconfig
        result = function(model, lambda m, x: m(x), [data])
        assert "QuantizedLinear" in repr(result)
        assert result(data).shape == (20, 3)
