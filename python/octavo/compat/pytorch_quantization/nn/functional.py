"""Functions behind the modules."""

from __future__ import annotations

from typing import Any

import torch

import octavo._torch  # noqa: F401  registers torch.ops.octavo

__all__ = ["ClipFunction", "clip"]


class ClipFunction(torch.autograd.Function):
    """Clipping whose bounds can learn (PACT, Choi et al. 2018).

    The input's gradient passes strictly inside; a bound's is the sum over what lies at or outside
    it. Bounds broadcast; those that learn are single numbers.
    """

    @staticmethod
    def forward(
        ctx: Any, input: torch.Tensor, clip_value_min: torch.Tensor, clip_value_max: torch.Tensor
    ) -> torch.Tensor:
        """min(max)."""
        ctx.save_for_backward(input, clip_value_min, clip_value_max)
        if torch.onnx.is_in_onnx_export():  # ops that have an ONNX form
            return torch.maximum(torch.minimum(input, clip_value_max), clip_value_min)
        result: torch.Tensor = torch.ops.octavo.learnable_clip(
            input, clip_value_min, clip_value_max
        )
        return result

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Of the input and of bounds that need one.

        Raises:
            ValueError: the bounds are not single numbers.
        """
        (grad,) = grads
        input, low, high = ctx.saved_tensors
        if low.numel() != 1 or high.numel() != 1:
            raise ValueError(
                "Learnable min/max can only be scalar, got size "
                f"{tuple(low.size())} and {tuple(high.size())}."
            )
        gradients = torch.ops.octavo._learnable_clip_gradient(grad, input, low, high)
        needed = ctx.needs_input_grad
        return tuple(g if wanted else None for g, wanted in zip(gradients, needed, strict=True))


def clip(
    input: torch.Tensor, clip_value_min: torch.Tensor, clip_value_max: torch.Tensor
) -> torch.Tensor:
    """:class:`ClipFunction` applied."""
    result: torch.Tensor = ClipFunction.apply(input, clip_value_min, clip_value_max)
    return result
