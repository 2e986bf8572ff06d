"""Mixed precision: which layers to leave in float."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from octavo import _core
from octavo._arguments import (
    data_argument,
    is_module,
    path_argument,
    refuse_graph_options,
    rules_argument,
)
from octavo._core import Graph
from octavo.api import Path, ProgressCallback, Sample
from octavo.errors import UserError
from octavo.rules import Rules
from octavo.sensitivity import (
    Figures,
    MetricFunction,
    metric_arguments,
)


@dataclass(frozen=True)
class SearchPoint:
    """One network of :class:`Search`."""

    float_layers: tuple[str, ...]
    rules: Rules
    figures: Figures
    drop: float  # the metric of float less this network's; infinite for sqnr
    microseconds: float
    enough: bool  # as accurate as was asked for
    on_front: bool  # no other is as accurate and as fast, and better in one of both


@dataclass(frozen=True)
class Search:
    """What :func:`search` found; ``record`` is ``schemas/search.schema.json``."""

    points: list[SearchPoint]  # the fewest float layers first; the last is all float
    chosen: int  # which of them: the fastest that is accurate enough
    record: dict[str, Any] = field(repr=False)
    _graphs: list[Graph] = field(repr=False)

    @property
    def front(self) -> list[SearchPoint]:
        """The Pareto front, the fastest first."""
        return sorted((p for p in self.points if p.on_front), key=lambda p: p.microseconds)

    def rules(self, point: int | None = None) -> Rules:
        """The rules of a point, the chosen one if None, for :func:`octavo.quantize`."""
        return self.points[self._index(point)].rules

    def apply(self, point: int | None = None) -> Graph:
        """The quantized graph of a point, the chosen one if None; the last point's is float."""
        return self._graphs[self._index(point)]

    def _index(self, point: int | None) -> int:
        index = self.chosen if point is None else point
        if not 0 <= index < len(self.points):
            raise UserError(f"point: there are {len(self.points)} points, no number {index}")
        return index

    def __str__(self) -> str:
        rows = [f"{'':2} {'float layers':>12} {'us':>10} {'SQNR dB':>8} {'drop':>9}"]
        for i, p in enumerate(self.points):
            marks = (">" if i == self.chosen else " ") + ("*" if p.on_front else " ")
            rows.append(
                f"{marks} {len(p.float_layers):>12} {p.microseconds:>10.1f}"
                f" {p.figures.sqnr_db.value:>8.2f} {p.drop:>9.4g}"
            )
        return "\n".join(rows)


@dataclass(frozen=True)
class ModuleSearch(Search):
    """What :func:`search` found for a torch module; its points have no rules."""

    _apply: Callable[[int], Any] = field(default=lambda _index: None, repr=False)

    def rules(self, point: int | None = None) -> Rules:
        """Rules are for graphs.

        Raises:
            TypeError: always.
        """
        raise TypeError("rules are for graphs; apply(point) switches the module's quantizers")

    def apply(self, point: int | None = None) -> Any:
        """The module, its quantizers switched as in a point, the chosen one if None."""
        return self._apply(self._index(point))


_GRAPH_OPTIONS = (
    "target", "calibrator", "weights", "bias_correction", "evaluation", "preprocessing", "rules",
    "memory", "record",
)  # fmt: skip


def search(
    graph: Graph | Any,
    data: Iterable[Sample] | Path,
    *,
    metric: str | MetricFunction = "agreement",
    max_drop: float | None = None,
    least: float | None = None,
    latency: Callable[[Any], float] | None = None,
    forward: Callable[[Any, Any], Any] | None = None,
    target: str = "octavo",
    calibrator: str = "mse",
    weights: str = "gptq",
    bias_correction: bool = True,
    evaluation: Iterable[Sample] | Path | None = None,
    preprocessing: Path | None = None,
    rules: Rules | Path | None = None,
    samples: int = 0,
    threads: int = 0,
    memory: int = 1 << 30,
    checkpoint: Path | None = None,
    record: Path | None = None,
    progress: bool | ProgressCallback | None = None,
) -> Search:
    """Finds layers to leave in float: the least latency at which a network is accurate enough.

    Layers go to float in the order of what quantizing them alone costs
    (:func:`octavo.sensitivity`) for each microsecond that it saves. Of the networks on the way some
    are tried (0, 1, 2, 3, 4, 6, 8, 12, ... float layers, all, and by bisection where accuracy
    becomes enough): quantized as :func:`octavo.quantize` with ``smooth="none"`` would, judged on
    all samples, and timed.

    A torch module is searched as it is calibrated, its layers in the order of what quantizing each
    alone costs; being in float means that its quantizers are disabled. Latency is that of the
    program that Octavo makes of the exported module, with the first batch. Options are then metric,
    max_drop, least, latency, forward, samples, threads, checkpoint and progress; batches are held
    in memory; the module is left as it was until :meth:`ModuleSearch.apply`.

    Args:
        graph: a float graph, or a torch.nn.Module with quantizers, as for
            :func:`octavo.sensitivity`.
        data: calibration samples, as for :func:`octavo.quantize`; a module's batches.
        forward: of a module: runs a batch, ``forward(model, batch)``.
        metric: as for :func:`octavo.sensitivity`; more is better.
        max_drop: how much of the metric may be lost against float. For agreement, float has 1.
        least: what the metric must reach; exactly one of both is given, and for ``"sqnr"`` it is
            this one.
        latency: microseconds of a graph, from whatever source; None measures: programs are compiled
            and called in turn with the first sample, 15 rounds, medians.
        target: who will run the result.
        calibrator: how activation ranges are chosen.
        weights: how the weights of the tried networks are rounded.
        bias_correction: whether their biases are corrected.
        evaluation: samples to judge by; the calibration data if None.
        preprocessing: how pictures become inputs.
        rules: what holds for all networks.
        samples: use at most so many of ``data``; 0 means all.
        threads: how many to use, also by the programs that are timed.
        memory: as for :func:`octavo.sensitivity`.
        checkpoint: keeps the sensitivity of layers, as there; what is tried is tried again.
        record: where to write the result (JSON, ``schemas/search.schema.json``).
        progress: called as ``progress(phase, done, total)``.

    Raises:
        TypeError: ``graph`` is neither, ``metric`` neither a name nor a function; an option of
            graphs for a module, or the other way round.
        UserError: as :func:`octavo.sensitivity`; a limit is missing, or float does not reach it; a
            latency that is not positive.
    """
    if is_module(graph):
        refuse_graph_options(search, locals(), _GRAPH_OPTIONS)
        from octavo.nn import search as of_modules  # noqa: PLC0415  needs torch

        module: Any = graph
        batches: Any = data
        return of_modules.search(
            module,
            batches,
            metric=metric,
            max_drop=max_drop,
            least=least,
            latency=latency,
            samples=samples,
            threads=threads,
            forward=forward,
            checkpoint=checkpoint,
            progress=True if progress is None else progress,
        )
    if forward is not None:
        raise TypeError("octavo.search: forward is for torch modules")
    if not isinstance(graph, Graph):
        raise TypeError(f"octavo.search takes a Graph, not {type(graph).__name__}")
    name, function = metric_arguments(metric)
    if record is not None:
        _core.check_writable(os.fspath(record))
    text, graphs = _core.search_json(
        graph,
        data_argument(data),
        name,
        function,
        max_drop,
        least,
        latency,
        data_argument(evaluation),
        path_argument(preprocessing),
        target,
        calibrator,
        weights,
        bias_correction,
        rules_argument(rules),
        samples,
        threads,
        memory,
        path_argument(checkpoint),
        progress,
    )
    if record is not None:
        _core.write_text(text, os.fspath(record))
    content = json.loads(text)
    points = [
        SearchPoint(
            tuple(p["float_layers"]),
            Rules(tuple(p["rules"])),
            Figures._of(p),
            math.inf if p["drop"] is None else p["drop"],
            p["microseconds"],
            p["enough"],
            p["on_front"],
        )
        for p in content["points"]
    ]
    return Search(points, content["chosen"], content, graphs)
