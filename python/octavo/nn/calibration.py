"""Ranges for the quantizers of a torch model, chosen from data."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import torch

from octavo import _core
from octavo.errors import UserError
from octavo.nn.checkpoint import Checkpoint
from octavo.nn.collectors import Collector, make_collector, restored
from octavo.nn.progress import Progress, Show
from octavo.nn.running import (
    Forward,
    evaluating,
    is_weight,
    quantizers_of,
    run_batch,
    weights_checksum,
)

__all__ = ["Calibration", "calibrate"]


@dataclass(frozen=True)
class Calibration:
    """What :func:`calibrate` did."""

    steps: int  # batches that were looked at, by an interrupted run before too
    converged: bool  # whether the ranges had settled before the data ended
    ranges: dict[str, torch.Tensor]  # amax, by the quantizer's name


class _Switched:
    """Quantizers that pass their input on and show it to collectors; as before on exit."""

    def __init__(self, quantizers: Mapping[str, Any], collectors: Mapping[str, Collector]) -> None:
        names = ("_if_quant", "_if_clip", "_if_calib", "_calibrator")
        self._quantizers = quantizers
        self._collectors = collectors
        self._before = {q: {n: getattr(q, n) for n in names} for q in quantizers.values()}

    def __enter__(self) -> _Switched:
        for name, quantizer in self._quantizers.items():
            quantizer._if_quant = quantizer._if_clip = False
            quantizer._if_calib = True
            quantizer._calibrator = self._collectors[name]
        return self

    def weights_are_known(self) -> None:
        """Weights are the same in every batch."""
        for name, quantizer in self._quantizers.items():
            if is_weight(name):
                quantizer._if_calib = False

    def __exit__(self, *_error: object) -> None:
        for quantizer, values in self._before.items():
            for name, value in values.items():
                setattr(quantizer, name, value)


def _methods(names: Iterable[str], method: str | Mapping[str, str]) -> dict[str, str]:
    globs = method if isinstance(method, Mapping) else {}
    rest = "mse" if isinstance(method, Mapping) else method

    def of(name: str) -> str:
        given = next((m for g, m in globs.items() if fnmatch.fnmatchcase(name, g)), None)
        return given or ("max" if is_weight(name) else rest)

    return {name: of(name) for name in names}


def _moved(before: dict[str, torch.Tensor], now: dict[str, torch.Tensor]) -> float:
    """The greatest relative change; infinite where there is nothing to compare."""
    if before.keys() != now.keys():
        return float("inf")
    changes = [((b - n).abs() / n.abs().clamp_min(2.0**-24)).max() for b, n in
               ((before[name], now[name]) for name in now)]  # fmt: skip
    return float(max(changes, default=torch.tensor(0.0)))


def calibrate(
    model: torch.nn.Module,
    data: Iterable[Any],
    *,
    method: str | Mapping[str, str],
    steps: int | None,
    percentile: float,
    momentum: float,
    tolerance: float | None,
    patience: int,
    forward: Forward | None,
    checkpoint: str | os.PathLike[str] | None,
    progress: Show,
) -> Calibration:
    """:func:`octavo.calibrate`, which says what there is to say."""
    quantizers = quantizers_of(model)
    methods = _methods(quantizers, method)
    if not 0 <= percentile <= 100:
        raise UserError(f"percentile: {percentile} is not in 0 to 100")
    if not 0 < momentum <= 1:
        raise UserError(f"momentum: {momentum} is not above 0 and at most 1")
    if (steps is not None and steps < 1) or patience < 1:
        raise UserError(f"steps and patience are at least 1, not {steps} and {patience}")
    collectors = {
        name: make_collector(name, q, methods[name], percentile, momentum)
        for name, q in quantizers.items()
    }
    done, checked = 0, {}
    key = {
        "methods": methods, "percentile": percentile, "momentum": momentum, "patience": patience,
        "weights": None if checkpoint is None else weights_checksum(model),
    }  # fmt: skip
    kept = Checkpoint(checkpoint, "calibration", key, "weights, quantizers or methods")
    content = kept.load(dict)
    if content is not None:
        restored(collectors, content["collectors"], os.fspath(checkpoint or ""))
        done = content["done"]
        checked = {n: torch.tensor(v) for n, v in content["checked"].items()}

    def save() -> None:
        if checkpoint is not None:
            kept.save(
                {
                    "done": done,
                    "checked": {n: v.tolist() for n, v in checked.items()},
                    "collectors": {n: c.state() for n, c in collectors.items()},
                }
            )

    def ranges() -> dict[str, torch.Tensor]:
        return {n: c.amax() for n, c in collectors.items() if not c.empty}

    run = forward or run_batch
    known = len(data) if isinstance(data, Sized) else 0
    total = known if steps is None else min(steps, known) if known else steps
    converged, skipped = False, done
    with (
        evaluating(model),
        _Switched(quantizers, collectors) as switched,
        Progress(progress, "calibration", total) as shown,
    ):
        if done:
            shown.skip(done)
            switched.weights_are_known()
        for index, batch in enumerate(data):
            if steps is not None and index >= steps:
                break
            if index < skipped:
                continue
            run(model, batch)
            _core.release_free_memory()  # else holes add up, an activation each
            done += 1
            if done == 1:
                switched.weights_are_known()
            if tolerance is not None and done % patience == 0:
                now = {n: r for n, r in ranges().items() if not is_weight(n)}
                converged = _moved(checked, now) <= tolerance
                checked = now
            if converged or kept.due():
                save()
            shown.step()
            if converged:
                break
        save()
    if done == 0:
        raise UserError("calibration: the data hold no batch; an iterator may be used up")
    unseen = [name for name, collector in collectors.items() if collector.empty]
    if unseen:
        raise UserError(
            f"{', '.join(unseen[:5])}{', ...' if len(unseen) > 5 else ''}: no data came there; "
            "disable these quantizers, or calibrate with data that take that path"
        )
    chosen = ranges()
    for name, quantizer in quantizers.items():
        if quantizer.amax is not None and quantizer.amax.shape != chosen[name].shape:
            del quantizer._buffers["_amax"]
        quantizer.amax = chosen[name]
        if quantizer._learn_amax:
            quantizer.init_learn_amax()
    return Calibration(done, converged, chosen)
