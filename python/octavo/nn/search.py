"""Mixed precision of a torch model: which layers' quantizers to disable."""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from octavo import api
from octavo.compat.pytorch_quantization import enable_onnx_export
from octavo.compiling import compile
from octavo.errors import UserError
from octavo.nn.layers import Layer, layers_of, switch, switched
from octavo.nn.progress import Progress, Show
from octavo.nn.running import Forward, evaluating, run_batch
from octavo.nn.sensitivity import Judge, sensitivity
from octavo.rules import Rules
from octavo.search import ModuleSearch, SearchPoint
from octavo.sensitivity import Figures, MetricFunction

__all__ = ["search"]

_ROUNDS = 15

Latency = Callable[[torch.nn.Module], float]


def _arguments(model: torch.nn.Module, batch: Any, run: Forward) -> tuple[Any, dict[str, Any]]:
    """What the model itself is called with."""
    calls: list[tuple[Any, dict[str, Any]]] = []
    hook = model.register_forward_pre_hook(
        lambda _module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    try:
        run(model, batch)
    finally:
        hook.remove()
    return calls[0]


class _Measured:
    """The latency of what Octavo compiles of the exported model."""

    def __init__(self, args: Any, kwargs: dict[str, Any], threads: int) -> None:
        self._args, self._kwargs, self._threads = args, kwargs, threads
        leaves = torch.utils._pytree.tree_leaves((args, kwargs))
        self._inputs = [t.detach().numpy() for t in leaves if isinstance(t, torch.Tensor)]

    def program(self, model: torch.nn.Module) -> Any:
        """Exports and compiles the model as it is switched now."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            try:
                with enable_onnx_export(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    torch.onnx.export(
                        model, self._args, str(path), kwargs=self._kwargs or None, dynamo=False
                    )
                program = compile(api.load_onnx(path), threads=self._threads)
                program(*self._inputs)
            except Exception as error:
                raise UserError(
                    f"search: the latency cannot be measured, since the model does not export "
                    f"({error}); give latency=, a function of the model"
                ) from error
        return program

    def microseconds(self, programs: list[Any]) -> list[float]:
        """Medians of calls in turn."""
        times: list[list[float]] = [[] for _ in programs]
        for _ in range(_ROUNDS):
            for program, own in zip(programs, times, strict=True):
                start = time.perf_counter()
                program(*self._inputs)
                own.append(1e6 * (time.perf_counter() - start))
        return [statistics.median(own) for own in times]


def _schedule(layers: int) -> list[int]:
    """0, 1, 2, 3, 4, 6, 8, 12, ... and all."""
    counts = {0, 1, 2, 3, layers}
    step = 4
    while step < layers:
        counts |= {step, step * 3 // 2}
        step *= 2
    return sorted(c for c in counts if c <= layers)


class _Searcher:
    def __init__(
        self,
        model: torch.nn.Module,
        data: list[Any],
        run: Forward,
        judge: Judge,
        order: list[Layer],
    ) -> None:
        self._model, self._data, self._run, self._judge = model, data, run, judge
        self.order = order  # the first to go to float first
        self.tried: dict[int, dict[str, Any]] = {}
        switch(order, False)
        self._truth = [run(model, batch) for batch in data]
        rows = [judge.row(t, t, i, data[i]) for i, t in enumerate(self._truth)]
        self.float_value = judge.value(judge.figures(rows))

    def set(self, count: int) -> None:
        """So many layers in float."""
        switch(self.order, True)
        switch(self.order[:count], False)

    def attempt(self, count: int) -> float:
        """The metric with so many layers in float."""
        if count not in self.tried:
            self.set(count)
            rows = [
                self._judge.row(truth, self._run(self._model, batch), i, batch)
                for i, (truth, batch) in enumerate(zip(self._truth, self._data, strict=True))
            ]
            self.tried[count] = self._judge.figures(rows)
        return self._judge.value(self.tried[count])

    def latencies(self, counts: list[int], latency: Latency | None, threads: int) -> list[float]:
        """Microseconds with so many layers in float, each."""
        if latency is None:
            measured = _Measured(*_arguments(self._model, self._data[0], self._run), threads)
            programs = []
            for count in counts:
                self.set(count)
                programs.append(measured.program(self._model))
            return measured.microseconds(programs)
        times: list[float] = []
        for count in counts:
            self.set(count)
            times.append(float(latency(self._model)))
            if not (times[-1] > 0 and math.isfinite(times[-1])):
                raise UserError(f"latency: {times[-1]} microseconds is no positive time")
        return times


def search(
    model: torch.nn.Module,
    data: Iterable[Any],
    *,
    metric: str | MetricFunction,
    max_drop: float | None,
    least: float | None,
    latency: Latency | None,
    samples: int,
    threads: int,
    forward: Forward | None,
    checkpoint: str | os.PathLike[str] | None,
    progress: Show,
) -> ModuleSearch:
    """:func:`octavo.search` of a torch module."""
    judge = Judge(metric)
    if (max_drop is None) == (least is None):
        raise UserError("search: exactly one of max_drop and least says what is enough")
    if max_drop is not None and not max_drop >= 0:
        raise UserError(f"max_drop: {max_drop} is less than 0")
    if max_drop is not None and judge.name == "sqnr":
        raise UserError("max_drop: float has no SQNR to lose; use least")
    run = forward or run_batch
    batches: list[Any] = []
    for batch in data:
        if samples and len(batches) >= samples:
            break
        batches.append(batch)
    ranking = sensitivity(
        model,
        batches,
        mode="only",
        metric=metric,
        samples=0,
        forward=forward,
        checkpoint=checkpoint,
        progress=progress,
    )
    by_name = {layer.name: layer for layer in layers_of(model)}
    # Agreement counts rows: too coarse to tell layers apart. Noise is not.
    ranked = sorted(ranking.layers, key=lambda r: r.figures.sqnr_db.value)
    if judge.function is not None:
        ranked = ranking.layers
    order = [by_name[entry.name] for entry in ranked]

    def enough(value: float, reference: float) -> bool:
        if least is not None:
            return value >= least
        assert max_drop is not None
        return reference - value <= max_drop

    with evaluating(model), switched(by_name.values()):
        searcher = _Searcher(model, batches, run, judge, order)
        schedule = _schedule(len(order))
        with Progress(progress, "mixed precision", len(schedule), "network") as shown:
            for count in schedule:
                searcher.attempt(count)
                shown.step()
        while True:  # bisection to where accuracy becomes enough
            good = [c for c in searcher.tried
                    if enough(searcher.attempt(c), searcher.float_value)]  # fmt: skip
            high = min(good, default=0)
            low = max((c for c in searcher.tried if c < high), default=high)
            if high - low < 2:
                break
            searcher.attempt((low + high) // 2)
        counts = sorted(searcher.tried)
        times = searcher.latencies(counts, latency, threads)
    points = _points(searcher, counts, times, enough)
    good_points = [i for i, p in enumerate(points) if p.enough]
    if not good_points:
        raise UserError(
            f"least: no network reaches {least}: float gives {searcher.float_value}; ask for less"
        )
    chosen = min(good_points, key=lambda i: (points[i].microseconds, points[i].drop))
    record = {
        "kind": "search", "metric": judge.name, "chosen": chosen,
        "points": [
            {"float_layers": list(p.float_layers), "microseconds": p.microseconds,
             "enough": p.enough, "on_front": p.on_front, **searcher.tried[c]}
            for p, c in zip(points, counts, strict=True)
        ],
    }  # fmt: skip

    def apply(index: int) -> Any:
        searcher.set(counts[index])
        return model

    return ModuleSearch(points, chosen, json.loads(json.dumps(record)), [], apply)


def _points(
    searcher: _Searcher,
    counts: list[int],
    times: list[float],
    enough: Callable[[float, float], bool],
) -> list[SearchPoint]:
    values = [searcher.attempt(c) for c in counts]

    def on_front(i: int) -> bool:
        return not any(
            v >= values[i] and t <= times[i] and (v > values[i] or t < times[i])
            for v, t in zip(values, times, strict=True)
        )

    return [
        SearchPoint(
            tuple(layer.name for layer in searcher.order[:count]),
            Rules(),
            Figures._of(searcher.tried[count]),
            0.0 if searcher.float_value == values[i] else searcher.float_value - values[i],
            times[i],
            enough(values[i], searcher.float_value),
            on_front(i),
        )
        for i, count in enumerate(counts)
    ]
