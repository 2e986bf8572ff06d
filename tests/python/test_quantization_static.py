"""Calibrate and convert: parameters and integers equal torch.ao's, outputs are within bounds."""

from __future__ import annotations

import copy
import io
import pickle
import re
import warnings

import pytest

torch = pytest.importorskip("torch")
oq = pytest.importorskip("octavo.quantization")
from torch import nn  # noqa: E402

from octavo.quantization.quantized import QFunctional  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch.ao.quantization as tq

pytestmark = [
    pytest.mark.usefixtures("torch_seed"),
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def qconfig(
    q,
    weight_scheme=torch.per_channel_symmetric,
    activation_scheme=torch.per_tensor_affine,
    most=255,
):
    channel = weight_scheme in (torch.per_channel_symmetric, torch.per_channel_affine)
    weight = q.PerChannelMinMaxObserver if channel else q.MinMaxObserver
    return q.QConfig(
        activation=q.MinMaxObserver.with_args(
            dtype=torch.quint8, qscheme=activation_scheme, quant_min=0, quant_max=most
        ),
        weight=weight.with_args(dtype=torch.qint8, qscheme=weight_scheme),
    )


def wrapped(q, layers, config):
    model = q.QuantWrapper(nn.Sequential(*layers)).eval()
    model.qconfig = config
    return model


def converted(q, layers, data, config, fuse=()):
    model = wrapped(q, copy.deepcopy(layers), config)
    if fuse:
        model = q.fuse_modules(model, [[f"module.{i}" for i in group] for group in fuse])
    model = q.prepare(model)
    model(data)
    return q.convert(model)


SCHEMES = [
    torch.per_channel_symmetric,
    torch.per_channel_affine,
    torch.per_tensor_symmetric,
    torch.per_tensor_affine,
]


def one_layer(layer, data, config_of, fuse=()):
    """Both converted models of one layer, their parameters equal; the outputs as integers."""
    layers = layer if isinstance(layer, list) else [layer]
    ours = converted(oq, layers, data, config_of(oq), fuse)
    theirs = converted(tq, layers, data, config_of(tq), fuse)
    assert torch.equal(ours.quant.scale, theirs.quant.scale)
    assert torch.equal(ours.quant.zero_point, theirs.quant.zero_point)
    mine, other = ours.module[0], theirs.module[0]
    assert mine.scale == other.scale
    assert mine.zero_point == other.zero_point
    assert torch.equal(mine.weight().int_repr(), other.weight().int_repr())
    assert mine.weight().qscheme() == other.weight().qscheme()
    if mine.weight().qscheme() == torch.per_tensor_affine:
        assert mine.weight().q_scale() == other.weight().q_scale()
        assert mine.weight().q_zero_point() == other.weight().q_zero_point()
    else:
        assert torch.equal(
            mine.weight().q_per_channel_scales(), other.weight().q_per_channel_scales()
        )
    return ours, theirs


def exact(ours, data, function, relu):
    """What the integers mean, in float64, in units of the output's step."""
    module = ours.module[0]
    x = ours.quant(data)
    weight = module.weight().dequantize().double()
    bias = None if module.bias() is None else module.bias().double()
    y = function(x.dequantize().double(), weight, bias) / module.scale
    return (y.clamp(min=0) if relu else y) + module.zero_point


def check_integers(ours, data, function, relu):
    """The integers are the rounded exact value, or its neighbour where it lies within the error.

    The accumulator is exact; the bias' rounding to the accumulator's step adds half of x_scale *
    w_scale / y_scale, and three float32 roundings of |value| <= 2^20 steps at most 3 * 2^-4 ulp,
    far below 1e-2 of a step for the values in range here. dequantize() rounds in float32: 2^-24
    relative for each of the factors, again below 1e-2 in all sums used here.
    """
    module = ours.module[0]
    y = module(ours.quant(data))
    got = y.int_repr().double()
    want = exact(ours, data, function, relu)
    scales = (
        module.weight().q_per_channel_scales()
        if module.weight().qscheme() == torch.per_channel_affine
        else torch.tensor([module.weight().q_scale()])
    )
    slack = 1e-2 + 0.5 * float(scales.max()) * float(ours.quant.scale) / module.scale
    want = want.clamp(0, 255)
    assert (got - want).abs().max() <= 0.5 + slack
    return y


@pytest.mark.parametrize("weight_scheme", SCHEMES)
@pytest.mark.parametrize("activation_scheme", [torch.per_tensor_affine, torch.per_tensor_symmetric])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_linear(weight_scheme, activation_scheme, relu, bias):
    layers = [nn.Linear(30, 19, bias=bias)] + ([nn.ReLU()] if relu else [])
    with torch.no_grad():
        layers[0].weight += 0.05  # an affine zero point that is not 0
    data = torch.randn(17, 30)
    ours, theirs = one_layer(
        layers, data, lambda q: qconfig(q, weight_scheme, activation_scheme), [(0, 1)] * relu
    )
    y = check_integers(ours, data, nn.functional.linear, relu)
    other = theirs.module[0](theirs.quant(data))
    # Both round the same number, whose error is below a hundredth of a step.
    assert (y.int_repr().int() - other.int_repr().int()).abs().max() <= 1
    assert y.q_scale() == other.q_scale()
    assert y.q_zero_point() == other.q_zero_point()
    assert torch.equal(ours(data), y.dequantize())


CONVS = [
    (nn.Conv2d, (5, 7, 3), {"padding": 1}, (2, 5, 9, 8)),
    (nn.Conv2d, (8, 8, 3), {"padding": 1, "groups": 8, "stride": 2}, (3, 8, 9, 11)),
    (nn.Conv2d, (4, 6, (1, 3)), {"padding": (0, 2), "dilation": (1, 2), "groups": 2}, (1, 4, 5, 9)),
    (nn.Conv2d, (16, 32, 1), {"bias": False}, (2, 16, 6, 6)),
    (nn.Conv1d, (5, 7, 3), {"padding": 1, "stride": 2}, (2, 5, 19)),
]


@pytest.mark.parametrize("weight_scheme", SCHEMES)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("kind", "sizes", "arguments", "shape"), CONVS)
def test_conv(kind, sizes, arguments, shape, relu, weight_scheme):
    layers = [kind(*sizes, **arguments)] + ([nn.ReLU()] if relu else [])
    with torch.no_grad():
        layers[0].weight += 0.05
    data = torch.randn(shape)
    # torch's depthwise kernel saturates sums of 8-bit activations: 7 bits where it takes part.
    most = 127 if "groups" in arguments else 255
    ours, theirs = one_layer(
        layers, data, lambda q: qconfig(q, weight_scheme, most=most), [(0, 1)] * relu
    )
    module = ours.module[0]
    function = nn.functional.conv1d if kind is nn.Conv1d else nn.functional.conv2d
    given = (module.stride, module.padding, module.dilation, module.groups)
    y = check_integers(ours, data, lambda x, w, b: function(x, w, b, *given), relu)
    other = theirs.module[0](theirs.quant(data))
    assert (y.int_repr().int() - other.int_repr().int()).abs().max() <= 1
    # Another shape, then the first again.
    half = data[:1]
    assert torch.equal(ours(half), ours(data)[:1])


def test_bias_beyond_the_accumulator():
    """A channel of zeros has epsilon for a scale: its bias does not fit int32 steps."""
    for layer, data in (
        (nn.Linear(8, 3), torch.randn(4, 8) * 1e-3),
        (nn.Conv2d(8, 3, 1), torch.randn(2, 8, 3, 3) * 1e-3),
    ):
        with torch.no_grad():
            layer.weight[1] = 0
            layer.bias[1] = 1.0
        model = converted(oq, [layer], data, qconfig(oq))
        step = model.module[0].scale
        assert (model(data) - layer(data)).abs().max() <= 2 * step


class Residual(nn.Module):
    def __init__(self, q):
        super().__init__()
        self.quant, self.dequant = q.QuantStub(), q.DeQuantStub()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.six = nn.ReLU6()
        self.hard = nn.Hardswish()
        self.leaky = nn.LeakyReLU(0.1)
        self.sum = functional(q)
        self.product = functional(q)
        self.joined = functional(q)
        self.linear = nn.Linear(16, 4)

    def forward(self, x):
        x = self.quant(x)
        x = self.relu(self.bn(self.conv(x)))
        y = self.six(self.conv2(x))
        x = self.sum.add_relu(x, self.hard(y))
        x = self.product.mul(x, self.leaky(y))
        x = self.joined.cat([x, y], 1)
        return self.dequant(self.linear(x.mean((2, 3))))


def functional(q):
    return q.FloatFunctional() if q is oq else torch.ao.nn.quantized.FloatFunctional()


def both_networks():
    ours, theirs = Residual(oq), Residual(tq)
    ours.conv.weight.data *= 3
    ours.bn.running_mean.normal_()
    ours.bn.running_var.uniform_(0.5, 2)
    theirs.load_state_dict(ours.state_dict())
    return ours.eval(), theirs.eval()


def integers(q, model, data):
    model.qconfig = qconfig(q)
    observed = q.prepare(q.fuse_modules(model, ["conv", "bn", "relu"]))
    observed(data)
    return q.convert(observed)


def test_network_equals_torch_ao():
    ours, theirs = both_networks()
    data = torch.randn(16, 3, 12, 12)
    results = []
    for q, model in ((oq, ours), (tq, theirs)):
        results.append(integers(q, model, data))
    mine, other = results
    modules = dict(mine.named_modules())
    for name, b in other.named_modules():
        if getattr(b, "scale", None) is not None:
            a = modules[name]
            # BatchNorm folded in another order of roundings.
            assert float(a.scale) == pytest.approx(float(b.scale), rel=1e-5), name
            assert abs(int(a.zero_point) - int(b.zero_point)) <= 1, name
    real = ours(data)
    noise, other_noise = (mine(data) - real).std(), (other(data) - real).std()
    # Same parameters, other ties: the errors have one size. The estimate of a standard deviation
    # from 64 values is off by 1 / sqrt(2 * 64) = 9 %; three of those and their difference.
    assert noise <= other_noise * 1.4
    # With the same numbers in both, each module's integers are torch's or their neighbours.
    mine.load_state_dict(other.state_dict())
    seen = []
    for name in ("conv", "conv2", "six", "hard", "leaky", "linear"):
        modules[name].register_forward_hook(lambda _, x, y, name=name: seen.append((name, x[0], y)))
    mine(data)
    assert len(seen) == 6
    for name, x, y in seen:
        z = other.get_submodule(name)(x)
        assert (y.q_scale(), y.q_zero_point()) == (z.q_scale(), z.q_zero_point()), name
        assert (y.int_repr().int() - z.int_repr().int()).abs().max() <= 1, name


def printed(model):
    """Kinds and settings, without numbers that may differ in the last bit."""
    lines = [re.sub(r"scale=[^,)]*", "scale", line) for line in repr(model).splitlines()]
    return [line for line in lines if "activation_post_process" not in line]


def test_printed_names():
    ours, theirs = both_networks()
    texts = []
    data = torch.randn(2, 3, 8, 8)
    for q, model in ((oq, ours), (tq, theirs)):
        texts.append(printed(integers(q, model, data)))
    assert texts[0] == texts[1]


def test_more_accurate_than_torch_ao_by_default():
    """The default qconfigs: 8 bits of the activations against torch's 7."""
    layers = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32)]
    data = torch.randn(500, 64)
    real = nn.Sequential(*layers)(data)
    errors = [
        (converted(q, layers, data, q.get_default_qconfig("fbgemm"), [(0, 1)])(data) - real)
        .square()
        .mean()
        .item()
        for q in (oq, tq)
    ]
    assert errors[0] < errors[1]


def test_save_and_load():
    ours, _ = both_networks()
    data = torch.randn(4, 3, 8, 8)
    first, second = integers(oq, ours, data), integers(oq, ours, data * 3)
    assert not torch.equal(first(data), second(data))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(first(data), second(data))
    for again in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert torch.equal(again(data), first(data))
    broken = first.state_dict()
    del broken["conv.weight"]
    with pytest.raises(RuntimeError, match=r"conv\.weight"):
        second.load_state_dict(broken)


def test_loads_what_torch_ao_saved():
    ours, theirs = both_networks()
    data = torch.randn(4, 3, 8, 8)
    states = []
    for q, model in ((tq, theirs), (oq, ours)):
        states.append(integers(q, model, data if q is tq else data * 2))
    assert not torch.equal(states[1].quant.scale, states[0].quant.scale)
    states[1].load_state_dict(states[0].state_dict())
    x = states[0].quant(data)
    assert torch.equal(states[1].quant.scale, states[0].quant.scale)
    for name in ("conv", "conv2"):
        y, z = (state.get_submodule(name)(x) for state in reversed(states))
        assert (y.q_scale(), y.q_zero_point()) == (z.q_scale(), z.q_zero_point())
        assert (y.int_repr().int() - z.int_repr().int()).abs().max() <= 1
        x = y


def test_torch_ao_stubs_in_a_model_are_understood():
    model = wrapped(tq, [nn.Linear(4, 3)], qconfig(oq))
    data = torch.randn(5, 4)
    model = oq.prepare(model)
    model(data)
    model = oq.convert(model)
    assert type(model.quant).__module__ == "octavo.quantization.quantized"
    assert model(data).dtype == torch.float32


def test_qfunctional_scalars():
    x = torch.randn(50)
    observer = oq.MinMaxObserver()
    observer(x)
    scale, _ = observer.calculate_qparams()
    q = oq.convert(_observed_stub(x))(x)
    f = QFunctional()
    assert q.q_scale() == scale.item()
    for y in (f.add_scalar(q, 0.7), f.add_scalar(q, 100.0)):
        other = 0.7 if y.dequantize().max() < 50 else 100.0
        assert (y.dequantize() - q.dequantize() - other).abs().max() <= y.q_scale() / 2 * 1.001
    assert torch.equal(f.mul_scalar(q, 2.0).int_repr(), q.int_repr())
    assert f.mul_scalar(q, 2.0).q_scale() == 2 * q.q_scale()
    y = f.mul_scalar(q, -1.5)
    assert (y.dequantize() + 1.5 * q.dequantize()).abs().max() <= y.q_scale() / 2 * 1.001


def _observed_stub(x):
    stub = oq.QuantStub(qconfig(oq))
    stub = oq.prepare(stub)
    stub(x)
    return stub


def test_mistakes():
    model = wrapped(oq, [nn.Linear(4, 3)], qconfig(oq))
    model.qconfig = None
    with pytest.warns(UserWarning, match="None of the submodule"):
        oq.prepare(model)
    layer = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
    with pytest.raises(NotImplementedError, match="padding_mode reflect"):
        converted(oq, [layer], torch.randn(1, 3, 5, 5), qconfig(oq))
    model = converted(oq, [nn.Linear(4, 3)], torch.randn(2, 4), qconfig(oq))
    with pytest.raises(ValueError, match="last axis"):
        model(torch.randn(2, 5))
    with pytest.raises((NotImplementedError, RuntimeError)):
        model.module[0](torch.randn(2, 4))  # not quantized
    with pytest.raises(NotImplementedError, match="Cannot fuse"):
        oq.fuse_modules(nn.Sequential(nn.ReLU(), nn.Linear(2, 2)).eval(), ["0", "1"])
    with pytest.raises(ValueError, match=r"model\.eval"):
        oq.fuse_modules(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).train(), ["0", "1"])
    with pytest.raises(ValueError, match="training mode"):
        oq.prepare_qat(nn.Linear(2, 2).eval())
    with pytest.raises(NotImplementedError):
        oq.convert(model, is_reference=True)
