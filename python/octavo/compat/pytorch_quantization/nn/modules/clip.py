"""Clipping as a module."""

from __future__ import annotations

from typing import Any

import torch

from octavo.compat.pytorch_quantization.nn import functional

__all__ = ["Clip"]


def _bound(value: Any, learn: bool) -> Any:
    if not learn:
        return value
    if not isinstance(value, float) and getattr(value, "size", None) != 1:
        raise ValueError(
            "clip_value_min/clip_value_max must be scalar for initilizing learnable range."
        )
    return torch.nn.Parameter(torch.tensor(value, dtype=torch.float32))


class Clip(torch.nn.Module):
    """Clips to [clip_value_min, clip_value_max].

    Args:
        clip_value_min: a tensor, or a number if it learns.
        clip_value_max: likewise.
        learn_min: whether the lower bound is a parameter.
        learn_max: whether the upper bound is one.

    Raises:
        ValueError: a bound that learns is not a single number.
    """

    def __init__(
        self,
        clip_value_min: Any,
        clip_value_max: Any,
        learn_min: bool = False,
        learn_max: bool = False,
    ) -> None:
        super().__init__()
        self.clip_value_min = _bound(clip_value_min, learn_min)
        self.clip_value_max = _bound(clip_value_max, learn_max)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Clips."""
        low = torch.as_tensor(self.clip_value_min, device=inputs.device)
        high = torch.as_tensor(self.clip_value_max, device=inputs.device)
        return functional.clip(inputs, low, high)
