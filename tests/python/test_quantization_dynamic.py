"""quantize_dynamic: weights equal torch.ao's, outputs within bounds derived from the steps."""

from __future__ import annotations

import copy
import io
import itertools
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
oq = pytest.importorskip("octavo.quantization")
from torch import nn  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch.ao.quantization as tq

pytestmark = [
    pytest.mark.usefixtures("torch_seed"),
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def mlp():
    sizes = [768, 512, 314, 128, 64]
    layers = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def oracle(x, module, most=255):
    """The layer in float64 over the integers that dynamic quantization to [0, most] makes of x."""
    x = x.detach().numpy()
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    step = np.float32((float(high) - float(low)) / most)
    zero = np.rint(-float(low) / float(step))
    q = np.clip(np.rint(x * (np.float32(1) / step)) + zero, 0, most)
    weight = module.weight()
    if weight.qscheme() == torch.per_tensor_affine:
        w = (weight.int_repr().double() - weight.q_zero_point()) * weight.q_scale()
    else:
        w = weight.int_repr().double() - weight.q_per_channel_zero_points()[:, None]
        w = w * weight.q_per_channel_scales()[:, None]
    bias = 0 if module.bias() is None else module.bias().double()
    return torch.from_numpy((q - zero) * float(step)) @ w.T + bias, float(step)


@pytest.mark.parametrize("shape", [(30,), (1, 30), (33, 30), (2, 5, 30)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("config", ["default_dynamic_qconfig", "per_channel_dynamic_qconfig"])
def test_linear(shape, bias, config):
    """Two float32 roundings of the product, one of the sum: 2^-22 of the largest term."""
    layer = nn.Sequential(nn.Linear(30, 21, bias=bias))
    x = torch.randn(shape)
    ours = oq.quantize_dynamic(layer, {nn.Linear: getattr(oq, config)})
    theirs = tq.quantize_dynamic(layer, {nn.Linear: getattr(tq, config)})
    assert torch.equal(ours[0].weight().int_repr(), theirs[0].weight().int_repr())
    want, step = oracle(x, ours[0])
    got = ours(x)
    assert got.shape == (*shape[:-1], 21)
    assert (got - want).abs().max() <= 2**-22 * (want.abs().max() + 1)
    if len(shape) == 1:
        return  # torch's does not take one row without its axis
    # Both quantize each input to a grid: half a step of ours, of theirs (7 bits) one whole, for
    # the zero point is rounded too.
    size = ours[0].weight().dequantize().abs().sum(1).max()
    assert (got - theirs(x)).abs().max() <= size * step * (0.5 + 2 * 255 / 127)


def test_basic_example_is_more_accurate_than_torch_ao():
    """On a 768-512-314-128-64 MLP."""
    model, x = mlp(), torch.randn(64, 768)
    ours = oq.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    theirs = tq.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    real = model(x)
    assert repr(ours) == repr(theirs)
    assert (ours(x) - real).square().mean() < (theirs(x) - real).square().mean()
    # Layer by layer: what came in differing by `off` leaves differing by at most |W| off and the
    # two grids' rounding.
    mine, other, off = x, x, 0.0
    for a, b in zip(ours, theirs, strict=True):
        if hasattr(a, "weight"):
            _, step = oracle(mine, a)
            grown = step + 2 * off / 255
            size = a.weight().dequantize().abs().sum(1).max().item()
            off = size * (off + grown * (0.5 + 2 * 255 / 127)) + 1e-5
        mine, other = a(mine), b(other)
        assert (mine - other).abs().max() <= off


def test_relu_is_fused():
    model = nn.Sequential(nn.Linear(9, 7), nn.ReLU()).eval()
    fused = oq.fuse_modules(model, ["0", "1"])
    ours = oq.quantize_dynamic(fused, {oq.LinearReLU: oq.default_dynamic_qconfig})
    x = torch.randn(5, 9)
    assert "DynamicQuantizedLinearReLU" in repr(ours)
    assert torch.equal(ours(x), oq.quantize_dynamic(model)(x))


def test_names_and_submodules():
    """A set of names quantizes those alone; a dictionary gives each its QConfig."""
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    ours = oq.quantize_dynamic(model, {"a"})
    assert type(ours["b"]) is nn.Linear
    assert "DynamicQuantized" in repr(ours["a"])
    ours = oq.quantize_dynamic(model, {"b": oq.per_channel_dynamic_qconfig})
    assert ours["b"].weight().qscheme() == torch.per_channel_affine
    assert type(ours["a"]) is nn.Linear
    assert type(model["b"]) is nn.Linear  # not in place
    oq.quantize_dynamic(model, inplace=True)
    assert "DynamicQuantized" in repr(model["b"])
    with pytest.raises(ValueError, match="Don't know how"):
        oq.quantize_dynamic(model, dtype=torch.int64)


def test_float16():
    """Weights of float16, products in float32: half an ulp of float16 for each weight."""
    model, x = nn.Sequential(nn.Linear(20, 8)), torch.randn(3, 20)
    ours = oq.quantize_dynamic(model, dtype=torch.float16)
    assert ours[0].weight().dtype == torch.float16
    assert repr(ours) == repr(tq.quantize_dynamic(model, dtype=torch.float16))
    bound = (x.abs() @ model[0].weight.abs().T) * 2**-11 + 1e-6
    assert ((ours(x) - model(x)).abs() <= bound).all()


def recurrent_slack(model, steps):
    """All of a step's errors are below `gate` in each gate, and the functions' slopes at most 1.

    Weights are off by half a scale, inputs by half a step of a range of at most 8 (states: 2).
    A state's error grows through the recurrent weights at most by their absolute sum each step;
    the test takes models for which that is below 1.
    """
    gate = 0.0
    for name, parameter in model.named_parameters():
        if name.startswith("weight"):
            rows, wide = parameter.abs().sum(1).max().item(), parameter.shape[1]
            scale = parameter.abs().max().item() / 127.5
            gate += wide * scale / 2 * 4 + rows * 8 / 127
    return 2 * gate * steps


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True}, {"bias": False}],
)
def test_recurrent(kind, dtype, arguments):
    model = nn.ModuleDict({"r": kind(12, 10, **arguments)}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3)
    ours, theirs = oq.quantize_dynamic(model, dtype=dtype)["r"], None
    if ours.bias:  # torch's has no form without
        theirs = tq.quantize_dynamic(model, dtype=dtype)["r"]
        assert repr(ours) == repr(theirs)
    x = torch.randn(5, 3, 12).clamp(-4, 4)
    shape = (ours.num_layers * (2 if ours.bidirectional else 1),)
    batch = 5 if arguments.get("batch_first") else 3
    h = torch.rand(*shape, batch, 10) - 0.5
    hx = (h, h * 0.5) if kind is nn.LSTM else h
    for state in (None, hx):
        real, real_h = model["r"](x, state)
        y, last = ours(x, state)
        bound = recurrent_slack(model["r"], 5)
        assert y.shape == real.shape
        assert (y - real).abs().max() <= bound
        if theirs:
            assert (y - theirs(x, state)[0]).abs().max() <= 2 * bound
        pairs = zip(last, real_h, strict=True) if kind is nn.LSTM else [(last, real_h)]
        for a, b in pairs:
            assert a.shape == b.shape
            assert (a - b).abs().max() <= bound


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_is_as_accurate_as_torch_ao(kind):
    model = nn.ModuleDict({"r": kind(64, 48)}).eval()
    x = torch.randn(20, 16, 64)
    real = model["r"](x)[0]
    errors = [
        (q.quantize_dynamic(model)["r"](x)[0] - real).square().mean().item() for q in (oq, tq)
    ]
    assert errors[0] <= errors[1]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("sort", [True, False])
def test_packed_sequences(kind, sort):
    model = nn.ModuleDict({"r": kind(6, 5, bidirectional=True)}).eval()
    ours = oq.quantize_dynamic(model, dtype=torch.float16)["r"]
    lengths = torch.tensor([5, 4, 2] if sort else [2, 5, 4])
    x = pack_padded_sequence(torch.randn(5, 3, 6), lengths, enforce_sorted=sort)
    real, real_h = model["r"](x)
    y, last = ours(x)
    a, b = pad_packed_sequence(y)[0], pad_packed_sequence(real)[0]
    assert (a - b).abs().max() <= 5e-3  # float16 weights: recurrent_slack's order
    pairs = zip(last, real_h, strict=True) if kind is nn.LSTM else [(last, real_h)]
    for p, q in pairs:
        assert (p - q).abs().max() <= 5e-3


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("lengths", [[6, 6, 6], [6, 4, 1]])
def test_float16_steps_in_one_call_are_torchs(kind, lengths):
    """Weights of 11 bits in the float module too: float32's roundings are all that differs.

    Sums of 12 or 9 products below 8 and functions within 4 ulps of 1, over 6 steps whose states the
    recurrent weights hardly amplify. Where gradients are wanted, steps are torch's own.
    """
    model = nn.ModuleDict({"r": kind(12, 9, bidirectional=True)})
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    ours = oq.quantize_dynamic(model, dtype=torch.float16)["r"]
    x = torch.randn(6, 3, 12)
    packed = pack_padded_sequence(x, torch.tensor(lengths))
    with torch.no_grad():
        (y, last), (real, real_last) = ours(packed), model["r"](packed)
    assert (y.data - real.data).abs().max() <= 1e-5
    pairs = zip(last, real_last, strict=True) if kind is nn.LSTM else [(last, real_last)]
    for a, b in pairs:
        assert (a - b).abs().max() <= 1e-5
    grads = []
    for module in (ours, model["r"]):
        leaf = x.clone().requires_grad_()
        module(leaf)[0].square().sum().backward()
        grads.append(leaf.grad)
    assert (grads[0] - grads[1]).abs().max() <= 1e-4


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sizes", [[4, 4, 4, 4], [5, 3, 3, 1]])
def test_each_step_is_its_products_and_gates(kind, reverse, sizes):
    """Of one layer, from the states before it: INT8 products, and gates in float64.

    A gate is a sum of two float32 numbers below 16, whose rounding it takes over, and the functions
    are within 4 ulps of values below 1: 2^-19 is ample.
    """
    module = oq.quantize_dynamic(nn.ModuleDict({"r": kind(12, 9)}))["r"]
    layer, mode = module.layers[0], module.mode
    x = torch.randn(sum(sizes), 12).clamp(-5, 4)
    # The extremes are there whichever steps are left out: the same integers of x.
    starts = [sum(sizes[:t]) for t in range(len(sizes))]
    x[starts, 0], x[starts, 1] = 4, -5
    first = tuple(torch.randn(sizes[0], 9) for _ in range(module.states))
    order = list(reversed(range(len(sizes)))) if reverse else list(range(len(sizes)))

    def run(chosen):
        rows = torch.cat([x[starts[t] : starts[t] + sizes[t]] for t in sorted(chosen)])
        counts = [sizes[t] for t in sorted(chosen)]
        given = tuple(s[: counts[0]] for s in first)
        y, states = layer.run(rows, counts, given, mode, reverse)
        return y, [torch.cat([s, f[counts[0] :]]) for s, f in zip(states, first, strict=True)]

    before = first
    for count, t in enumerate(order, 1):
        y, states = run(order[:count])
        n = sizes[t]
        ours = y[:n] if reverse else y[-n:]
        products = layer.ih(x[starts[t] : starts[t] + n]).double(), layer.hh(before[0][:n]).double()
        inputs = [s[:n].double() for s in before]
        if mode == "LSTM":
            i, f, g, o = (products[0] + products[1]).chunk(4, -1)
            c = f.sigmoid() * inputs[1] + i.sigmoid() * g.tanh()
            want = [o.sigmoid() * c.tanh(), c]
        else:
            (xr, xz, xn), (hr, hz, hn) = (p.chunk(3, -1) for p in products)
            r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
            candidate = (xn + r * hn).tanh()
            want = [candidate + z * (inputs[0] - candidate)]
        assert torch.equal(states[0][:n], ours)
        for now, then, exact in zip(states, before, want, strict=True):
            assert torch.equal(now[n:], then[n:])  # the rows that this step leaves out
            assert (now[:n] - exact).abs().max() <= 2**-19
        before = states


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("single", [False, True])
def test_cells(kind, single):
    model = nn.ModuleDict({"c": kind(12, 10)}).eval()
    ours, theirs = (q.quantize_dynamic(model)["c"] for q in (oq, tq))
    assert repr(ours) == repr(theirs)
    x = torch.randn(12) if single else torch.randn(4, 12)
    y, real = ours(x), model["c"](x)
    for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (y, real)), strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= recurrent_slack(model["c"], 1)


def test_embeddings():
    model = nn.ModuleList([nn.Embedding(30, 12), nn.EmbeddingBag(30, 12, mode="sum")])
    ours, theirs = (q.quantize_dynamic(model, dtype=torch.quint8) for q in (oq, tq))
    assert repr(ours) == repr(theirs)
    assert torch.equal(ours[0].weight().int_repr(), theirs[0].weight().int_repr())
    i = torch.randint(30, (4, 7))
    # Three float32 roundings of values up to 4.
    assert (ours[0](i) - theirs[0](i)).abs().max() <= 3 * 2**-22
    step = ours[0].weight().q_per_channel_scales().max()
    assert (ours[0](i) - model[0](i)).abs().max() <= step / 2 * 1.001
    flat, offsets, weights = i.reshape(-1), torch.tensor([0, 3, 3, 20]), torch.rand(28)
    for arguments in ((flat, offsets), (flat, offsets, weights)):
        mine = ours[1](*arguments)
        assert (mine - theirs[1](*arguments)).abs().max() <= 28 * 4 * 2**-22
    assert (ours[1](i) - model[1](i)).abs().max() <= 7 * step / 2 * 1.001
    mean = nn.ModuleList([nn.EmbeddingBag(30, 12, mode="mean")])
    got = oq.quantize_dynamic(mean, dtype=torch.quint8)[0](i)
    step = mean[0].weight.detach().amax(1) - mean[0].weight.detach().amin(1)
    assert (got - mean[0](i)).abs().max() <= step.max() / 255 / 2 * 1.001
    with pytest.raises(IndexError):
        ours[0](torch.tensor([30]))
    with pytest.raises(NotImplementedError, match="max"):
        oq.quantize_dynamic(nn.ModuleList([nn.EmbeddingBag(3, 4, mode="max")]), dtype=torch.quint8)


def test_save_and_load():
    def network():
        return nn.ModuleDict({"l": nn.Linear(8, 8), "r": nn.LSTM(8, 8), "e": nn.Embedding(9, 8)})

    def quantized():
        model = oq.quantize_dynamic(network())
        return oq.quantize_dynamic(model, dtype=torch.quint8)

    first, second = quantized(), quantized()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    x, i = torch.randn(3, 2, 8), torch.tensor([1, 2])
    for again in (second, copy.deepcopy(first)):
        assert torch.equal(first["l"](x), again["l"](x))
        assert torch.equal(first["r"](x)[0], again["r"](x)[0])
        assert torch.equal(first["e"](i), again["e"](i))


def test_loads_a_linear_that_torch_ao_saved():
    x = torch.randn(5, 8)
    theirs = tq.quantize_dynamic(nn.Sequential(nn.Linear(8, 4)))
    ours = oq.quantize_dynamic(nn.Sequential(nn.Linear(8, 4)))
    ours.load_state_dict(theirs.state_dict())
    want, _ = oracle(x, ours[0])
    assert (ours(x) - want).abs().max() <= 2**-22 * (want.abs().max() + 1)
    assert torch.equal(ours[0].weight().int_repr(), theirs[0].weight().int_repr())


def test_mistakes():
    ours = oq.quantize_dynamic(nn.Sequential(nn.Linear(8, 4)))
    with pytest.raises(ValueError, match="last axis"):
        ours(torch.randn(2, 7))
    with pytest.raises(ValueError, match="NaN or infinity"):
        ours(torch.tensor([[torch.nan] * 8]))
    with pytest.raises(TypeError, match="float32"):
        ours(torch.randn(2, 8).double())
    assert ours(torch.randn(0, 8)).shape == (0, 4)
    recurrent = oq.quantize_dynamic(nn.ModuleDict({"r": nn.LSTM(8, 4)}))["r"]
    with pytest.raises(ValueError, match="NaN or infinity"):
        recurrent(torch.full((2, 1, 8), torch.nan))
    with pytest.raises(ValueError, match="an input of"):
        recurrent(torch.randn(2, 1, 7))
    with pytest.raises(TypeError, match="float32"):
        recurrent(torch.randn(2, 1, 8).double())
    with pytest.raises(NotImplementedError, match="proj_size"):
        oq.quantize_dynamic(nn.ModuleList([nn.LSTM(4, 4, proj_size=2)]))
