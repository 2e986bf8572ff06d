"""The absolute maximum along axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["reduce_amax"]


def reduce_amax(
    input: torch.Tensor, axis: int | Sequence[int] | None = None, keepdims: bool = True
) -> torch.Tensor:
    """Absolute maximum, without gradient.

    Args:
        input: any tensor that is not empty.
        axis: what to reduce; None: everything, to no dimension.
        keepdims: whether reduced dimensions stay, with size 1. A single number comes without
            dimensions where several axes were given.

    Raises:
        ValueError: more axes than dimensions.
    """
    with torch.no_grad():
        if axis is None:
            return input.abs().amax()
        if isinstance(axis, int):
            return input.abs().amax(axis, keepdim=keepdims)
        if len(axis) > input.dim():
            raise ValueError("Cannot reduce more axes than tensor's dim.")
        if len(axis) == 0:
            return input.abs()
        output = input.abs().amax(tuple(axis), keepdim=keepdims)
        return output.squeeze() if output.numel() == 1 else output
