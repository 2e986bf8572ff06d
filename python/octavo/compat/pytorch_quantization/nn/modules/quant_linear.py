"""Linear with quantized input and weight."""

from __future__ import annotations

from typing import Any

import torch

from octavo.compat.pytorch_quantization import tensor_quant
from octavo.compat.pytorch_quantization.nn.modules import _utils

__all__ = ["Linear", "QuantLinear"]


class QuantLinear(torch.nn.Linear, _utils.QuantMixin):
    """torch.nn.Linear with quantizers; the bias stays float.

    Args:
        in_features: as of torch.nn.Linear.
        out_features: likewise.
        bias: likewise.
        kwargs: ``quant_desc_input``, ``quant_desc_weight``, ``device``, ``dtype``.
    """

    default_quant_desc_weight = tensor_quant.QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, **kwargs: Any
    ) -> None:
        own = _utils.take_own(_Float, kwargs)
        super().__init__(in_features, out_features, bias, **own)
        self.init_quantizer(*_utils.pop_quant_desc_in_kwargs(type(self), **kwargs))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Linear of the quantized input and weight."""
        return torch.nn.functional.linear(
            self._input_quantizer(input), self._weight_quantizer(self.weight), self.bias
        )


_Float = QuantLinear.__mro__[1]
Linear = QuantLinear
