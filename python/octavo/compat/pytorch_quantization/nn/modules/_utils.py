"""What quantized modules share."""

from __future__ import annotations

import copy
import inspect
import sys
from typing import Any

import torch

from octavo.compat.pytorch_quantization.nn.modules.tensor_quantizer import TensorQuantizer
from octavo.compat.pytorch_quantization.tensor_quant import (
    QUANT_DESC_8BIT_PER_TENSOR,
    QuantDescriptor,
)


def _copied(value: Any) -> QuantDescriptor:
    if not isinstance(value, QuantDescriptor):
        raise ValueError(f"{value} is not an instance of QuantDescriptor!")
    return copy.deepcopy(value)


def _check_fake(*descriptors: QuantDescriptor) -> None:
    if not all(d.fake_quant for d in descriptors):
        raise ValueError("Only fake quantization is supported!")


def _check_caller() -> None:
    if sys._getframe(2).f_code.co_name != "__init__":
        raise TypeError(f"{__name__} should be only called by __init__ of quantized module.")


def as_class(cls: Any, module: torch.nn.Module) -> Any:
    """The same module as an instance of a subclass, without its ``__init__``.

    Parameters, buffers, hooks and settings are the very objects of ``module``; only the table of
    submodules is a copy.
    """
    result = cls.__new__(cls)
    result.__dict__.update(module.__dict__)
    result.__dict__["_modules"] = dict(module._modules)
    return result


def _to_device_of(source: torch.nn.Module, module: torch.nn.Module) -> torch.nn.Module:
    for tensor in (*source.parameters(), *source.buffers()):
        return module.to(tensor.device)
    return module


class QuantMixin:
    """For modules whose input and weight are quantized."""

    default_quant_desc_input = QUANT_DESC_8BIT_PER_TENSOR
    default_quant_desc_weight = QUANT_DESC_8BIT_PER_TENSOR

    @classmethod
    def set_default_quant_desc_input(cls, value: QuantDescriptor) -> None:
        """For modules of this class built from now on."""
        cls.default_quant_desc_input = _copied(value)

    @classmethod
    def set_default_quant_desc_weight(cls, value: QuantDescriptor) -> None:
        """For modules of this class built from now on."""
        cls.default_quant_desc_weight = _copied(value)

    def init_quantizer(
        self,
        quant_desc_input: QuantDescriptor,
        quant_desc_weight: QuantDescriptor,
        num_layers: int | None = None,
    ) -> None:
        """Makes the quantizers; called by ``__init__`` only.

        Args:
            quant_desc_input: of the input.
            quant_desc_weight: of the weight.
            num_layers: if given, lists of so many.

        Raises:
            TypeError: called from elsewhere.
            ValueError: a descriptor of real quantization.
        """
        _check_caller()
        self._add_quantizers(quant_desc_input, quant_desc_weight, num_layers)

    @classmethod
    def from_float(cls, module: torch.nn.Module, **kwargs: Any) -> Any:
        """A float module as this class, which inherits from its class.

        Args:
            module: stays as it is; parameters, buffers and hooks are shared with it.
            kwargs: ``quant_desc_input``, ``quant_desc_weight``.
        """
        of_input, of_weight = pop_quant_desc_in_kwargs(cls, **kwargs)
        layers = None
        if isinstance(module, torch.nn.RNNBase):
            layers = module.num_layers * (1 + module.bidirectional)
        result = as_class(cls, module)
        result._add_quantizers(of_input, of_weight, layers)
        return _to_device_of(module, result)

    def _add_quantizers(
        self,
        quant_desc_input: QuantDescriptor,
        quant_desc_weight: QuantDescriptor,
        num_layers: int | None,
    ) -> None:
        _check_fake(quant_desc_input, quant_desc_weight)
        self._fake_quant = True
        if num_layers is None:
            self._input_quantizer = TensorQuantizer(quant_desc_input)
            self._weight_quantizer = TensorQuantizer(quant_desc_weight)
        else:
            self._input_quantizers = torch.nn.ModuleList(
                TensorQuantizer(quant_desc_input) for _ in range(num_layers)
            )
            self._weight_quantizers = torch.nn.ModuleList(
                TensorQuantizer(quant_desc_weight) for _ in range(num_layers)
            )

    @property
    def input_quantizer(self) -> TensorQuantizer:
        """Of the input."""
        return self._input_quantizer

    @property
    def weight_quantizer(self) -> TensorQuantizer:
        """Of the weight."""
        return self._weight_quantizer


class QuantInputMixin:
    """For modules whose input alone is quantized."""

    default_quant_desc_input = QUANT_DESC_8BIT_PER_TENSOR

    @classmethod
    def set_default_quant_desc_input(cls, value: QuantDescriptor) -> None:
        """For modules of this class built from now on."""
        cls.default_quant_desc_input = _copied(value)

    def init_quantizer(self, quant_desc_input: QuantDescriptor) -> None:
        """Makes the quantizer; called by ``__init__`` only.

        Raises:
            TypeError: called from elsewhere.
            ValueError: a descriptor of real quantization.
        """
        _check_caller()
        self._add_quantizers(quant_desc_input)

    @classmethod
    def from_float(cls, module: torch.nn.Module, **kwargs: Any) -> Any:
        """A float module as this class, which inherits from its class.

        Args:
            module: stays as it is; parameters, buffers and hooks are shared with it.
            kwargs: ``quant_desc_input``.
        """
        result = as_class(cls, module)
        result._add_quantizers(pop_quant_desc_in_kwargs(cls, input_only=True, **kwargs))
        return _to_device_of(module, result)

    def _add_quantizers(self, quant_desc_input: QuantDescriptor) -> None:
        _check_fake(quant_desc_input)
        self._fake_quant = True
        self._input_quantizer = TensorQuantizer(quant_desc_input)

    @property
    def input_quantizer(self) -> TensorQuantizer:
        """Of the input."""
        return self._input_quantizer


def pop_quant_desc_in_kwargs(quant_cls: Any, input_only: bool = False, **kwargs: Any) -> Any:
    """The descriptors among keyword arguments, the class's defaults where there is none.

    Args:
        quant_cls: has the defaults.
        input_only: whether there is no weight.
        kwargs: ``quant_desc_input``, ``quant_desc_weight``.

    Returns:
        The input's, or both.

    Raises:
        TypeError: another keyword.
    """
    quant_desc_input = kwargs.pop("quant_desc_input", quant_cls.default_quant_desc_input)
    if not input_only:
        quant_desc_weight = kwargs.pop("quant_desc_weight", quant_cls.default_quant_desc_weight)
    if kwargs:
        raise TypeError(f"Unused keys: {kwargs.keys()}")
    return quant_desc_input if input_only else (quant_desc_input, quant_desc_weight)


def take_own(float_class: type, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Moves the keywords that the float module's ``__init__`` knows out of ``kwargs``."""
    names = inspect.signature(float_class.__init__).parameters  # type: ignore[misc]
    return {name: kwargs.pop(name) for name in list(kwargs) if name in names}
