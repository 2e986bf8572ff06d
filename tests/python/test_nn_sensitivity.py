"""octavo.sensitivity and octavo.search of torch modules, against runs of the whole model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("octavo._torch")

import octavo  # noqa: E402
import octavo.nn  # noqa: E402
from octavo.compat.pytorch_quantization import nn as quant_nn  # noqa: E402
from octavo.nn import checkpoint  # noqa: E402
from octavo.nn.suffix import Suffix  # noqa: E402

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("torch_seed")]


class Net(torch.nn.Module):
    """A residual, a quantizer by itself, a layer that is called twice."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.relu = torch.nn.ReLU(inplace=inplace)
        self.block = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.shortcut_quantizer = quant_nn.TensorQuantizer()
        self.twice = torch.nn.Linear(8, 8)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        x = self.relu(self.stem(x))
        x = self.shortcut_quantizer(x) + self.block(x)
        x = self.twice(self.twice(x.mean((2, 3))))
        return self.head(x)


LAYERS = {"stem", "block", "shortcut_quantizer", "twice", "head"}


def build(inplace: bool = False) -> Any:
    model = Net(inplace)
    octavo.nn.replace(model, fold=False)
    octavo.calibrate(model, batches(3), method="max", progress=False)
    return model.eval()


def batches(count: int = 5) -> list[Any]:
    return [torch.randn(4, 3, 6, 6) for _ in range(count)]


def quantizers(model: Any, layer: str | None = None) -> list[Any]:
    return [
        m
        for n, m in model.named_modules()
        if isinstance(m, quant_nn.TensorQuantizer)
        and (layer is None or n == layer or n.startswith(f"{layer}."))
    ]


def outputs(model: Any, data: list[Any], on: list[Any]) -> list[Any]:
    for q in quantizers(model):
        q._disabled = q not in on
    with torch.no_grad():
        result = [model(x) for x in data]
    for q in quantizers(model):
        q.enable()
    return result


def sqnr(truth: list[Any], got: list[Any]) -> float:
    y, z = (torch.cat(t).double() for t in (truth, got))
    return float(10 * torch.log10(y.square().sum() / (y - z).square().sum()))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("mode", ["only", "all_but"])
def test_figures_are_those_of_the_whole_model(mode: str, inplace: bool) -> None:
    model, data = build(inplace), batches()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = octavo.sensitivity(model, data, mode=mode, progress=False)
    truth = outputs(model, data, [])
    assert {layer.name for layer in result.layers} == LAYERS
    for layer in result.layers:
        own = quantizers(model, layer.name)
        assert len(own) == len(layer.nodes) > 0
        on = own if mode == "only" else [q for q in quantizers(model) if q not in own]
        want = sqnr(truth, outputs(model, data, on))
        # float64 sums of squares of the same float32 outputs, in another order.
        assert layer.figures.sqnr_db.value == pytest.approx(want, rel=1e-9)
        assert layer.figures.sqnr_db.low <= want <= layer.figures.sqnr_db.high
        assert layer.figures.agreement is not None
    all_on = sqnr(truth, outputs(model, data, quantizers(model)))
    assert result.quantized.sqnr_db.value == pytest.approx(all_on, rel=1e-9)
    ranked = [layer.figures.sqnr_db.value for layer in result.layers]
    assert ranked == sorted(ranked, reverse=mode == "all_but")
    positions = {layer.name: layer.position for layer in result.layers}
    assert positions["stem"] == 0 and positions["head"] == 4
    assert "stem" in str(result)
    after = model.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert not any(q._disabled for q in quantizers(model))


def test_a_layer_alone_at_its_own_output() -> None:
    model, data = build(), batches()
    result = octavo.sensitivity(model, data, mode="sqnr", progress=False)
    truth: list[Any] = []
    got: list[Any] = []
    for q in quantizers(model):
        q.disable()

    def look(module: Any, args: Any, output: Any) -> None:
        truth.append(output)
        weight, x = module.weight_quantizer, module.input_quantizer
        weight.enable()
        x.enable()
        got.append(torch.nn.functional.linear(x(args[0]), weight(module.weight), module.bias))
        weight.disable()
        x.disable()

    hook = model.twice.register_forward_hook(look)
    with torch.no_grad():
        for x in data:
            model(x)
    hook.remove()
    (layer,) = (layer for layer in result.layers if layer.name == "twice")
    assert len(truth) == 2 * len(data)
    assert layer.figures.sqnr_db.value == pytest.approx(sqnr(truth, got), rel=1e-9)


def test_only_what_follows_is_run() -> None:
    model, (x,) = build(), batches(1)
    ran: list[str] = []
    for name in ("stem", "block", "head"):
        model.get_submodule(name).register_forward_hook(lambda *_a, n=name: ran.append(n))
    for q in quantizers(model):
        q.disable()
    layers = [model.get_submodule(n) for n in LAYERS]
    with torch.no_grad():
        suffix = Suffix(model, layers, lambda m, b: m(b))
        suffix.start(x)
        assert suffix.known
        ran.clear()
        assert torch.equal(suffix.again(model.block), model(x))
        assert ran == ["block", "head", "stem", "block", "head"]
        inplace = build(inplace=True)
        suffix = Suffix(inplace, [inplace.get_submodule(n) for n in LAYERS], lambda m, b: m(b))
        suffix.start(x)
        assert not suffix.known
        assert torch.equal(suffix.again(inplace.block), inplace(x))


def test_branches_that_fx_does_not_see() -> None:
    class Branch(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
            self.flip = False

        def forward(self, x: Any) -> Any:
            self.flip = not self.flip  # what the trace saw is not what runs
            return self.a(x) if self.flip else self.b(x)

    model, x = Branch(), torch.randn(2, 3)
    with torch.no_grad():
        suffix = Suffix(model, [], lambda m, b: m(b))
        assert suffix.known
        suffix.start(x)
    assert not suffix.known


def test_metrics_and_labelled_batches() -> None:
    model = build()
    data = [(x, torch.randint(5, (4,))) for x in batches()]

    def accuracy(outputs: Any, batch: Any) -> float:
        return float((outputs[0].argmax(1) == batch.inputs[1]).float().mean())

    def forward(model: Any, batch: Any) -> Any:
        return model(batch[0])

    result = octavo.sensitivity(model, data, metric=accuracy, forward=forward, progress=False)
    xs = [x for x, _ in data]
    for layer in result.layers:
        got = outputs(model, xs, quantizers(model, layer.name))
        want = np.mean(
            [float((y.argmax(1) == t).float().mean()) for y, (_, t) in zip(got, data, strict=True)]
        )
        assert layer.figures.metric is not None
        assert layer.figures.metric.value == pytest.approx(want, abs=1e-12)
    assert result.record["metric"] == "accuracy (function)"
    agreement = octavo.sensitivity(model, xs, metric="agreement", progress=False)
    values = [layer.figures.agreement.value for layer in agreement.layers]
    assert values == sorted(values)


def test_disable_worst() -> None:
    model, data = build(), batches()
    result = octavo.sensitivity(model, data, mode="all_but", progress=False)
    worst = result.layers[0]
    assert result.disable_worst(1) == (worst.name,)
    assert all(q._disabled for q in quantizers(model, worst.name))
    on = [q for q in quantizers(model) if not q._disabled]
    with torch.no_grad():
        got = [model(x) for x in data]
    truth = outputs(model, data, [])
    assert sqnr(truth, got) == pytest.approx(worst.figures.sqnr_db.value, rel=1e-9)
    assert len(on) == len(quantizers(model)) - len(worst.nodes)
    with pytest.raises(octavo.UserError, match="there are 5 layers, not 6"):
        result.disable_worst(6)
    with pytest.raises(TypeError, match=r"result\.disable_worst"):
        octavo.disable_worst(result, 1)


@pytest.mark.parametrize("mode", ["only", "all_but", "sqnr"])
def test_an_interrupted_run_goes_on(tmp_path: Any, monkeypatch: Any, mode: str) -> None:
    monkeypatch.setattr(checkpoint, "_SAVE_EVERY", 0.0)
    model, data, path = build(), batches(), tmp_path / "state.json"
    want = octavo.sensitivity(model, data, mode=mode, progress=False)
    stop_at = 3 if mode == "sqnr" else 13

    def interrupt(_phase: str, done: int, total: int) -> None:
        assert total == (5 if mode == "sqnr" else 25)
        if done == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        octavo.sensitivity(model, data, mode=mode, checkpoint=path, progress=interrupt)
    assert not any(q._disabled for q in quantizers(model))
    ran: list[int] = []

    def forward(model: Any, x: Any) -> Any:
        ran.append(1)
        return model(x)

    got = octavo.sensitivity(
        model, data, mode=mode, checkpoint=path, forward=forward, progress=False
    )
    assert got.layers == want.layers and got.quantized == want.quantized
    skipped = len(ran)
    ran.clear()
    octavo.sensitivity(model, data, mode=mode, forward=forward, progress=False)
    assert skipped < len(ran)
    with torch.no_grad():
        model.head.input_quantizer.amax *= 2
    with pytest.raises(octavo.FileError, match="of another run"):
        octavo.sensitivity(model, data, mode=mode, checkpoint=path, progress=False)
    path.write_text("[]")
    with pytest.raises(octavo.FileError, match="not a sensitivity checkpoint"):
        octavo.sensitivity(model, data, mode=mode, checkpoint=path, progress=False)


def test_mistakes() -> None:
    model, data = build(), batches(1)
    for options, text in (
        ({"mode": "both"}, "mode: 'both'"),
        ({"metric": "accuracy"}, "metric: 'accuracy'"),
        ({"mode": "sqnr", "metric": "agreement"}, "own outputs"),
        ({"metric": lambda _o, _b: float("nan")}, "gave NaN"),
        ({"forward": lambda _m, _b: None}, "no tensor"),
    ):
        with pytest.raises(octavo.UserError, match=text):
            octavo.sensitivity(model, data, progress=False, **options)
        assert not any(q._disabled for q in quantizers(model))
    with pytest.raises(octavo.UserError, match="no batch"):
        octavo.sensitivity(model, [], progress=False)
    with pytest.raises(octavo.UserError, match="no quantizer"):
        octavo.sensitivity(torch.nn.Linear(2, 2), data)
    with pytest.raises(TypeError, match="calibrator is for graphs"):
        octavo.sensitivity(model, data, calibrator="max")
    with pytest.raises(TypeError, match="metric"):
        octavo.sensitivity(model, data, metric=3)


# ---- search


def partly() -> Any:
    """The quantizer by itself is off."""
    model = Net()
    model.shortcut_quantizer.disable()
    octavo.nn.replace(model, fold=False)
    octavo.calibrate(model, batches(3), method="max", progress=False)
    return model.eval()


def test_search_finds_the_fastest_that_is_accurate_enough() -> None:
    model, data = partly(), batches()
    times = iter(range(100, 0, -1))
    seen: list[int] = []

    def latency(m: Any) -> float:
        assert m is model
        seen.append(sum(q._disabled for q in quantizers(m)))
        return float(200 - next(times))

    ranking = octavo.sensitivity(model, data, progress=False)
    least = ranking.quantized.sqnr_db.value + 1
    found = octavo.search(model, data, metric="sqnr", least=least, latency=latency, progress=False)
    assert not any(q._disabled for q in quantizers(model) if q is not model.shortcut_quantizer)
    assert seen == sorted(seen)
    point = found.points[found.chosen]
    assert point.enough
    assert point.figures.sqnr_db.value >= least > found.points[0].figures.sqnr_db.value
    assert point.float_layers == tuple(r.name for r in ranking.layers)[: len(point.float_layers)]
    fewer = [p for p in found.points if len(p.float_layers) < len(point.float_layers)]
    assert fewer and not any(p.enough for p in fewer)  # the times rise with the float layers
    assert found.points[-1].figures.sqnr_db.value == float("inf")
    assert len(found.points[-1].float_layers) == 4
    assert found.front == [p for p in found.points if p.on_front]
    applied = found.apply()
    assert applied is model
    for name in ("stem", "block", "twice", "head"):
        assert all(q._disabled == (name in point.float_layers) for q in quantizers(model, name))
    with torch.no_grad():
        got = [model(x) for x in data]
    model.shortcut_quantizer.disable()
    for q in quantizers(model):
        q.disable()
    with torch.no_grad():
        truth = [model(x) for x in data]
    assert point.figures.sqnr_db.value == pytest.approx(sqnr(truth, got), rel=1e-9)
    with pytest.raises(TypeError, match="rules are for graphs"):
        found.rules()
    with pytest.raises(octavo.UserError, match="no number 99"):
        found.apply(99)


def test_search_measures_the_compiled_program() -> None:
    model, data = partly(), batches()
    found = octavo.search(model, data, metric="agreement", max_drop=0.5, threads=1, progress=False)
    assert all(0 < p.microseconds < 1e6 for p in found.points)
    assert found.points[found.chosen].drop <= 0.5


def test_mistakes_in_search() -> None:
    model, data = partly(), batches(2)
    for options, text in (
        ({}, "exactly one"),
        ({"max_drop": -1.0}, "less than 0"),
        ({"metric": "sqnr", "max_drop": 1.0}, "use least"),
        ({"least": 1.5, "latency": lambda _m: 1.0}, "no network reaches"),
        ({"least": 0.5, "latency": lambda _m: 0.0}, "no positive time"),
    ):
        with pytest.raises(octavo.UserError, match=text):
            octavo.search(model, data, progress=False, **options)
    with pytest.raises(TypeError, match="weights is for graphs"):
        octavo.search(model, data, least=0.5, weights="max")
