"""Where tensors become integers and float again, and operations that are no modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class QuantStub(nn.Module):
    """Observes; ``convert`` makes it the place where a float tensor is quantized.

    Args:
        qconfig: what to observe with; None: what the parent has.
    """

    def __init__(self, qconfig: Any = None) -> None:
        super().__init__()
        if qconfig:
            self.qconfig = qconfig

    def forward(self, x: Tensor) -> Tensor:
        """Gives the tensor back."""
        return x


class DeQuantStub(nn.Module):
    """``convert`` makes it the place where a quantized tensor becomes float."""

    def __init__(self, qconfig: Any = None) -> None:
        super().__init__()
        if qconfig:
            self.qconfig = qconfig

    def forward(self, x: Tensor) -> Tensor:
        """Gives the tensor back."""
        return x


class QuantWrapper(nn.Module):
    """A module between a :class:`QuantStub` and a :class:`DeQuantStub`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        qconfig = getattr(module, "qconfig", None)
        self.quant = QuantStub(qconfig)
        self.dequant = DeQuantStub(qconfig)
        self.module = module
        self.train(module.training)

    def forward(self, x: Tensor) -> Tensor:
        """Quantizes, runs the module, dequantizes."""
        result: Tensor = self.dequant(self.module(self.quant(x)))
        return result


class FloatFunctional(nn.Module):
    """Additions, products and concatenations whose results are observed."""

    def __init__(self) -> None:
        super().__init__()
        self.activation_post_process: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Not to be called: its methods are.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("FloatFunctional is not intended to use the forward; call its methods")

    def _observed(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation_post_process(x)
        return result

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """x + y."""
        return self._observed(torch.add(x, y))

    def add_scalar(self, x: Tensor, y: float) -> Tensor:
        """x + y for a number; not observed: the grid moves along."""
        return torch.add(x, y)

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        """x * y."""
        return self._observed(torch.mul(x, y))

    def mul_scalar(self, x: Tensor, y: float) -> Tensor:
        """x * y for a number; not observed: the grid stretches along."""
        return torch.mul(x, y)

    def cat(self, x: list[Tensor], dim: int = 0) -> Tensor:
        """The tensors one after the other."""
        return self._observed(torch.cat(x, dim=dim))

    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        """max(x + y, 0)."""
        return self._observed(torch.relu(torch.add(x, y)))

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """The matrix product."""
        return self._observed(torch.matmul(x, y))
