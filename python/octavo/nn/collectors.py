"""What calibration remembers of one tensor; its size does not depend on the amount of data."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from typing import Any

import torch

from octavo import _core
from octavo.errors import FileError, UserError

__all__ = ["METHODS", "Collector", "make_collector"]

METHODS = ("max", "moving_average", "percentile", "entropy", "mse")

_log = logging.getLogger("octavo.calibration")

_CHUNK = 1 << 20  # elements that are converted at once


def _flat(x: torch.Tensor) -> torch.Tensor:
    """The elements in the order of memory; a copy only if there are gaps or overlaps."""
    order = sorted(range(x.dim()), key=x.stride, reverse=True)
    return x.detach().permute(order).reshape(-1)


def _chunks(x: torch.Tensor) -> Iterator[torch.Tensor]:
    """The elements as dense float32 arrays, the largest magnitude in the first of them.

    The first data of a histogram fix the width of its bins, so that the counts are those of the
    whole tensor.
    """
    if x.dtype == torch.float32 and x.is_contiguous() and x.is_cpu:
        yield x.detach()  # a few calls less: behind a convolution each finds its code out of cache
        return
    flat = _flat(x)
    if flat.numel() == 0:
        return
    if flat.dtype == torch.float32 and flat.is_cpu:
        yield flat
        return
    parts = flat.split(_CHUNK)
    most = [float(torch.stack(p.aminmax()).abs().max()) for p in parts]
    for i in sorted(range(len(parts)), key=lambda i: most[i], reverse=True):
        yield parts[i].to("cpu", torch.float32)


class Collector:
    """Takes batches, gives an amax; stands in for a TensorQuantizer's calibrator.

    Args:
        name: of the quantizer, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def empty(self) -> bool:
        """Whether nothing was collected."""
        raise NotImplementedError

    def collect(self, x: torch.Tensor) -> None:
        """Takes a batch into account."""
        raise NotImplementedError

    def amax(self) -> torch.Tensor:
        """What was chosen from a collector that is not empty."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as JSON."""
        raise NotImplementedError

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a state."""
        raise NotImplementedError

    def _finite(self, amax: torch.Tensor) -> torch.Tensor:
        if not torch.isfinite(amax).all():
            raise UserError(
                f"{self.name}: the data hold NaN or infinity there; look for the layer before it "
                "that overflows, or leave the sample out"
            )
        return amax


class Maximum(Collector):
    """The absolute maximum, of all data or of each index of some axes.

    Args:
        name: of the quantizer.
        axis: of the quantizer.
        momentum: None: of all data; else an average that moves so far towards each batch's.
    """

    def __init__(self, name: str, axis: Any, momentum: float | None = None) -> None:
        super().__init__(name)
        self._axes = axis if isinstance(axis, list | tuple) else [] if axis is None else [axis]
        self._momentum = momentum
        self._amax: torch.Tensor | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing was collected."""
        return self._amax is None

    def collect(self, x: torch.Tensor) -> None:
        """Takes a batch into account."""
        x = x.detach()
        if x.numel() == 0:
            return
        kept = {a % x.dim() for a in self._axes}
        reduced = [i for i in range(x.dim()) if i not in kept]
        # No abs(): it would copy the activation.
        if not kept:
            low, high = _flat(x).aminmax()  # dense: no copy
        elif reduced:
            low, high = x.amin(reduced, keepdim=True), x.amax(reduced, keepdim=True)
        else:
            low = high = x
        amax = self._finite(torch.maximum(low.abs(), high.abs()).float())
        before = self._amax
        if before is not None and before.shape != amax.shape:
            raise UserError(
                f"{self.name}: the data's axes {self._axes} have other lengths than before "
                f"({tuple(amax.shape)}, {tuple(before.shape)}); calibrate per tensor"
            )
        if before is None:
            self._amax = amax.clone()
        elif self._momentum is None:
            torch.maximum(before, amax, out=before)
        else:
            before.add_(self._momentum * (amax - before))

    def amax(self) -> torch.Tensor:
        """The maximum."""
        assert self._amax is not None
        return self._amax.clone()

    def state(self) -> dict[str, Any]:
        """Numbers and shape."""
        if self._amax is None:
            return {}
        return {"amax": self._amax.reshape(-1).tolist(), "shape": list(self._amax.shape)}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a state."""
        self._amax = torch.tensor(state["amax"]).reshape(state["shape"]) if state else None


class Histogram(Collector):
    """liboctavo's histogram of magnitudes; the method chooses from it.

    Args:
        name: of the quantizer.
        method: ``"percentile"``, ``"entropy"`` or ``"mse"``.
        bits: of the quantizer, or (4, 3).
        unsigned: whether the integers have no sign.
        percentile: what that method keeps.
    """

    def __init__(
        self, name: str, method: str, bits: Any, unsigned: bool, percentile: float
    ) -> None:
        super().__init__(name)
        if method == "entropy" and not isinstance(bits, int):
            raise UserError(f"{name}: entropy needs integers, not {bits}; use mse or percentile")
        self._choice = (method, bits, unsigned, percentile)
        # A percentile asks for the largest values; room for the first data to be the largest.
        outside = 1 - percentile / 100
        self._top = max(0.01, 64 * outside) if method == "percentile" else 1.0
        self._histogram = _core.MagnitudeHistogram()

    @property
    def empty(self) -> bool:
        """Whether nothing was collected."""
        return bool(self._histogram.total == 0)

    def collect(self, x: torch.Tensor) -> None:
        """Counts a batch."""
        for part in _chunks(x):
            try:
                self._histogram.collect(part.numpy(), top=self._top)
            except UserError:
                self._finite(torch.stack(part.aminmax()))
                raise

    def amax(self) -> torch.Tensor:
        """The method's choice."""
        method, bits, unsigned, percentile = self._choice
        if method == "percentile":
            amax = self._histogram.percentile_amax(percentile)
            edges: Any = self._histogram.edges
            if amax < edges[self._histogram.exact_from]:
                _log.info(
                    "%s: the first data were so much larger that the %gth percentile %g is known "
                    "from a sample of their values", self.name, percentile, amax,
                )  # fmt: skip
        elif method == "entropy":
            amax = self._histogram.entropy_amax(bits, unsigned)
        elif bits == (4, 3):
            amax = self._histogram.mse_amax_e4m3()
        else:
            amax = self._histogram.mse_amax(bits, unsigned)
        return torch.tensor(amax)

    def state(self) -> dict[str, Any]:
        """The histogram's bytes."""
        return {"histogram": base64.b64encode(self._histogram.to_bytes()).decode()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a state."""
        self._histogram = _core.MagnitudeHistogram.from_bytes(base64.b64decode(state["histogram"]))


def make_collector(
    name: str, quantizer: Any, method: str, percentile: float, momentum: float
) -> Collector:
    """The collector of a quantizer.

    Raises:
        UserError: the method does not apply to it.
    """
    if method not in METHODS:
        raise UserError(f"{method}: not a calibration method; there are {', '.join(METHODS)}")
    if method == "max":
        return Maximum(name, quantizer.axis)
    if method == "moving_average":
        return Maximum(name, quantizer.axis, momentum)
    if quantizer.axis is not None:
        raise UserError(
            f"{name}: {method} chooses one range for a tensor, and its axis is {quantizer.axis}; "
            'give it "max" or "moving_average": method={name: method, ...}'
        )
    return Histogram(name, method, quantizer.num_bits, quantizer.unsigned, percentile)


def restored(collectors: dict[str, Collector], states: dict[str, Any], path: str) -> None:
    """All collectors go on from a checkpoint's states.

    Raises:
        FileError: they are damaged.
    """
    try:
        for name, collector in collectors.items():
            collector.restore(states[name])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FileError(f"{path}: damaged calibration checkpoint ({error}); remove it") from error
