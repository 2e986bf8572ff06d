"""Which layers of a torch model lose accuracy when they are quantized."""

from __future__ import annotations

import functools
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from typing import Any

import torch

from octavo import _core
from octavo.errors import UserError
from octavo.nn.checkpoint import Checkpoint
from octavo.nn.layers import Layer, layers_of, switch, switched
from octavo.nn.progress import Progress, Show
from octavo.nn.running import Forward, evaluating, run_batch, weights_checksum
from octavo.nn.suffix import Suffix
from octavo.sensitivity import Batch, MetricFunction, ModuleSensitivity

__all__ = ["Judge", "sensitivity"]

_MODES = ("only", "all_but", "sqnr")

Row = list[Any]  # of _core.figures_json


def outputs_of(result: Any) -> tuple[torch.Tensor, ...]:
    """The tensors of what a model gives.

    Raises:
        UserError: there are none.
    """
    leaves = torch.utils._pytree.tree_leaves(result)
    tensors = tuple(t.detach() for t in leaves if isinstance(t, torch.Tensor))
    if not tensors:
        raise UserError("the model's output holds no tensor; let forward= return what to compare")
    return tensors


class Judge:
    """Compares a model's outputs with float's.

    Args:
        metric: a name or a function, as for :func:`octavo.sensitivity`.

    Raises:
        UserError: a name that is not known.
    """

    def __init__(self, metric: str | MetricFunction | None) -> None:
        self.function: MetricFunction | None = None
        self.name = "sqnr"
        if callable(metric):
            self.function = metric
            self.name = f"{getattr(metric, '__name__', type(metric).__name__)} (function)"
        elif metric is not None:
            if not isinstance(metric, str):
                raise TypeError(f"metric: a name or a function, not {type(metric).__name__}")
            if metric not in ("sqnr", "agreement"):
                raise UserError(
                    f"metric: '{metric}' is not known; the metrics are sqnr, agreement, and "
                    "functions"
                )
            self.name = metric

    def measure(self, outputs: tuple[torch.Tensor, ...], index: int, batch: Any) -> float:
        """The caller's metric; 0 if there is none."""
        if self.function is None:
            return 0.0
        inputs = tuple(batch) if isinstance(batch, list | tuple) else (batch,)
        value = float(self.function(outputs, Batch(index, lambda: inputs)))
        if math.isnan(value):
            raise UserError(f"metric: gave NaN for sample {index}")
        return value

    def row(self, truth: Any, outputs: Any, index: int, batch: Any) -> Row:
        """Figures of one batch."""
        a, b = ([t.cpu().float() if t.is_floating_point() else t.cpu() for t in outputs_of(o)]
                for o in (truth, outputs))  # fmt: skip
        row = list(_core.score([t.numpy() for t in a], [t.numpy() for t in b]))
        row[4] = self.measure(outputs_of(outputs), index, batch)
        return row

    def figures(self, rows: list[Row]) -> dict[str, Any]:
        """Figures with intervals, as in a record."""
        entry: dict[str, Any] = json.loads(
            _core.figures_json([tuple(r) for r in rows], self.function is not None)
        )
        if self.name == "agreement" and "agreement" not in entry:
            raise UserError("metric: agreement needs a first output with classes; use sqnr")
        return entry

    def value(self, entry: dict[str, Any]) -> float:
        """What ranks; infinite where nothing is lost."""
        name = {"sqnr": "sqnr_db", "agreement": "agreement"}.get(self.name, "metric")
        value = entry[name]["value"]
        return math.inf if value is None else float(value)


class _Run:
    """Scores of each network, batch by batch; kept in a checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.rows: dict[str, list[Row]] = (
            checkpoint.load(lambda content: {n: list(r) for n, r in content["rows"].items()}) or {}
        )

    def get(self, name: str, index: int, compute: Callable[[], Row]) -> None:
        """Computes the row unless it is there."""
        rows = self.rows.setdefault(name, [])
        if len(rows) > index:
            return
        rows.append(compute())
        if self._checkpoint.due():
            self.save()

    def has(self, names: Iterable[str], index: int) -> bool:
        """Whether nothing is left to do for a batch."""
        return all(len(self.rows.get(name, [])) > index for name in names)

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all."""
        self._checkpoint.save({"rows": self.rows})


_QUANTIZED, _FLOAT = "", "float:"  # beside the layers' names


@dataclass
class _Batch:
    """One batch through all networks; begins with all layers in float."""

    model: torch.nn.Module
    layers: list[Layer]
    judge: Judge
    kept: _Run
    index: int
    batch: Any

    def networks(self, suffix: Suffix, only: bool, shown: Progress) -> None:
        """Everything quantized, and each layer alone, or all layers but it."""
        truth = suffix.start(self.batch)
        self._keep(_FLOAT, truth, lambda: truth)
        switch(self.layers, True)
        quantized = suffix.whole() if only else suffix.start(self.batch)
        self._keep(_QUANTIZED, truth, lambda: quantized)
        switch(self.layers, not only)
        for layer in self.layers:
            switch([layer], only)
            self._keep(layer.name, truth, functools.partial(suffix.again, layer.module))
            switch([layer], not only)
            shown.step()

    def own_outputs(self, run: Forward) -> None:
        """Each layer quantized alone, judged at its own output."""
        rows: dict[str, Row] = {}

        def hook_of(layer: Layer) -> Callable[..., None]:
            def hook(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
                switch([layer], True)
                quantized = module.forward(*args, **kwargs)
                switch([layer], False)
                row = self.judge.row(output, quantized, self.index, self.batch)
                before = rows.get(layer.name, [0] * len(row))  # a module may be called again
                rows[layer.name] = [a + b for a, b in zip(before, row, strict=True)]

            return hook

        hooks = [
            layer.module.register_forward_hook(hook_of(layer), with_kwargs=True)
            for layer in self.layers
        ]
        try:
            truth = run(self.model, self.batch)
        finally:
            for handle in hooks:
                handle.remove()
        for name, row in rows.items():
            self.kept.get(name, self.index, functools.partial(list, row))
        self._keep(_FLOAT, truth, lambda: truth)
        switch(self.layers, True)
        self._keep(_QUANTIZED, truth, functools.partial(run, self.model, self.batch))

    def _keep(self, name: str, truth: Any, outputs: Callable[[], Any]) -> None:
        self.kept.get(
            name,
            self.index,
            lambda: self.judge.row(truth, outputs(), self.index, self.batch),
        )


def _call_order(model: torch.nn.Module, layers: list[Layer], batch: Any, run: Forward) -> list[str]:
    """The layers' names in the order of their first calls; those never called are left out."""
    order: dict[str, None] = {}
    hooks = [
        layer.module.register_forward_pre_hook(lambda _m, _a, n=layer.name: order.setdefault(n))
        for layer in layers
    ]
    try:
        run(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return list(order)


def sensitivity(
    model: torch.nn.Module,
    data: Iterable[Any],
    *,
    mode: str,
    metric: str | MetricFunction | None,
    samples: int,
    forward: Forward | None,
    checkpoint: str | os.PathLike[str] | None,
    progress: Show,
) -> ModuleSensitivity:
    """:func:`octavo.sensitivity` of a torch module."""
    started = time.monotonic()
    if mode not in _MODES:
        raise UserError(f"mode: '{mode}' is not known; the modes are {', '.join(_MODES)}")
    judge = Judge(metric)
    if mode == "sqnr" and judge.name != "sqnr":
        raise UserError(
            "metric: mode sqnr looks at the layers' own outputs, not at the network's; leave the "
            "metric out, or use mode only"
        )
    layers = layers_of(model)
    run = forward or run_batch
    key = {
        "mode": mode, "metric": judge.name, "layers": [layer.names for layer in layers],
        "weights": None if checkpoint is None else weights_checksum(model, buffers=True),
    }  # fmt: skip
    what = "weights, ranges, layers, mode or metric"
    kept = _Run(Checkpoint(checkpoint, "sensitivity", key, what))
    total = len(data) if isinstance(data, Sized) else 0
    total = min(total, samples) if samples and total else total or samples
    order: list[str] = []
    count = 0
    own = mode == "sqnr"
    with (
        evaluating(model),
        switched(layers),
        Progress(
            progress,
            f"sensitivity ({mode})",
            total * (1 if own else len(layers)),
            "batch" if own else "layer",
        ) as shown,
    ):
        for index, batch in enumerate(data):
            if samples and index >= samples:
                break
            count += 1
            switch(layers, False)
            if not order:
                order = _call_order(model, layers, batch, run)
                called = [layer for layer in layers if layer.name in order]
                steps = 1 if own else len(called)
                suffix = Suffix(model, [layer.module for layer in called], run)
                names = [*order, _QUANTIZED, _FLOAT]
            if kept.has(names, index):
                shown.skip(steps)
                continue
            case = _Batch(model, called, judge, kept, index, batch)
            if own:
                case.own_outputs(run)
                shown.step()
            else:
                case.networks(suffix, mode == "only", shown)
        kept.save()
    if count == 0:
        raise UserError("sensitivity: the data hold no batch; an iterator may be used up")
    by_name = {layer.name: layer for layer in layers}
    entries = []
    for position, name in enumerate(order):
        layer = by_name[name]
        entry = judge.figures(kept.rows[name][:count])
        entry |= {"name": name, "op": layer.op, "nodes": list(layer.names), "position": position}
        entries.append(entry)
    # Alone, the least accurate first; of all but one, what float helps most.
    entries.sort(key=judge.value, reverse=mode == "all_but")
    for rank, entry in enumerate(entries):
        entry["rank"] = rank + 1
    record = {
        "kind": "sensitivity", "mode": mode, "metric": judge.name,
        "data": {"evaluation_samples": count},
        "quantized": judge.figures(kept.rows[_QUANTIZED][:count]), "layers": entries,
        "seconds": time.monotonic() - started,
    }  # fmt: skip
    if judge.function is not None:
        record["float_metric"] = sum(r[4] for r in kept.rows[_FLOAT][:count]) / count
    result = ModuleSensitivity._of(record)
    assert isinstance(result, ModuleSensitivity)
    result._layers.update({name: layer.quantizers for name, layer in by_name.items()})
    return result
