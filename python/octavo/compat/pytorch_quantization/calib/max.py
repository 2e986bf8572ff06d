"""The absolute maximum of all data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from octavo.compat.pytorch_quantization.calib.calibrator import Axis, _Calibrator, note_negative
from octavo.compat.pytorch_quantization.utils import reduce_amax

__all__ = ["MaxCalibrator"]


class MaxCalibrator(_Calibrator):
    """Remembers the absolute maximum, for each index of ``axis`` if given.

    Args:
        num_bits: of the integers.
        axis: index or indices, negative ones from the end; None: one maximum.
        unsigned: whether the integers have no sign.
        track_amax: whether to keep each batch's maximum, in ``amaxs``.
    """

    def __init__(
        self,
        num_bits: int | tuple[int, int],
        axis: Axis,
        unsigned: bool,
        track_amax: bool = False,
    ) -> None:
        super().__init__(num_bits, axis, unsigned)
        self._track_amax = track_amax
        self._amaxs: list[np.ndarray[Any, Any]] = []
        self._calib_amax: torch.Tensor | None = None

    @property
    def amaxs(self) -> list[np.ndarray[Any, Any]]:
        """Each batch's maximum, as arrays; empty unless tracked."""
        return self._amaxs

    def collect(self, x: torch.Tensor) -> None:
        """Takes a batch into account.

        Raises:
            RuntimeError: its maxima have another shape than those before.
        """
        note_negative(x)
        axes = self._axis if isinstance(self._axis, list | tuple) else [self._axis]
        kept = {x.dim() + a if isinstance(a, int) and a < 0 else a for a in axes}
        local = reduce_amax(x, [i for i in range(x.dim()) if i not in kept]).detach()
        if self._calib_amax is None:
            self._calib_amax = local
        elif local.shape != self._calib_amax.shape:
            raise RuntimeError("amax shape changed!")
        else:
            self._calib_amax = torch.maximum(self._calib_amax, local)
        if self._track_amax:
            self._amaxs.append(local.float().cpu().numpy())

    def reset(self) -> None:
        """Forgets the maximum."""
        self._calib_amax = None

    def compute_amax(self, *args: Any, **kwargs: Any) -> torch.Tensor | None:
        """The absolute maximum; None if nothing was collected."""
        if args or kwargs:
            raise TypeError("MaxCalibrator.compute_amax takes no arguments")
        return self._calib_amax

    def __str__(self) -> str:
        return f"MaxCalibrator(track_amax={self._track_amax})"

    def __repr__(self) -> str:
        tracked = f" amaxs={self._amaxs}" if self._track_amax else ""
        return (
            f"MaxCalibrator({super().__repr__()} calib_amax={self._calib_amax}"
            f" track_amax={self._track_amax}{tracked})"
        )
