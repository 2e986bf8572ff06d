"""What calibrators share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from octavo.compat.pytorch_quantization._logging import log_once

Axis = int | Sequence[int] | None


class _Calibrator:
    """Base of calibrators: ``collect`` batches, then ``compute_amax``.

    Args:
        num_bits: of the integers.
        axis: what has a maximum of its own; see QuantDescriptor.
        unsigned: whether the integers have no sign.
    """

    def __init__(self, num_bits: int | tuple[int, int], axis: Axis, unsigned: bool) -> None:
        self._num_bits = num_bits
        self._axis = axis
        self._unsigned = unsigned

    def collect(self, x: torch.Tensor) -> None:
        """Takes a batch into account."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forgets what was collected."""
        raise NotImplementedError

    def compute_amax(self, *args: Any, **kwargs: Any) -> torch.Tensor | None:
        """The absolute maximum; None if nothing was collected."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"num_bits={self._num_bits} axis={self._axis} unsigned={self._unsigned}"


def note_negative(x: torch.Tensor) -> None:
    """Logs, once, that calibration data have a sign."""
    if logging.getLogger("octavo.compat").isEnabledFor(logging.INFO) and x.min() < 0:
        log_once(
            logging.INFO,
            "Calibrator encountered negative values. It shouldn't happen after ReLU. "
            "Make sure this is the right tensor to calibrate.",
        )
