"""Weights of converted modules: torch's quantized tensors outside, liboctavo's packing inside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from octavo._export.qdq import constants, dequantize, is_exporting
from octavo.errors import UserError
from octavo.quantization.observers import is_per_channel


def quantize_weight(weight: Tensor, observer: Any) -> Tensor:
    """A float weight as qint8, with the parameters of an observer that has seen it.

    Raises:
        UserError: the observer is of another dtype.
    """
    if observer.dtype != torch.qint8:
        raise UserError(f"weights are quantized to qint8, the observer's dtype is {observer.dtype}")
    scale, zero_point = observer.calculate_qparams()
    weight = weight.detach().float()
    if is_per_channel(observer.qscheme):
        return torch.quantize_per_channel(
            weight, scale.double(), zero_point.long(), observer.ch_axis, torch.qint8
        )
    return torch.quantize_per_tensor(weight, float(scale), int(zero_point), torch.qint8)


def observed_weight(module: Any, weight: Tensor) -> Tensor:
    """The quantized weight of a module that has ``weight_fake_quant`` or a qconfig."""
    observer = getattr(module, "weight_fake_quant", None)
    if observer is None:
        observer = module.qconfig.weight()
    observer(weight)
    return quantize_weight(weight, observer)


class PackedModule(nn.Module):
    """A module with a quantized weight, packed at the first call; pickles without the packing."""

    def __init__(self) -> None:
        super().__init__()
        # In lists, since torch.export looks into attributes and takes neither.
        self._quantized: list[Any] = [None]
        self._packed: list[Any] = []
        self._numbers: list[Any] = []  # the same tensors at each call are stored once in a file
        self._bias: Any = None

    @property
    def _weight(self) -> Any:
        return self._quantized[0]

    def set_weight_bias(self, w: Tensor, b: Tensor | None) -> None:
        """Takes a qint8 weight and a float bias."""
        self._quantized = [w]
        self._bias = None if b is None else b.detach()
        self._packed, self._numbers = [], []

    def weight(self) -> Tensor:
        """The weight, a quantized tensor: ``int_repr()``, ``q_scale()``, …."""
        weight: Tensor = self._weight
        return weight

    def _weight_numbers(self) -> tuple[Tensor, Tensor, Tensor, int | None]:
        """Integers, scales, zero points, axis."""
        w = self._weight
        if not is_per_channel(w.qscheme()):
            numbers = torch.tensor(w.q_scale()), torch.tensor(w.q_zero_point())
            return (w.int_repr(), *numbers, None)
        numbers = w.q_per_channel_scales(), w.q_per_channel_zero_points()
        return (w.int_repr(), *numbers, w.q_per_channel_axis())

    def _exported_weight(self) -> Tensor:
        """The weight behind a DequantizeLinear, while torch.onnx exports."""
        with constants():
            numbers = self._weight_numbers()
        return dequantize(*numbers)

    def bias(self) -> Tensor | None:
        """The bias, in float."""
        bias: Tensor | None = self._bias
        return bias

    def _pack(self) -> Any:
        raise NotImplementedError

    def _layer(self) -> Any:
        if not self._packed:
            self._packed.append(self._pack())
        return self._packed[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": [], "_numbers": []}

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not is_exporting():  # the TorchScript engine takes plain tensors only
            self._save(destination, prefix)

    def _save(self, destination: Any, prefix: str) -> None:
        raise NotImplementedError

    def _take(self, state: dict[str, Any], key: str, missing: list[str]) -> Any:
        if key not in state:
            missing.append(key)
            return None
        return state.pop(key)


def scheme_of(weight: Tensor) -> str:
    """What ``print`` shows of a weight's scheme."""
    return f"qscheme={weight.qscheme()}"
