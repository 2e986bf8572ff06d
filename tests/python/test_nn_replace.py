"""octavo.nn.replace: quantized modules in a built model; batch normalization folded."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("octavo._torch")

import octavo  # noqa: E402
import octavo.nn  # noqa: E402
from octavo.compat.pytorch_quantization import nn as quant_nn  # noqa: E402
from octavo.compat.pytorch_quantization import quant_modules  # noqa: E402
from octavo.compat.pytorch_quantization.nn.modules._utils import QuantMixin  # noqa: E402
from octavo.compat.pytorch_quantization.tensor_quant import QuantDescriptor  # noqa: E402

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("torch_seed")]


class Net(torch.nn.Module):
    """Two convolutions with batch normalization, one of them in a residual; a shared layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, 3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(8)
        self.block = torch.nn.Sequential(
            torch.nn.ConvTranspose2d(8, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
        )
        self.pool = torch.nn.AdaptiveAvgPool2d(1)
        self.shared = torch.nn.Linear(8, 8)
        self.again = self.shared
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        x = self.bn1(self.conv1(x)).relu()
        x = self.pool(x + self.block(x)).flatten(1)
        return self.head(self.again(self.shared(x).relu()))


class Untraceable(torch.nn.Module):
    """torch.fx cannot follow its branch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.norm = torch.nn.BatchNorm1d(4)

    def forward(self, x: Any) -> Any:
        return self.norm(self.linear(x)) if len(list(x)) > 1 else x


def trained(model: Any) -> Any:
    """Statistics, scales and shifts of batch normalization that are not the first ones."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                torch.nn.init.uniform_(tensor, 0.2, 1)
    return model.eval()


def state(model: Any) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def disable(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, quant_nn.TensorQuantizer):
            module.disable()


# ---- folding


@pytest.mark.parametrize("by_export", [False, True])
def test_folding(by_export: bool) -> None:
    model = trained(Net()).double()
    x = torch.randn(2, 3, 9, 9, dtype=torch.double)
    before, expected = state(model), model(x)
    pairs, undo = octavo.nn.fold_batch_norm(model, (x,) if by_export else None)
    assert sorted(pairs) == [("block.0", "block.1"), ("conv1", "bn1")]
    assert type(model.bn1) is type(model.block[1]) is torch.nn.Identity
    assert model.conv1.bias is not None
    # float64 throughout; sums of less than 100 products of magnitude about 1.
    assert torch.allclose(model(x), expected, rtol=0, atol=1e-12)
    undo()
    assert same(state(model), before)
    assert torch.equal(model(x), expected)
    assert model.conv1.bias is None


def test_what_is_not_folded() -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv1d(2, 2, 1)
            self.norm = torch.nn.BatchNorm1d(2)
            self.last = torch.nn.Conv1d(2, 2, 1)
            self.bare = torch.nn.BatchNorm1d(2, track_running_stats=False)

        def forward(self, x: Any) -> Any:
            y = self.conv(x)
            return self.bare(self.last(y + self.norm(y)))

    model, x = Twice().eval(), torch.randn(3, 2, 4)
    for args in (None, (x,)):
        pairs, _ = octavo.nn.fold_batch_norm(model, args)
        assert pairs == []
        assert isinstance(model.norm, torch.nn.BatchNorm1d)


def test_folding_what_fx_cannot_trace() -> None:
    model, x = trained(Untraceable()), torch.randn(3, 4)
    with pytest.raises(octavo.UserError, match=r"give example inputs \(args=\)"):
        octavo.nn.replace(model)
    assert type(model.linear) is torch.nn.Linear
    expected = model(x)
    replaced = octavo.nn.replace(model, args=(x,))
    assert replaced.folded == [("linear", "norm")]
    disable(model)
    # float32: four products, a sum, a scale; values of a few units.
    assert torch.allclose(model(x), expected, rtol=0, atol=1e-5)
    replaced.undo()
    plain = octavo.nn.replace(model, fold=False)
    assert plain.names == ["linear"]
    assert isinstance(model.norm, torch.nn.BatchNorm1d)


# ---- replacement


def test_replace_and_undo() -> None:
    model = trained(Net())
    x = torch.randn(2, 3, 9, 9)
    modules = dict(model.named_modules(remove_duplicate=False))
    before, expected = state(model), model(x)
    parameters = {id(p) for p in model.parameters()}
    replaced = octavo.nn.replace(model)
    assert replaced.model is model
    assert replaced.names == ["conv1", "block.0", "pool", "shared", "again", "head"]
    assert type(model.conv1) is quant_nn.QuantConv2d
    assert type(model.block[0]) is quant_nn.QuantConvTranspose2d
    assert type(model.pool) is quant_nn.QuantAdaptiveAvgPool2d
    assert model.shared is model.again
    assert {id(p) for p in model.parameters()} >= {id(modules["head"].weight)}
    assert id(model.head.weight) in parameters
    quantized = model(x)
    assert not torch.equal(quantized, expected)
    # Built by hand: each quantizer is the class's default.
    hand = quant_nn.QuantLinear(8, 5)
    hand.load_state_dict(model.head.state_dict())
    features = torch.randn(3, 8)
    assert torch.equal(model.head(features), hand(features))
    disable(model)
    assert torch.allclose(model(x), expected, rtol=0, atol=1e-5)
    assert replaced.undo() is model
    assert dict(model.named_modules(remove_duplicate=False)) == modules
    assert same(state(model), before)
    assert torch.equal(model(x), expected)
    with octavo.nn.replace(model) as inside:
        assert type(inside.head) is quant_nn.QuantLinear
    assert type(model.head) is torch.nn.Linear


def test_hooks_mode_and_device_are_kept() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).to("meta")
    calls: list[Any] = []
    handle = model[0].register_forward_hook(lambda *_: calls.append("hook"))
    model[1].eval()
    model[0].weight.requires_grad = False
    model[0].name = "first"
    descriptor = QuantDescriptor(amax=2.0)
    octavo.nn.replace(model, {torch.nn.Linear: {"quant_desc_input": descriptor}})
    assert model[0].training
    assert model[0].input_quantizer.training
    assert not model[1].training
    assert not model[1].weight_quantizer.training
    assert not model[0].weight.requires_grad
    assert model[0].name == "first"
    assert model[0].input_quantizer.amax.device.type == "meta"
    real = torch.nn.Sequential(torch.nn.Linear(3, 4))
    handle = real[0].register_forward_hook(lambda *_: calls.append("hook"))
    octavo.nn.replace(real)
    real(torch.randn(2, 3))
    assert calls == ["hook"]
    handle.remove()
    real(torch.randn(2, 3))
    assert calls == ["hook"]


def test_training_goes_on_with_the_same_parameters() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    replaced = octavo.nn.replace(model)
    before = model[0].weight.detach().clone()
    model(torch.randn(8, 3)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, before)
    after = model[0].weight.detach().clone()
    model.eval()
    replaced.undo()
    assert torch.equal(model[0].weight, after)
    assert not model[0].training


def test_lstm() -> None:
    model = torch.nn.ModuleDict({"rnn": torch.nn.LSTM(3, 4, 2, bidirectional=True)})
    x = torch.randn(5, 2, 3)
    expected = model["rnn"](x)[0]
    octavo.nn.replace(model)
    assert len(model["rnn"]._input_quantizers) == 4
    assert not torch.equal(model["rnn"](x)[0], expected)
    disable(model)
    assert torch.equal(model["rnn"](x)[0], expected)
    with pytest.raises(ValueError, match="proj_size"):
        octavo.nn.replace(torch.nn.LSTM(3, 4, proj_size=2))


def test_a_model_that_is_one_module() -> None:
    linear = torch.nn.Linear(3, 4)
    replaced = octavo.nn.replace(linear)
    assert type(replaced.model) is quant_nn.QuantLinear
    assert replaced.undo() is linear


# ---- rules


def kinds(model: Any) -> list[str]:
    return [type(m).__name__ for m in (model.conv1, model.block[0], model.shared, model.head)]


def test_rules() -> None:
    four = QuantDescriptor(num_bits=4, axis=0)

    def is_small(name: str, module: Any) -> bool:
        return name == "head" and module.out_features < 6

    model = trained(Net())
    replaced = octavo.nn.replace(
        model,
        [
            ("block.*", None),
            (is_small, {"quant_desc_weight": four}),
            (torch.nn.Linear, None),
            ("head", None),  # an earlier rule has decided
        ],
    )
    assert kinds(model) == ["QuantConv2d", "ConvTranspose2d", "Linear", "QuantLinear"]
    assert model.head.weight_quantizer.num_bits == 4
    assert model.head.input_quantizer.num_bits == 8
    assert isinstance(model.block[1], torch.nn.Identity)  # folded all the same
    replaced.undo()
    octavo.nn.replace(model, {"head": quant_nn.QuantLinear}, float_list=["Linear", "block.0"])
    assert kinds(model) == ["QuantConv2d", "ConvTranspose2d", "Linear", "Linear"]
    second = octavo.nn.replace(model, {torch.nn.Conv2d: {}})  # what is quantized stays
    assert second.names == ["block.0", "shared", "again", "head"]


def test_own_classes() -> None:
    class Scaled(torch.nn.Linear):
        def forward(self, x: Any) -> Any:
            return 2 * super().forward(x)

    class QuantScaled(Scaled, QuantMixin):
        def forward(self, x: Any) -> Any:
            weight = self._weight_quantizer(self.weight)
            return 2 * torch.nn.functional.linear(self._input_quantizer(x), weight, self.bias)

    holder = type("holder", (), {"Scaled": Scaled})
    model = torch.nn.Sequential(Scaled(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    only = octavo.nn.replace(model)
    assert only.names == ["2"]  # a subclass may compute something else
    only.undo()
    replaced = octavo.nn.replace(model, custom_quant_modules=[(holder, "Scaled", QuantScaled)])
    assert type(model[0]) is QuantScaled
    replaced.undo()
    quant_modules.initialize()
    try:
        octavo.nn.replace(model, custom_quant_modules=[(torch.nn, "Linear", QuantScaled)])
        assert type(model[2]) is QuantScaled
    finally:
        quant_modules.deactivate()
    octavo.nn.replace(model, {torch.nn.ReLU: lambda _: torch.nn.ReLU6()})
    assert type(model[1]) is torch.nn.ReLU6


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ({}, "there is no quantized class for ReLU"),
        (torch.nn.ReLU6, "ReLU6 cannot be made of a float module"),
        (lambda _: 3, "the rule made int, not a module"),
    ],
)
def test_refused_rules(target: Any, text: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU())
    with pytest.raises(octavo.UserError, match=text):
        octavo.nn.replace(model, {"1": target})
    assert type(model[0]) is torch.nn.Linear  # as before
