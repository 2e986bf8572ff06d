"""Parameters by name: to group, to freeze; weights quantized in place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from octavo.compat.pytorch_quantization._logging import logger

__all__ = ["freeze_parameters", "group_parameters", "match_parameters", "quant_weight_inplace"]


def match_parameters(
    model: torch.nn.Module, patterns: Sequence[str]
) -> Iterator[torch.nn.Parameter]:
    """Parameters whose name holds one of the regular expressions."""
    for name, parameter in model.named_parameters():
        if any(re.search(pattern, name) for pattern in patterns):
            yield parameter


def group_parameters(
    model: torch.nn.Module,
    patterns_list: Sequence[list[str]],
    lrs: Sequence[float] | None = None,
    momentums: Sequence[float] | None = None,
    weight_decays: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """Groups for an optimizer, one for each list of patterns, with options if given.

    Raises:
        TypeError: not a list of lists, or options of another length.
    """
    for patterns in patterns_list:
        if not isinstance(patterns, list):
            raise TypeError("patterns_list must be list of list of patterns")
    groups: list[dict[str, Any]] = [
        {"params": match_parameters(model, patterns)} for patterns in patterns_list
    ]
    options = (("lr", lrs), ("momentum", momentums), ("weight_decay", weight_decays))
    for name, values in options:
        if values is None:
            continue
        if len(values) != len(patterns_list):
            raise TypeError(f"len({name}s) must match len(patterns_list)")
        for group, value in zip(groups, values, strict=True):
            group[name] = value
    return groups


def freeze_parameters(model: torch.nn.Module, patterns: Sequence[str]) -> None:
    """Parameters that match take no gradient."""
    for name, parameter in model.named_parameters():
        if any(re.search(pattern, name) for pattern in patterns):
            logger.warning("Freeze %s.", name)
            parameter.requires_grad = False


def quant_weight_inplace(model: torch.nn.Module) -> None:
    """Replaces the weights of quantized modules by what their weight quantizers make of them."""
    for name, module in model.named_modules():
        quantizer = getattr(module, "_weight_quantizer", None)
        if quantizer is None:
            continue
        if not quantizer.fake_quant:
            logger.warning("%s: weights become integers; the model is for inference only now", name)
        logger.warning("In-place quantize weight of %s", name)
        weight: Any = module.weight
        with torch.no_grad():
            weight.copy_(quantizer(weight))
