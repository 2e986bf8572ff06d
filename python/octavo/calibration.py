"""``octavo.calibrate``: ranges for the quantizers of a torch model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from octavo.api import ProgressCallback

if TYPE_CHECKING:
    from octavo.nn.calibration import Calibration


def calibrate(
    model: Any,
    data: Iterable[Any],
    *,
    method: str | Mapping[str, str] = "mse",
    steps: int | None = None,
    percentile: float = 99.99,
    momentum: float = 0.01,
    tolerance: float | None = None,
    patience: int = 8,
    forward: Callable[[Any, Any], Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | ProgressCallback = True,
) -> Calibration:
    """Runs a torch model over data and gives its quantizers the ranges that they need.

    Quantizers are those of ``octavo.nn.replace``, ``quant_modules.initialize`` or put in by hand,
    and enabled. Statistics are liboctavo's and of fixed size, whatever the number of batches. The
    model runs in float, in evaluation mode, without gradients, and is then as before, but for the
    ranges. (A graph is calibrated by :func:`octavo.quantize`.)

    Args:
        model: a torch.nn.Module with quantizers; changed in place.
        data: batches: a tensor, a tuple or list of arguments, a mapping of keywords, or whatever
            ``forward`` takes.
        method: of activations: ``"max"``, ``"moving_average"``, ``"percentile"``, ``"entropy"`` or
            ``"mse"``; weights take the maximum, for each channel where their quantizer has an
            axis. Or a mapping of globs over names of quantizers to methods: the first that matches
            decides, others are ``"mse"`` and ``"max"``.
        steps: use at most so many batches.
        percentile: what the method of that name keeps of the magnitudes. It counts the largest
            exactly and samples the others of large tensors; where the first data are so much larger
            that the range lies among the latter, the logger "octavo.calibration" says so.
        momentum: how far the moving average goes towards each batch's maximum.
        tolerance: stop early if in ``patience`` batches no range moved by more than this part.
        patience: how many batches lie between two looks at the ranges.
        forward: runs a batch, ``forward(model, batch)``: ``lambda model, batch: model(batch[0])``
            for a loader that gives labels too.
        checkpoint: a file that is written about once a second, and from which an interrupted run
            goes on, with the same result; the data must come in the same order.
        progress: True shows a bar with the time that is left, on a terminal; a function is called
            as ``progress(phase, done, total)``, and what it raises ends the work, as Ctrl-C does.

    Returns:
        How many batches were used, whether the ranges settled, and the ranges by name.

    Raises:
        TypeError: not a torch.nn.Module.
        FileError: the checkpoint cannot be written, is damaged, or is of another run.
        UserError: there is no quantizer, no batch, a quantizer that no data reached, NaN or
            infinity; a method that is not known or does not apply. No range has changed then.
    """
    from octavo.nn import calibration  # noqa: PLC0415  needs torch

    return calibration.calibrate(
        model,
        data,
        method=method,
        steps=steps,
        percentile=percentile,
        momentum=momentum,
        tolerance=tolerance,
        patience=patience,
        forward=forward,
        checkpoint=checkpoint,
        progress=progress,
    )
