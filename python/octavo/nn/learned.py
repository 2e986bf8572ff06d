"""Ranges that are trained with the weights: learned step sizes (LSQ), learned clipping (PACT)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch

from octavo.compat.pytorch_quantization import nn as quant_nn
from octavo.errors import UserError
from octavo.nn.folding import set_module
from octavo.nn.running import is_weight, quantizers_of

__all__ = ["LearnedRanges", "LearnedStep", "learn_ranges"]

_LEAST = 2.0**-24  # amax at and below it counts as zero


class LearnedStep(quant_nn.TensorQuantizer):
    """A quantizer whose step size is a parameter (Esser et al., "Learned Step Size Quantization").

    Args:
        quantizer: has an amax, from which the step begins; settings are shared with it.
    """

    def __init__(self, quantizer: Any) -> None:
        torch.nn.Module.__init__(self)
        for name, value in quantizer.__dict__.items():
            if name not in ("_parameters", "_buffers", "_modules"):
                self.__dict__[name] = value
        amax = quantizer.amax
        self._shape = tuple(amax.shape)
        self.step = torch.nn.Parameter((amax.float() / self.maxbound).clamp_min(_LEAST).reshape(-1))

    @property
    def amax(self) -> torch.Tensor:
        """The range that the step now stands for."""
        return (self._positive().detach() * self.maxbound).reshape(self._shape)

    @amax.setter
    def amax(self, value: Any) -> None:
        with torch.no_grad():
            self.step.copy_(torch.as_tensor(value).reshape(-1) / self.maxbound)

    def _positive(self) -> torch.Tensor:
        return self.step.abs().clamp_min(_LEAST / self.maxbound)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Quantized with the step, whose gradient is scaled by 1 / sqrt(elements · levels)."""
        if self._disabled or not self._if_quant:
            return inputs
        step = self._positive()
        elements = inputs.numel() / step.numel()
        axis = self._axis[0] if isinstance(self._axis, list | tuple) else self._axis
        result: torch.Tensor = torch.ops.octavo.learnable_step(
            inputs,
            step,
            None,
            0 if axis is None else axis,
            self._num_bits,
            not self._unsigned,
            self._narrow_range,
            1 / math.sqrt(max(elements, 1) * self.maxbound),
        )
        return result


class LearnedRanges:
    """What :func:`learn_ranges` did.

    Attributes:
        names: of the quantizers that learn.
        parameters: what their ranges are made of; also among the model's.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.parameters: list[torch.nn.Parameter] = []
        self._finish: list[Callable[[], None]] = []

    def finish(self) -> None:
        """Gives the quantizers the learned ranges as their amax; they are as before otherwise."""
        while self._finish:
            self._finish.pop()()


def _holders(model: torch.nn.Module, quantizer: Any) -> list[str]:
    return [n for n, m in model.named_modules(remove_duplicate=False) if m is quantizer]


def _put(model: torch.nn.Module, names: list[str], module: torch.nn.Module) -> None:
    for name in names:
        set_module(model, name, module)


def _learn_step(model: torch.nn.Module, quantizer: Any, result: LearnedRanges) -> None:
    learned = LearnedStep(quantizer).train(quantizer.training)
    names = _holders(model, quantizer)
    _put(model, names, learned)
    result.parameters.append(learned.step)

    def finish() -> None:
        quantizer.amax = learned.amax
        _put(model, names, quantizer)

    result._finish.append(finish)


def _learn_clip(quantizer: Any, result: LearnedRanges) -> None:
    amax = float(quantizer.amax)
    quantizer._learn_amax = True
    quantizer.clip = quant_nn.Clip(
        0.0 if quantizer.unsigned else -amax, amax, learn_min=not quantizer.unsigned, learn_max=True
    )
    clip = quantizer.clip
    result.parameters += [p for p in clip.parameters() if p.requires_grad]

    def finish() -> None:
        low, high = torch.as_tensor(clip.clip_value_min), clip.clip_value_max
        quantizer.amax = torch.maximum(-low, high).detach().clamp_min(0)
        quantizer._learn_amax = False
        del quantizer.clip

    result._finish.append(finish)


def learn_ranges(model: torch.nn.Module, method: str = "lsq") -> LearnedRanges:
    """Makes parameters of the ranges of a calibrated model's quantizers, for training.

    ``"lsq"``: a learned step for each quantizer, of weights for each channel (Esser et al.,
    "Learned Step Size Quantization", 2020). ``"pact"``: learned bounds for activations, which take
    the gradient of what is clipped; weights keep their ranges (Choi et al., "PACT: Parameterized
    Clipping Activation for Quantized Neural Networks", 2018). Build the optimizer afterwards; when
    training is done, ``finish()`` makes plain quantizers of them again, for export.

    Args:
        model: calibrated; changed in place.
        method: ``"lsq"`` or ``"pact"``.

    Raises:
        UserError: another method; a quantizer without amax, of floats, or, with ``"pact"``, of an
            activation with an axis. The model is then as before.
    """
    if method not in ("lsq", "pact"):
        raise UserError(f"method: '{method}' is not known; there are lsq and pact")
    chosen = {
        name: q
        for name, q in quantizers_of(model).items()
        if method == "lsq" or not is_weight(name)
    }
    for name, q in chosen.items():
        if q.amax is None:
            raise UserError(f"{name}: has no range to begin with; call octavo.calibrate first")
        if not isinstance(q.num_bits, int) or q._learn_amax or isinstance(q, LearnedStep):
            raise UserError(f"{name}: is no plain integer quantizer; disable it, or call finish()")
        if method == "pact" and q.amax.numel() != 1:
            raise UserError(f"{name}: PACT has one range for a tensor, this has an axis; use lsq")
        if q.amax.numel() != 1 and sum(size != 1 for size in q.amax.shape) != 1:
            raise UserError(f"{name}: has ranges along several axes; use one")
    result = LearnedRanges()
    for name, q in chosen.items():
        (functools.partial(_learn_step, model) if method == "lsq" else _learn_clip)(q, result)
        result.names.append(name)
    return result
