"""FX graph mode: traced models, their integers beside torch.ao's, and what each call becomes."""

from __future__ import annotations

import copy
import warnings

import pytest

torch = pytest.importorskip("torch")
oq = pytest.importorskip("octavo.quantization")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import test_quantization_static as static  # noqa: E402
from octavo.errors import UnsupportedError, UserError  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch.ao.quantization as tq
    from torch.ao.quantization import quantize_fx as tfx

pytestmark = static.pytestmark


def mapping(q):
    """8 bits in both; weights per channel."""
    return q.QConfigMapping().set_global(static.qconfig(q))


class Network(nn.Module):
    """Modules, functions, methods and operators of each kind."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn, self.relu = nn.BatchNorm2d(8), nn.ReLU()
        self.conv2, self.hard = nn.Conv2d(8, 8, 3, padding=1), nn.Hardswish()
        self.down = nn.ModuleList([nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)])
        self.pool, self.linear = nn.MaxPool2d(2), nn.Linear(16, 6)
        self.weight = nn.Parameter(torch.randn(5, 6))

    def forward(self, x):
        x = self.relu(self.bn(self.conv(x)))
        y = self.hard(self.conv2(x))
        x = torch.relu(x + y)
        for layer in self.down:
            x = x + layer(x)
        x = torch.cat([x, functional.relu6(y)], dim=1)
        x = self.pool(x).mean((2, 3))
        x = functional.relu(self.linear(x.view(x.size(0), -1)))
        return torch.softmax(functional.linear(x, self.weight), -1)


def network(kind=Network):
    model = kind().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
    return model


def converted(prepare, convert, model, maps, data):
    prepared = prepare(model, maps, (data,))
    with torch.no_grad():
        prepared(data)
    return convert(prepared)


def kinds(model):
    return {type(module).__name__ for module in model.modules()}


def test_grids_and_integers_are_those_of_torch_ao():
    model, data = network(), torch.randn(8, 3, 12, 12)
    ours = converted(oq.prepare_fx, oq.convert_fx, model, mapping(oq), data)
    theirs = converted(tfx.prepare_fx, tfx.convert_fx, model, mapping(tq), data)
    modules = dict(ours.named_modules())
    compared = set()
    for name, b in theirs.named_modules():
        if hasattr(b, "weight") and hasattr(b, "scale"):
            a = modules[name]
            # BatchNorm folded in another order of roundings, which only the first layer has.
            assert float(a.scale) == pytest.approx(float(b.scale), rel=1e-5), name
            assert abs(int(a.zero_point) - int(b.zero_point)) <= 1, name
            difference = a.weight().int_repr().int() - b.weight().int_repr().int()
            assert difference.abs().max() <= (1 if name == "conv" else 0)
            assert repr(a).split("scale=")[0] == repr(b).split("scale=")[0]
            compared.add(name)
    assert compared == {"conv", "conv2", "down.0", "down.1", "linear"}
    with torch.no_grad():
        real = model(data)
        noise, other = (ours(data) - real).std(), (theirs(data) - real).std()
    # The estimate of a standard deviation from 40 values is off by 11 %; three of those.
    assert noise <= 1.4 * other


def test_nothing_but_softmax_is_in_float():
    model, data = network(), torch.randn(4, 3, 12, 12)
    prepared = oq.prepare_fx(model, mapping(oq), (data,))
    before = repr(model)
    prepared(data)
    int8 = oq.convert_fx(prepared)
    assert repr(model) == before
    assert kinds(int8) & {"Conv2d", "ConvReLU2d", "Linear", "LinearReLU"} == {
        "Conv2d", "ConvReLU2d", "Linear", "LinearReLU"
    }  # fmt: skip
    assert all(type(m).__module__ != "torch.nn.modules.conv" for m in int8.modules())
    names = [str(node.target) for node in int8.graph.nodes if node.op == "call_module"]
    assert sum(name.startswith("quantize") for name in names) == 1
    assert sum(name.startswith("dequantize") for name in names) == 1
    methods = [n.target for n in int8.graph.nodes if n.op == "call_method"]
    assert methods.count("add_relu") == 1 and methods.count("add") == 2
    assert methods.count("cat") == 1
    # What a copy and a loaded state give.
    again = copy.deepcopy(int8)
    assert torch.equal(again(data), int8(data))
    other = converted(oq.prepare_fx, oq.convert_fx, model, mapping(oq), data * 2)
    assert not torch.equal(other(data), int8(data))
    other.load_state_dict(int8.state_dict())
    assert torch.equal(other(data), int8(data))


def test_by_default_more_accurate_than_torch_ao():
    """8 bits of activations against 7."""
    model, data = network(), torch.randn(32, 3, 12, 12)
    ours = converted(oq.prepare_fx, oq.convert_fx, model, oq.get_default_qconfig_mapping(), data)
    theirs = converted(
        tfx.prepare_fx, tfx.convert_fx, model, tq.get_default_qconfig_mapping(), data
    )
    with torch.no_grad():
        real = model(data)
        assert (ours(data) - real).std() < (theirs(data) - real).std()


def test_the_order_of_a_mapping():
    model, data = network(), torch.randn(2, 3, 12, 12)
    config = static.qconfig(oq)
    maps = (
        oq.QConfigMapping()
        .set_global(config)
        .set_object_type(nn.Linear, None)
        .set_object_type(torch.cat, None)
        .set_module_name_regex(r"down\..*", None)
        .set_module_name("down.1", config)
        .set_module_name_object_type_order("", nn.Conv2d, 1, None)
    )
    int8 = converted(oq.prepare_fx, oq.convert_fx, model, maps, data)
    kept = {
        name for name, module in int8.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }
    # The functional product is no nn.Linear; of convolutions the second in the model is named.
    assert kept == {"conv2", "down.0", "linear"}
    assert not any(n.target == "cat" for n in int8.graph.nodes if n.op == "call_method")
    with torch.no_grad():
        assert (int8(data) - model(data)).abs().max() < 0.05
    same = oq.QConfigMapping.from_dict(maps.to_dict())
    assert same.to_dict() == maps.to_dict()
    as_dict = converted(oq.prepare_fx, oq.convert_fx, model, maps.to_dict(), data)
    assert torch.equal(as_dict(data), int8(data))


class Residual(nn.Module):
    """A module that is called twice, numbers, chunks, and a branch that is float."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 1), nn.LayerNorm(6)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)

    def forward(self, x):
        a, b = self.conv(self.conv(x)).chunk(2, 1)
        x = torch.cat((a * 2.0, b + 0.5, functional.silu(b)), 1)
        x = self.norm(x) * torch.sigmoid(x)
        return {"up": self.up(x[:, :8]), "size": x.shape[0]}


def test_calls_of_other_kinds():
    model, data = Residual().eval(), torch.randn(2, 8, 6, 6)
    int8 = converted(oq.prepare_fx, oq.convert_fx, model, oq.get_default_qconfig_mapping(), data)
    with torch.no_grad():
        real, found = model(data), int8(data)
    assert found["size"] == 2 and found["up"].dtype == torch.float32
    noise = (real["up"] - found["up"]).square().mean() / real["up"].square().mean()
    assert 10 * torch.log10(noise) < -25  # a dozen tensors of 8 bits, at 35 dB and more each
    assert {"QuantizedLayerNorm", "QuantizedSigmoid", "QuantizedConvTranspose2d"} <= {
        module._get_name() for module in int8.modules()
    }


def test_quantized_inputs_and_outputs():
    model, data = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval(), torch.randn(2, 3, 4, 4)
    custom = oq.PrepareCustomConfig().set_output_quantized_indexes([0])
    custom.set_input_quantized_indexes([0])
    prepared = oq.prepare_fx(model, mapping(oq), (data,), custom)
    prepared(data)
    int8 = oq.convert_fx(prepared)
    x = torch.quantize_per_tensor(data, 0.03, 128, torch.quint8)
    y = int8(x)
    assert y.dtype == torch.quint8
    with torch.no_grad():
        # The rounding of the output, of three weights and a bias; and what lies beyond the range
        # of the output, which was found from inputs that are up to half of 0.03 away.
        w = model[0].weight
        step = (w.abs().flatten(1).max() / 127).item()
        slack = (
            0.5 * step * (x.dequantize().abs().sum(1).max() + 0.03) + 0.015 * w.abs().sum(1).max()
        )
        assert (y.dequantize() - model(x.dequantize())).abs().max() <= 0.5 * y.q_scale() + slack


def test_dynamic_layers_and_embeddings():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.linear = nn.Embedding(30, 16), nn.Linear(16, 8)

        def forward(self, x):
            return self.linear(self.words(x))

    model, data = Words().eval(), torch.randint(30, (4, 7))
    results = []
    for q, prepare, convert in (
        (oq, oq.prepare_fx, oq.convert_fx),
        (tq, tfx.prepare_fx, tfx.convert_fx),
    ):
        maps = (
            q.QConfigMapping()
            .set_object_type(nn.Linear, q.default_dynamic_qconfig)
            .set_object_type(nn.Embedding, q.float_qparams_weight_only_qconfig)
        )
        results.append(converted(prepare, convert, model, maps, data))
    ours, theirs = results
    assert type(ours.linear).__name__ == "Linear" and "Dynamic" in repr(ours.linear)
    assert torch.equal(ours.linear.weight().int_repr(), theirs.linear.weight().int_repr())
    with torch.no_grad():
        real = model(data)
        assert (ours(data) - real).std() <= 1.2 * (theirs(data) - real).std()


def test_training():
    """The same steps as torch.ao's, then integers that are as near to float."""
    torch.manual_seed(5)
    start, data = network().train(), torch.randn(16, 3, 12, 12)
    results = []
    for q, prepare, convert in (
        (oq, oq.prepare_qat_fx, oq.convert_fx),
        (tq, tfx.prepare_qat_fx, tfx.convert_fx),
    ):
        config = q.QConfig(
            q.FakeQuantize.with_args(observer=q.MovingAverageMinMaxObserver),
            q.default_weight_fake_quant,
        )
        prepared = prepare(copy.deepcopy(start), q.QConfigMapping().set_global(config), (data,))
        optimizer = torch.optim.SGD(prepared.parameters(), 0.002)
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = -torch.log(prepared(data)[:, 0]).mean()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        prepared.eval()
        results.append((losses, prepared(data).detach(), convert(prepared)))
    (losses, fake, ours), (other_losses, other_fake, theirs) = results
    assert losses[-1] < losses[0]
    # torch.ao quantizes the relu6 and concatenation on grids of its own.
    assert losses == pytest.approx(other_losses, rel=0.02)
    with torch.no_grad():
        # Both round averages of integers, which training does not show. 80 values, 8 % each.
        assert (ours(data) - fake).std() <= 1.4 * (theirs(data) - other_fake).std()


def test_fuse_fx():
    model, data = network(), torch.randn(2, 3, 12, 12)
    fused = oq.fuse_fx(model)
    assert {"ConvReLU2d", "LinearReLU"} <= kinds(fused) and "BatchNorm2d" not in kinds(fused)
    with torch.no_grad():
        assert torch.allclose(fused(data), model(data), rtol=1e-4, atol=1e-6)


def test_what_is_refused():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return self.linear(x) if x.sum() > 0 else x

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch, self.last = Branch(), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(self.branch(x))

    model, data = Holder().eval(), torch.randn(3, 4)
    with pytest.raises(UserError, match=r"(?s)cannot trace .*set_non_traceable_module_names"):
        oq.prepare_fx(model, mapping(oq), (data,))
    custom = oq.PrepareCustomConfig().set_non_traceable_module_names(["branch"])
    prepared = oq.prepare_fx(model, mapping(oq), (data,), custom)
    prepared(data)
    int8 = oq.convert_fx(prepared)
    assert type(int8.branch) is Branch and type(int8.last).__name__ == "Linear"
    with torch.no_grad():
        assert (int8(data) - model(data)).abs().max() < 0.05
    with pytest.raises(UserError, match="prepare_fx or prepare_qat_fx"):
        oq.convert_fx(int8)
    with pytest.raises(UserError, match="training"):
        oq.prepare_qat_fx(model, mapping(oq), (data,))
    with pytest.raises(UnsupportedError, match="backend_config"):
        oq.prepare_fx(model, mapping(oq), (data,), backend_config={})
    with pytest.raises(UserError, match="give a QConfigMapping"):
        oq.prepare_fx(model, mapping(tq), (data,))
    with pytest.raises(UserError, match="'modules' is not one of"):
        oq.QConfigMapping.from_dict({"modules": []})
