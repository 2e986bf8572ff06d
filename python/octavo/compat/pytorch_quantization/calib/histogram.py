"""Calibration by a histogram of magnitudes; histogram and choices are liboctavo's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from octavo import _core
from octavo.compat.pytorch_quantization._logging import logger
from octavo.compat.pytorch_quantization.calib.calibrator import Axis, _Calibrator, note_negative
from octavo.compat.pytorch_quantization.utils import reduce_amax

__all__ = ["HistogramCalibrator", "calibrate_weights"]


def _array(x: torch.Tensor) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = x.detach().to("cpu", torch.float32).contiguous().numpy()
    return array


def _choose(
    histogram: _core.MagnitudeHistogram,
    method: str,
    num_bits: int | tuple[int, int],
    unsigned: bool,
    stride: int = 1,
    start_bin: int = 128,
    percentile: float = 99.99,
) -> float:
    amax: float
    if method == "percentile":
        if not 0 <= percentile <= 100:
            raise ValueError("Invalid percentile. Must be in range 0 <= percentile <= 100.")
        amax = histogram.percentile_amax(percentile)
    elif method == "mse":
        if num_bits == (4, 3):
            amax = histogram.mse_amax_e4m3(stride, start_bin)
        elif isinstance(num_bits, int):
            amax = histogram.mse_amax(num_bits, unsigned, stride, start_bin)
        else:
            raise TypeError("Invalid num_bits. num_bits must be a postivie integer or tuple (4,3).")
    elif not isinstance(num_bits, int):
        raise TypeError(f"entropy calibration needs integers, not {num_bits}")
    else:
        amax = histogram.entropy_amax(num_bits, unsigned, stride, start_bin)
    return amax


class HistogramCalibrator(_Calibrator):
    """Collects a histogram of magnitudes; ``compute_amax`` chooses from it.

    The first batch fixes the width of the bins; later batches may add bins, up to eight times as
    many, then pairs of bins merge: memory is bounded.

    Args:
        num_bits: of the integers, or (4, 3).
        axis: must be None.
        unsigned: whether the integers have no sign.
        num_bins: how many at first.
        grow_method: deprecated, ignored.
        skip_zeros: whether exact zeros do not count.
        torch_hist: the type of the histogram that ``_calib_hist`` shows: tensor or array.

    Raises:
        NotImplementedError: an axis is given.
    """

    def __init__(
        self,
        num_bits: int | tuple[int, int],
        axis: Axis,
        unsigned: bool,
        num_bins: int = 2048,
        grow_method: str | None = None,
        skip_zeros: bool = False,
        torch_hist: bool = True,
    ) -> None:
        super().__init__(num_bits, axis, unsigned)
        self._first_num_bins = num_bins
        self._skip_zeros = skip_zeros
        self._torch_hist = torch_hist
        self._histogram = _core.MagnitudeHistogram(num_bins)
        if axis is not None:
            raise NotImplementedError(
                "Calibrator histogram collection only supports per tensor scaling"
            )
        if grow_method is not None:
            logger.warning("grow_method is deprecated. Got %s, ignored!", grow_method)

    def _shown(self, array: Any) -> Any:
        if self._histogram.total == 0:
            return None
        return torch.from_numpy(array) if self._torch_hist else array

    @property
    def _calib_hist(self) -> Any:
        return self._shown(self._histogram.counts)

    @property
    def _calib_bin_edges(self) -> Any:
        return self._shown(self._histogram.edges)

    @property
    def _num_bins(self) -> int:
        counts: Any = self._histogram.counts
        return len(counts)

    def collect(self, x: torch.Tensor) -> None:
        """Counts a batch.

        Raises:
            UserError: it holds NaN or infinity.
        """
        note_negative(x)
        self._histogram.collect(_array(x), self._skip_zeros)

    def reset(self) -> None:
        """Forgets the histogram."""
        self._histogram = _core.MagnitudeHistogram(self._first_num_bins)

    def compute_amax(self, *args: Any, **kwargs: Any) -> torch.Tensor | None:
        """``compute_amax(method, *, stride=1, start_bin=128, percentile=99.99)``.

        Args:
            args: the method: ``"entropy"``, ``"mse"`` or ``"percentile"``.
            kwargs: ``stride`` and ``start_bin`` say which bins are candidates of entropy and mse;
                ``percentile`` is what that method keeps.

        Returns:
            A number; None if nothing was collected.

        Raises:
            TypeError: an unknown method.
            ValueError: a percentile out of range; no candidate.
        """
        return self._compute_amax(*args, **kwargs)

    def _compute_amax(
        self, method: str, *, stride: int = 1, start_bin: int = 128, percentile: float = 99.99
    ) -> torch.Tensor | None:
        if method not in ("entropy", "mse", "percentile"):
            raise TypeError(f"Unknown calibration method {method}")
        if self._histogram.total == 0:
            return None
        amax = _choose(
            self._histogram, method, self._num_bits, self._unsigned, stride, start_bin, percentile
        )
        return torch.tensor(amax)

    def __str__(self) -> str:
        edges = self._calib_bin_edges
        shown = "None"
        if edges is not None:
            shown = f"[{float(edges[0]):.3f}, ..., {float(edges[-1]):.3f}]({len(edges)})"
        return f"HistogramCalibrator(calib_bin_edges={shown})"

    def __repr__(self) -> str:
        return (
            f"HistogramCalibrator({super().__repr__()} calib_bin_edges={self._calib_bin_edges}"
            f" calib_hist={self._calib_hist})"
        )


def calibrate_weights(
    model: torch.nn.Module,
    method: str = "percentile",
    perchannel: bool = True,
    percentile: float = 99.99,
    num_bins: int = 2048,
) -> None:
    """Sets the amax of every weight quantizer from the weights themselves.

    Args:
        model: what holds quantized modules.
        method: ``"max"``, ``"mse"`` or ``"percentile"``, whatever the quantizers' calibrators are.
        perchannel: an amax for each output channel.
        percentile: what that method keeps.
        num_bins: of each histogram.

    Raises:
        TypeError: an unknown method.
    """
    if method not in ("max", "mse", "percentile"):
        raise TypeError(f"Unsupported calibration method {method}")
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        quantizer: Any = getattr(module, "weight_quantizer", None)
        if weight is None or quantizer is None:
            continue
        logger.info("Calibrate weight of %s", name)
        axis = None
        if perchannel:
            axis = 1 if isinstance(module, torch.nn.modules.conv._ConvTransposeNd) else 0
        kept = [i for i in range(weight.dim()) if i != axis]
        if method == "max":
            amax = reduce_amax(weight, axis=kept)
        else:
            channels = [weight] if axis is None else weight.unbind(axis)
            chosen = []
            for channel in channels:
                histogram = _core.MagnitudeHistogram(num_bins)
                histogram.collect(_array(channel))
                chosen.append(
                    _choose(
                        histogram,
                        method,
                        quantizer.num_bits,
                        quantizer.unsigned,
                        percentile=percentile,
                    )
                )
            shape = [1] * weight.dim()
            if axis is not None:
                shape[axis] = len(chosen)
            amax = torch.tensor(chosen).reshape(shape if axis is not None else ())
        quantizer.amax = amax.detach().float().cpu().numpy()
