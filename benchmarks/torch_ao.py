"""octavo.quantization and torch.ao.quantization on the examples of examples/torch_ao_*.py.

    tools/run.sh python benchmarks/torch_ao.py [--no-training]

Before any timing: the outputs are compared with float's, or with what training aims at, and with
each other; Octavo's must be at least as near, but for 0.1 dB where the parameters are the same and
only ties differ. Then
calls take turns; figures are the best and the median of each, in microseconds, on one thread: the
pools of two libraries on the same cores would disturb one another.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ["OCTAVO_NUM_THREADS"] = "1"
import torch
from torch import nn

import octavo.quantization as oq

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
warnings.simplefilter("ignore")
import torch.ao.quantization as tq  # noqa: E402

import torch_ao_dynamic as dynamic  # noqa: E402
import torch_ao_qat as qat  # noqa: E402
import torch_ao_static as static  # noqa: E402

ROUNDS, CALLS = 15, 20


def interleaved(calls: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Microseconds for a call, one figure a round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            times[name].append(1e6 * (time.perf_counter() - start) / CALLS)
    return times


def compare(
    name: str, models: dict[str, nn.Module], real: Callable[..., torch.Tensor] | None = None
) -> None:
    reference = real or models["float"]
    x = torch.randn(1000, 768)
    outputs = {key: model(x) for key, model in models.items()}
    ours, theirs = (dynamic.sqnr(reference(x), outputs[key]) for key in ("octavo", "torch.ao"))
    apart = dynamic.sqnr(outputs["torch.ao"], outputs["octavo"])
    print(f"{name}: SQNR octavo {ours:.2f} dB, torch.ao {theirs:.2f} dB; apart {apart:.2f} dB")
    assert ours >= theirs - 0.1
    for batch in (1, 16, 128):
        x = torch.randn(batch, 768)
        times = interleaved({key: (lambda m=model, x=x: m(x)) for key, model in models.items()})
        show(name, batch, times)


def compare_recurrent(kind: type[nn.Module]) -> None:
    """A layer of 256 over 30 steps: as near to float as torch.ao's, then by turns."""
    model = nn.ModuleDict({"r": kind(256, 256)}).eval()
    models = {
        "octavo": oq.quantize_dynamic(model, {kind})["r"],
        "torch.ao": tq.quantize_dynamic(model, {kind})["r"],
        "float": model["r"],
    }
    x = torch.randn(30, 64, 256)
    real = models["float"](x)[0]
    ours, theirs = (dynamic.sqnr(real, models[key](x)[0]) for key in ("octavo", "torch.ao"))
    print(f"{kind.__name__}: SQNR octavo {ours:.2f} dB, torch.ao {theirs:.2f} dB")
    assert ours >= theirs - 0.1
    for batch in (1, 16, 64):
        x = torch.randn(30, batch, 256)
        times = interleaved({key: (lambda m=m, x=x: m(x)) for key, m in models.items()})
        show(kind.__name__, batch, times)


def show(name: str, batch: int, times: dict[str, list[float]]) -> None:
    best = min(times["octavo"])
    for key, taken in times.items():
        print(
            f"{name:8} batch {batch:4} {key:9} best {min(taken):8.1f} µs, median "
            f"{statistics.median(taken):8.1f} µs, {min(taken) / best:5.2f} times octavo's"
        )


def training_time(q: object) -> tuple[nn.Module, float]:
    torch.manual_seed(1)
    model = qat.prepared(trained(), q)  # type: ignore[arg-type]
    start = time.perf_counter()
    qat.train(model, 2)
    return model, time.perf_counter() - start


def trained() -> nn.Sequential:
    model = dynamic.make_model().train()
    qat.train(model, 1)
    return model


def main() -> None:
    torch.set_num_threads(1)
    model = dynamic.make_model()
    data = [torch.randn(100, 768) for _ in range(10)]
    with torch.inference_mode():
        compare(
            "dynamic",
            {
                "float": model,
                "octavo": dynamic.quantized(model),
                "torch.ao": dynamic.quantized(model, tq),
            },
        )
        compare(
            "static",
            {
                "float": model,
                "octavo": static.quantized(model, data),
                "torch.ao": static.quantized(model, data, tq),
            },
        )
        compare_recurrent(nn.LSTM)
        compare_recurrent(nn.GRU)
    if "--no-training" in sys.argv:
        return
    ours, our_time = training_time(oq)
    theirs, their_time = training_time(tq)
    print(f"qat      training: octavo {our_time:.1f} s, torch.ao {their_time:.1f} s")
    with torch.inference_mode():
        ours.eval().apply(oq.disable_observer)
        theirs.eval().apply(tq.disable_observer)
        x = torch.randn(100, 768)
        assert torch.equal(ours(x), theirs(x))  # trained alike, bit for bit
        compare(
            "qat",
            {
                "float": model,
                "octavo": oq.convert(ours),
                "torch.ao": tq.convert(theirs),
            },
            qat.target,
        )


if __name__ == "__main__":
    main()
