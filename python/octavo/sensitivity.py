"""Which layers lose accuracy when they are quantized."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
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


@dataclass(frozen=True)
class Batch:
    """The sample that a metric is asked about."""

    index: int
    _load: Callable[[], tuple[Any, ...]] = field(repr=False)

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The sample's arrays, in the order of the graph's inputs; read when asked for."""
        return self._load()


# Takes the outputs of one sample as a tuple of arrays; more is better.
MetricFunction = Callable[[tuple[Any, ...], Batch], float]


@dataclass(frozen=True)
class Figure:
    """A figure over the samples and its 95% interval; infinite where nothing is lost."""

    value: float
    low: float
    high: float

    @classmethod
    def _of(cls, entry: Mapping[str, Any]) -> Figure:
        numbers = (entry["value"], *entry["interval"])
        return cls(*(math.inf if n is None else float(n) for n in numbers))


@dataclass(frozen=True)
class Figures:
    """What was measured of one network."""

    sqnr_db: Figure
    agreement: Figure | None  # None: the first output has no classes
    metric: Figure | None  # None: no function was given

    @classmethod
    def _of(cls, entry: Mapping[str, Any]) -> Figures:
        def figure(name: str) -> Figure | None:
            return Figure._of(entry[name]) if name in entry else None

        return cls(Figure._of(entry["sqnr_db"]), figure("agreement"), figure("metric"))


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer of :class:`Sensitivity`."""

    rank: int  # 1: the most sensitive
    name: str
    op: str
    nodes: tuple[str, ...]  # of the graph: an attention has several
    position: int  # among the layers, in graph order
    figures: Figures


@dataclass(frozen=True)
class Sensitivity:
    """What :func:`sensitivity` found; ``record`` is ``schemas/sensitivity.schema.json``."""

    layers: list[LayerSensitivity]  # the most sensitive first
    quantized: Figures  # everything quantized
    record: dict[str, Any] = field(repr=False)

    @classmethod
    def _of(cls, record: dict[str, Any]) -> Sensitivity:
        layers = [
            LayerSensitivity(
                entry["rank"],
                entry["name"],
                entry["op"],
                tuple(entry["nodes"]),
                entry["position"],
                Figures._of(entry),
            )
            for entry in record["layers"]
        ]
        return cls(layers, Figures._of(record["quantized"]), record)

    def __str__(self) -> str:
        rows = [f"{'':>4} {'layer':<40} {'op':<12} {'SQNR dB':>8}  95%"]
        for layer in self.layers:
            f = layer.figures.metric or layer.figures.sqnr_db
            s = layer.figures.sqnr_db.value
            rows.append(
                f"{layer.rank:>4} {layer.name[-40:]:<40} {layer.op:<12} {s:>8.2f}"
                f"  [{f.low:.4g}, {f.high:.4g}]"
            )
        return "\n".join(rows)


@dataclass(frozen=True)
class ModuleSensitivity(Sensitivity):
    """What :func:`sensitivity` found in a torch module.

    Its ``record`` has the figures alone; ``nodes`` of a layer are its quantizers' names.
    """

    _layers: dict[str, tuple[Any, ...]] = field(default_factory=dict, repr=False)

    def disable_worst(self, k: int) -> tuple[str, ...]:
        """Disables the quantizers of the ``k`` most sensitive layers; gives the layers' names.

        Raises:
            UserError: there are not so many layers.
        """
        if not 0 <= k <= len(self.layers):
            raise UserError(f"disable_worst: there are {len(self.layers)} layers, not {k}")
        names = tuple(layer.name for layer in self.layers[:k])
        for name in names:
            for quantizer in self._layers[name]:
                quantizer.disable()
        return names


def metric_arguments(metric: str | MetricFunction | None) -> tuple[str, Any]:
    """The metric's name, and what the extension calls or None."""
    if metric is None or isinstance(metric, str):
        return metric or "sqnr", None
    if not callable(metric):
        raise TypeError(f"metric: a name or a function, not {type(metric).__name__}")
    function = metric
    name = getattr(function, "__name__", type(function).__name__)

    def call(outputs: tuple[Any, ...], index: int, load: Callable[[], tuple[Any, ...]]) -> float:
        return float(function(outputs, Batch(index, load)))

    # Names of the built-in ones are not to be had.
    return f"{name} (function)", call


_GRAPH_OPTIONS = (
    "target", "calibrator", "weights", "evaluation", "preprocessing", "rules", "threads", "memory",
    "record",
)  # fmt: skip


def sensitivity(
    graph: Graph | Any,
    data: Iterable[Sample] | Path,
    *,
    mode: str = "only",
    metric: str | MetricFunction | None = None,
    target: str = "octavo",
    calibrator: str = "mse",
    weights: str = "mse",
    forward: Callable[[Any, Any], Any] | None = None,
    evaluation: Iterable[Sample] | Path | None = None,
    preprocessing: Path | None = None,
    rules: Rules | Path | None = None,
    samples: int = 0,
    threads: int = 0,
    memory: int = 1 << 30,
    checkpoint: Path | None = None,
    record: Path | None = None,
    progress: bool | ProgressCallback | None = None,
) -> Sensitivity:
    """Ranks the layers of a float graph, or of a torch module with quantizers, by their cost.

    A graph's layer is what a rule can move to float by itself: a product of any precision (both of
    an attention), a gather whose table is integers, or another integer op that reads a quantized
    tensor; the graph is quantized as :func:`octavo.quantize` with ``smooth="none"`` would, but for
    weights, which are rounded to nearest. A module's is a quantized module, or a quantizer that
    stands by itself, and enabled. Of each layer's network only what follows from the layer is run,
    on values that are computed once for all layers; of a module only if torch.fx can trace it and
    no value is changed in place, else all of it.

    A torch module is judged as it is calibrated; its samples are the batches of ``data``, as for
    :func:`octavo.calibrate`, and metrics get tensors. Options are then mode, metric, forward,
    samples, checkpoint and progress (None and True: a bar on a terminal). It is left as it was.

    Args:
        graph: a float graph, or a torch.nn.Module.
        data: calibration samples, as for :func:`octavo.quantize`.
        forward: of a module: runs a batch, ``forward(model, batch)``.
        mode: ``"only"``: the layer alone is quantized; ``"all_but"``: everything but the layer;
            ``"sqnr"``: the layer alone, judged at its own output.
        metric: what ranks. ``"sqnr"`` (the default) pools signal and noise of all outputs of all
            samples; ``"agreement"`` is the share of rows of the first output whose largest element
            is the float network's; a function ``metric(outputs, batch)`` gives a number for one
            sample, more is better, and is averaged. Its ``batch`` has ``index`` and ``inputs``.
            Every figure has a 95% interval: a percentile bootstrap over the samples of 500 draws,
            the same draws for every layer.
        target: who will run the quantized network.
        calibrator: how activation ranges are chosen.
        weights: scales of weights by ``"mse"`` or ``"max"``. They are rounded to nearest, so that a
            layer's integers do not depend on other layers.
        evaluation: samples to judge by; the calibration data if None.
        preprocessing: how pictures become inputs.
        rules: what holds for all networks.
        samples: use at most so many of ``data``; 0 means all.
        threads: how many to use; 0 follows CPU affinity and cgroup quota.
        memory: bytes of activations that may be held at once; samples are streamed in chunks that
            fit, at least one for each thread. Half as much again holds compiled parts.
        checkpoint: a file to which figures are written about once a second, and from which an
            interrupted run goes on; it gives the same result. A function of the same name counts
            as the same metric.
        record: where to write the result (JSON, ``schemas/sensitivity.schema.json``).
        progress: called as ``progress(phase, done, total)``; what it raises ends the work, as
            Ctrl-C does.

    Returns:
        The ranking; of a module a :class:`ModuleSensitivity`.

    Raises:
        TypeError: ``graph`` is neither, ``metric`` neither a name nor a function; an option of
            graphs for a module, or the other way round.
        FileError: a file cannot be read or written, or the checkpoint is of another run.
        UserError: as :func:`octavo.quantize`; a metric that is not known, does not apply, or gives
            NaN; a module without quantizers.
    """
    if is_module(graph):
        refuse_graph_options(sensitivity, locals(), _GRAPH_OPTIONS)
        from octavo.nn import sensitivity as of_modules  # noqa: PLC0415  needs torch

        module: Any = graph
        batches: Any = data
        return of_modules.sensitivity(
            module,
            batches,
            mode=mode,
            metric=metric,
            samples=samples,
            forward=forward,
            checkpoint=checkpoint,
            progress=True if progress is None else progress,
        )
    if forward is not None:
        raise TypeError("octavo.sensitivity: forward is for torch modules")
    if not isinstance(graph, Graph):
        raise TypeError(f"octavo.sensitivity takes a Graph, not {type(graph).__name__}")
    name, function = metric_arguments(metric)
    if record is not None:
        _core.check_writable(os.fspath(record))
    text = _core.sensitivity_json(
        graph,
        data_argument(data),
        mode,
        name,
        function,
        data_argument(evaluation),
        path_argument(preprocessing),
        target,
        calibrator,
        weights,
        rules_argument(rules),
        samples,
        threads,
        memory,
        path_argument(checkpoint),
        progress,
    )
    if record is not None:
        _core.write_text(text, os.fspath(record))
    return Sensitivity._of(json.loads(text))


def disable_worst(result: Sensitivity, k: int) -> Rules:
    """Rules that leave the ``k`` most sensitive layers in float, on top of those of the analysis.

    For a torch module see :meth:`ModuleSensitivity.disable_worst`.

    Raises:
        UserError: there are not so many layers.
    """
    if isinstance(result, ModuleSensitivity):
        raise TypeError("octavo.disable_worst: rules are for graphs; call result.disable_worst(k)")
    if k < 0:
        raise UserError(f"disable_worst: k is {k}, less than 0")
    return Rules(tuple(json.loads(_core.disable_worst(json.dumps(result.record), k))["rules"]))
