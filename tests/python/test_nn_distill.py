"""octavo.nn.learn_ranges and octavo.nn.distill: training of quantized modules."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("octavo._torch")

import octavo  # noqa: E402
import octavo.nn  # noqa: E402
from octavo.compat.pytorch_quantization import nn as quant_nn  # noqa: E402
from octavo.compat.pytorch_quantization.tensor_quant import QuantDescriptor  # noqa: E402

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("torch_seed")]


def build(bits: int = 8) -> tuple[Any, list[Any]]:
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3)
    ).eval()
    data = [torch.randn(16, 6) for _ in range(4)]
    both = {
        "quant_desc_input": QuantDescriptor(num_bits=bits),
        "quant_desc_weight": QuantDescriptor(num_bits=bits, axis=0),
    }
    octavo.nn.replace(model, {torch.nn.Linear: both})
    octavo.calibrate(model, data, method="max", progress=False)
    return model, data


def sqnr(truth: Any, got: Any) -> float:
    return float(10 * torch.log10(truth.square().sum() / (truth - got).square().sum()))


@pytest.mark.parametrize("method", ["lsq", "pact"])
def test_learned_ranges_begin_and_end_as_plain_ones(method: str) -> None:
    model, (x, *_) = build()
    with torch.no_grad():
        before = model(x)
    ranges = octavo.nn.learn_ranges(model, method)
    assert len(ranges.names) == (4 if method == "lsq" else 2)
    assert all(any(p is q for q in model.parameters()) for p in ranges.parameters)
    y = model(x)
    # LSQ divides by the step where the surface multiplies by its inverse: values halfway between
    # two integers may differ, by a step of 1/127 of the range.
    assert sqnr(before, y.detach()) > 40
    y.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in ranges.parameters)
    with torch.no_grad():
        for p in ranges.parameters:
            p.mul_(0.5)
        halved = model(x)
    amax = {n: m.amax for n, m in model.named_modules()
            if isinstance(m, quant_nn.TensorQuantizer)}  # fmt: skip
    ranges.finish()
    for name, module in model.named_modules():
        if isinstance(module, quant_nn.TensorQuantizer):
            assert type(module) is quant_nn.TensorQuantizer and not module._learn_amax
            if method == "lsq":
                assert torch.equal(module.amax, amax[name].reshape(module.amax.shape))
    with torch.no_grad():
        assert sqnr(halved, model(x)) > 35
    assert not any("clip" in n or "step" in n for n, _ in model.named_parameters())


def test_the_gradient_of_a_step_is_lsqs() -> None:
    model, (x, *_) = build(bits=3)
    octavo.nn.learn_ranges(model)
    quantizer = model[0].input_quantizer
    assert isinstance(quantizer, octavo.nn.LearnedStep)
    with torch.no_grad():
        quantizer.step.mul_(0.7)  # something is clipped
    quantizer(x).sum().backward()
    v = x.double() / float(quantizer.step.detach())
    inside = (v > -4) & (v < 3)
    each = torch.where(inside, v.round() - v, v.round().clamp(-4, 3))
    want = float(each.sum()) / np.sqrt(x.numel() * 3)
    # float32 quotients, rounded: 96 terms of at most 4.
    assert float(quantizer.step.grad) == pytest.approx(want, abs=1e-4)


def test_distillation_gains_over_max_calibration() -> None:
    """Handwritten digits, 3 bits, judged on those that were not trained on."""
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 48), torch.nn.ReLU(), torch.nn.Linear(48, 48), torch.nn.ReLU(),
        torch.nn.Linear(48, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(15):
        for part in torch.randperm(1200).split(100):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
    model.eval()
    three = {
        "quant_desc_input": QuantDescriptor(num_bits=3),
        "quant_desc_weight": QuantDescriptor(num_bits=3, axis=0),
    }
    with torch.no_grad():
        floats = model(x[1200:])
    octavo.nn.replace(model, {torch.nn.Linear: three})
    batches = list(x[:1200].split(100))
    octavo.calibrate(model, batches, method="max", progress=False)
    with torch.no_grad():
        plain = model(x[1200:])
    gains = {}
    for method in ("lsq", "pact"):
        trained = copy.deepcopy(model)
        ranges = octavo.nn.learn_ranges(trained, method)
        result = octavo.nn.distill(trained, batches, epochs=8, learning_rate=1e-3, progress=False)
        ranges.finish()
        assert result.layers == ("0", "2", "4")
        assert len(result.losses) == 8 * 12
        assert np.mean(result.losses[-12:]) < np.mean(result.losses[:12])
        with torch.no_grad():
            gains[method] = sqnr(floats, trained(x[1200:])) - sqnr(floats, plain)
    print(gains)
    assert min(gains.values()) > 1


def test_losses() -> None:
    model, data = build(bits=4)
    teacher = copy.deepcopy(model)
    for m in teacher.modules():
        if isinstance(m, quant_nn.TensorQuantizer):
            m.disable()

    def noise(s: Any, t: Any) -> float:
        return float((s - t).square().mean() / t.square().mean())

    with torch.no_grad():
        x = data[0]
        s, t = model(x), teacher(x)
        first = noise(model[0](x), teacher[0](x))
        hidden = noise(model[2](model[:2](x)), teacher[2](teacher[:2](x)))
        kl = float(
            (t / 2).softmax(1).mul((t / 2).log_softmax(1) - (s / 2).log_softmax(1)).sum() / 16 * 4
        )

    def loss(**options: Any) -> float:
        fresh = copy.deepcopy(model)
        return octavo.nn.distill(fresh, [x], progress=False, **options).losses[0]

    # float32 means of at most 192 elements
    assert loss() == pytest.approx(noise(s, t) + (first + hidden) / 2, rel=1e-4)
    assert loss(layer_weight=0) == pytest.approx(noise(s, t), rel=1e-4)
    assert loss(output_weight=0, layers=["0"]) == pytest.approx(first, rel=1e-4)
    assert loss(layer_weight=0, output="kl", temperature=2.0) == pytest.approx(kl, rel=1e-3)
    assert loss(teacher=teacher, layer_weight=0) == pytest.approx(noise(s, t), rel=1e-4)


def test_mistakes() -> None:
    model, data = build()
    for options, text in (
        ({"output": "l1"}, "mse and kl"),
        ({"layers": ["none*"]}, "no module is called"),
        ({"teacher": torch.nn.Linear(6, 3)}, "has no module 0"),
        ({"learning_rate": 1e30, "epochs": 3}, "is (nan|inf)"),
    ):
        with pytest.raises(octavo.UserError, match=text):
            octavo.nn.distill(copy.deepcopy(model), data, progress=False, **options)
    with pytest.raises(octavo.UserError, match="no batch"):
        octavo.nn.distill(model, [], progress=False)
    with pytest.raises(octavo.UserError, match="lsq and pact"):
        octavo.nn.learn_ranges(model, "ewgs")
    ranges = octavo.nn.learn_ranges(model)
    with pytest.raises(octavo.UserError, match="no plain integer quantizer"):
        octavo.nn.learn_ranges(model)
    ranges.finish()
    fresh = torch.nn.Sequential(torch.nn.Linear(2, 2))
    octavo.nn.replace(fresh)
    with pytest.raises(octavo.UserError, match=r"octavo\.calibrate first"):
        octavo.nn.learn_ranges(fresh)
