"""Running models over data: what is a batch, and how a model is left as it was."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from octavo.compat.pytorch_quantization import nn as quant_nn
from octavo.errors import UserError

__all__ = [
    "Forward",
    "evaluating",
    "in_evaluation_mode",
    "quantizers_of",
    "run_batch",
    "weights_checksum",
]

Forward = Callable[[torch.nn.Module, Any], Any]


def run_batch(model: torch.nn.Module, batch: Any) -> Any:
    """The model of a batch: a tensor, a tuple or list of arguments, or a mapping of keywords."""
    if isinstance(batch, torch.Tensor):
        return model(batch)
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, list | tuple):
        return model(*batch)
    raise UserError(
        f"a batch is a tensor, a tuple or list of arguments or a mapping of keywords, not "
        f"{type(batch).__name__}; give forward=, a function of model and batch"
    )


@contextlib.contextmanager
def in_evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Each module's mode is put back afterwards."""
    training = {m: m.training for m in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients."""
    with in_evaluation_mode(model), torch.no_grad():
        yield


def quantizers_of(model: torch.nn.Module) -> dict[str, quant_nn.TensorQuantizer]:
    """The quantizers that are enabled, by name.

    Raises:
        TypeError: not a module.
        UserError: there are none.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"expected a torch.nn.Module, not {type(model).__name__}")
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, quant_nn.TensorQuantizer) and not module._disabled
    }
    if not found:
        raise UserError(
            "the model has no quantizer that is enabled; octavo.nn.replace(model) puts them in, or "
            "quant_modules.initialize() before it is built"
        )
    return found


def is_weight(name: str) -> bool:
    """Whether a quantizer of this name is a weight's."""
    return any(part.startswith("_weight_quantizer") for part in name.split(".")[-2:])


def weights_checksum(model: torch.nn.Module, buffers: bool = False) -> int:
    """Tells models with other weights (and buffers) apart, for checkpoints."""
    sum_ = 0
    for name, parameter in (*model.named_parameters(), *(model.named_buffers() if buffers else ())):
        sum_ = zlib.crc32(name.encode(), sum_)
        raw = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        sum_ = zlib.crc32(raw.numpy().data, sum_)
    return sum_
