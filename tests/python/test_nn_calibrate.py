"""octavo.calibrate: ranges of a torch model's quantizers, from data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("octavo._torch")

import octavo  # noqa: E402
import octavo.nn  # noqa: E402
from octavo.compat.pytorch_quantization import nn as quant_nn  # noqa: E402
from octavo.compat.pytorch_quantization.tensor_quant import QuantDescriptor  # noqa: E402
from octavo.nn import collectors  # noqa: E402

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("torch_seed")]


def build() -> Any:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 36, 4),
    )
    octavo.nn.replace(model)
    return model


def batches(count: int = 6) -> list[Any]:
    return [torch.randn(4, 3, 6, 6) * (1 + i % 3) for i in range(count)]


def inputs_of_linear(model: Any, data: list[Any]) -> list[Any]:
    """What the linear layer is given in float."""
    seen: list[Any] = []
    hook = model[4].register_forward_pre_hook(lambda _m, args: seen.append(args[0].clone()))
    training = model.training
    disabled = [m for m in model.modules() if isinstance(m, quant_nn.TensorQuantizer)]
    for q in disabled:
        q.disable()
    model.eval()
    with torch.no_grad():
        for x in data:
            model(x)
    model.train(training)
    for q in disabled:
        q.enable()
    hook.remove()
    return seen


def test_max_and_moving_average() -> None:
    model, data = build(), batches()
    seen = [float(x.abs().max()) for x in inputs_of_linear(model, data)]
    result = octavo.calibrate(model, data, method="max", progress=False)
    assert (result.steps, result.converged) == (6, False)
    assert float(model[4].input_quantizer.amax) == max(seen)
    weight = model[0].weight.detach()
    assert torch.equal(model[0].weight_quantizer.amax, weight.abs().amax((1, 2, 3), keepdim=True))
    assert model.training and model[4].training
    octavo.calibrate(model, data, method="moving_average", momentum=0.25, progress=False)
    average = np.float32(seen[0])
    for value in seen[1:]:
        average += np.float32(0.25) * (np.float32(value) - average)
    assert float(model[4].input_quantizer.amax) == average
    assert "[0]" not in result.ranges and "4._input_quantizer" in result.ranges


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_histogram_methods_are_the_calibrators_of_the_surface(method: str) -> None:
    """Whose choices are checked against NVIDIA's rules in test_magnitudes.py."""
    model, data = build(), batches()
    seen = inputs_of_linear(model, data)
    octavo.calibrate(model, data, method=method, percentile=99.0, progress=False)
    calibrator = quant_nn.TensorQuantizer(QuantDescriptor(calib_method="histogram"))._calibrator
    for x in seen:
        calibrator.collect(x)
    options = {"percentile": 99.0} if method == "percentile" else {}
    assert torch.equal(
        model[4].input_quantizer.amax, calibrator.compute_amax(method, **options).float()
    )
    magnitudes = np.sort(torch.cat([x.flatten() for x in seen]).abs().numpy())
    # Bins are of the first batch; the last one may end beyond the largest value.
    width = float(seen[0].abs().max()) / 2048
    if method == "percentile":
        # The lower edge of the bin that holds the percentile.
        exact = magnitudes[int(np.ceil(0.99 * len(magnitudes))) - 1]
        assert exact - width <= float(model[4].input_quantizer.amax) <= exact + 1e-6 * exact
    assert 0 < float(model[4].input_quantizer.amax) <= magnitudes[-1] + width


def test_bins_do_not_depend_on_layout_or_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(4, 8, 10, 12)
    plain = collectors.Histogram("q", "mse", 8, False, 99.99)
    plain.collect(x)
    monkeypatch.setattr(collectors, "_CHUNK", 100)
    for other in (
        x.to(memory_format=torch.channels_last),
        x.double(),
        x.transpose(0, 3),
        torch.stack([x, x], -1)[..., 0],
    ):
        histogram = collectors.Histogram("q", "mse", 8, False, 99.99)
        histogram.collect(other)
        assert histogram.state() == plain.state()
    half = collectors.Histogram("q", "mse", 8, False, 99.99)
    half.collect(x.bfloat16())
    whole = collectors.Histogram("q", "mse", 8, False, 99.99)
    whole.collect(x.bfloat16().float())
    assert half.state() == whole.state()


def test_methods_by_name_and_steps() -> None:
    model, data = build(), batches()
    octavo.calibrate(model, data, method={"4.*": "max"}, steps=2, progress=False)
    first_two = max(float(x.abs().max()) for x in inputs_of_linear(model, data[:2]))
    assert float(model[4].input_quantizer.amax) == first_two
    histogram = collectors.Histogram("q", "mse", 8, False, 99.99)
    for x in data[:2]:
        histogram.collect(x)
    assert torch.equal(model[0].input_quantizer.amax, histogram.amax())


def test_batches_of_every_kind_and_forward() -> None:
    model, data = build(), batches(2)
    want = octavo.calibrate(model, data, progress=False).ranges
    for other in (
        [(x,) for x in data],
        [{"input": x} for x in data],
        iter(data),
    ):
        got = octavo.calibrate(model, other, progress=False).ranges
        assert all(torch.equal(got[n], want[n]) for n in want)
    labelled = [(x, torch.zeros(4)) for x in data]
    got = octavo.calibrate(model, labelled, forward=lambda m, b: m(b[0]), progress=False).ranges
    assert all(torch.equal(got[n], want[n]) for n in want)
    with pytest.raises(octavo.UserError, match="give forward="):
        octavo.calibrate(model, ["text"], progress=False)


def test_early_stop() -> None:
    model = build()
    x = torch.randn(4, 3, 6, 6)
    result = octavo.calibrate(model, [x] * 50, tolerance=0.0, patience=3, progress=False)
    assert (result.steps, result.converged) == (6, True)
    growing = [x * 1.5**i for i in range(9)]
    result = octavo.calibrate(model, growing, tolerance=0.1, patience=3, progress=False)
    assert (result.steps, result.converged) == (9, False)


@pytest.mark.parametrize("method", ["mse", "max", "moving_average"])
def test_an_interrupted_run_goes_on(tmp_path: Any, monkeypatch: Any, method: str) -> None:
    from octavo.nn import checkpoint

    monkeypatch.setattr(checkpoint, "_SAVE_EVERY", 0.0)
    model, data = build(), batches()
    want = octavo.calibrate(model, data, method=method, progress=False).ranges
    path = tmp_path / "state.json"

    def interrupt(_phase: str, done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    fresh = build()
    fresh.load_state_dict({k: v for k, v in model.state_dict().items() if "_amax" not in k})
    with pytest.raises(KeyboardInterrupt):
        octavo.calibrate(fresh, data, method=method, checkpoint=path, progress=interrupt)
    assert fresh[4].input_quantizer.amax is None
    assert not fresh[4].input_quantizer._if_calib and fresh[4].input_quantizer._if_quant
    ran: list[int] = []

    def forward(model: Any, x: Any) -> Any:
        ran.append(1)
        return model(x)

    result = octavo.calibrate(
        fresh, data, method=method, checkpoint=path, forward=forward, progress=False
    )
    assert (result.steps, len(ran)) == (6, 3)
    assert all(torch.equal(result.ranges[n], want[n]) for n in want)
    other = "max" if method != "max" else "mse"
    with pytest.raises(octavo.FileError, match="of another run"):
        octavo.calibrate(fresh, data, method=other, checkpoint=path, progress=False)
    with torch.no_grad():
        fresh[4].weight[0, 0] += 1
    with pytest.raises(octavo.FileError, match="of another run"):
        octavo.calibrate(fresh, data, method=method, checkpoint=path, progress=False)
    content = json.loads(path.read_text())
    del content["collectors"]["4._input_quantizer"]
    path.write_text(json.dumps(content))
    with torch.no_grad():
        fresh[4].weight.copy_(model[4].weight)
    with pytest.raises(octavo.FileError, match="damaged"):
        octavo.calibrate(fresh, data, method=method, checkpoint=path, progress=False)
    path.write_text("{")
    with pytest.raises(octavo.FileError, match="not a calibration checkpoint"):
        octavo.calibrate(fresh, data, method=method, checkpoint=path, progress=False)


def test_mistakes() -> None:
    model, data = build(), batches(1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for options, text in (
        ({"method": "best"}, "not a calibration method"),
        ({"method": {"*": "mse"}}, "its axis is"),
        ({"steps": 0}, "at least 1"),
        ({"percentile": 101.0}, "not in 0 to 100"),
        ({"momentum": 0.0}, "momentum"),
    ):
        with pytest.raises(octavo.UserError, match=text):
            octavo.calibrate(model, data, progress=False, **options)
    with pytest.raises(octavo.UserError, match="no batch"):
        octavo.calibrate(model, [], progress=False)
    for value in (float("nan"), float("inf")):
        for method in ("mse", "max"):
            x = data[0].clone()
            x[1, 2, 3, 4] = value
            with pytest.raises(octavo.UserError, match=r"^0\._input_quantizer: .*NaN or infinity"):
                octavo.calibrate(model, [x], method=method, progress=False)
    with pytest.raises(TypeError, match="Module"):
        octavo.calibrate(octavo, data)
    with pytest.raises(octavo.UserError, match="no quantizer"):
        octavo.calibrate(torch.nn.Linear(2, 2), data)
    assert model.state_dict().keys() == before.keys()

    class Unused(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

        def forward(self, x: Any) -> Any:
            return self.used(x)

    part = Unused()
    octavo.nn.replace(part)
    with pytest.raises(octavo.UserError, match=r"unused\._input_quantizer, .*no data came there"):
        octavo.calibrate(part, [torch.randn(3, 2)], progress=False)
    assert part.used.input_quantizer.amax is None


def test_a_bar_with_the_time_left(capfd: Any, monkeypatch: Any) -> None:
    from octavo.nn import progress

    real = progress.tqdm
    monkeypatch.setattr(progress, "tqdm", lambda **kw: real(**{**kw, "disable": False}))
    octavo.calibrate(build(), batches(4))
    error = capfd.readouterr().err
    assert "calibration: 100%" in error and "4/4" in error and "batch/s" in error


MEMORY = """
import sys, torch, octavo, octavo.nn

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if "VmHWM" in line) / 1024

def reset():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")

torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.ReLU(),
    *[torch.nn.Conv2d(64, 64, 1) for _ in range(3)],
).eval()
model = model.to(memory_format=torch.channels_last)
octavo.nn.replace(model)
x = torch.randn(8, 3, 112, 112).to(memory_format=torch.channels_last)
off = [m for m in model.modules() if hasattr(m, "disable_quant")]
for q in off: q.disable()
with torch.no_grad():
    for _ in range(3): model(x)
    reset()
    for _ in range(3): model(x)
forward = peak()
for q in off: q.enable()
reset()
octavo.calibrate(model, (x * (1 + i) for i in range(int(sys.argv[1]))), method=sys.argv[2],
                 progress=False)
print(peak() - forward)
"""


def memory_above_the_models_own(batches: int, method: str, **environment: str) -> float:
    """In MB."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(batches), method],
        capture_output=True, text=True, check=True, timeout=300, env=os.environ | environment,
    )  # fmt: skip
    return float(done.stdout)


@pytest.mark.parametrize("method", ["mse", "max"])
def test_memory_above_the_models_own(method: str) -> None:
    """One activation here is 26 MB: nothing of the batches is kept, nor an activation copied.

    Each large tensor is mapped by itself: in glibc's heap a forward pass finds holes that fit, or
    does not, one or two activations more or fewer from run to run, calibrated or not.
    """
    mapped = {"MALLOC_MMAP_THRESHOLD_": "131072"}
    above = [memory_above_the_models_own(n, method, **mapped) for n in (2, 10)]
    print(above)
    assert max(above) < 24, above


@pytest.mark.parametrize("method", ["mse", "max"])
def test_memory_with_the_heap_as_it_is(method: str) -> None:
    above = sorted(memory_above_the_models_own(30, method) for _ in range(3))
    print(above)
    assert above[1] < 64, above
