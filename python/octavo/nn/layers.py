"""Layers of a torch model: what quantizers belong together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from octavo.compat.pytorch_quantization.nn.modules import _utils
from octavo.nn.running import quantizers_of

__all__ = ["Layer", "layers_of", "switched"]


@dataclass(frozen=True)
class Layer:
    """A quantized module, or a quantizer that stands by itself."""

    name: str
    module: torch.nn.Module
    quantizers: tuple[Any, ...]
    names: tuple[str, ...]  # of the quantizers

    @property
    def op(self) -> str:
        """The class's name."""
        return type(self.module).__name__


def layers_of(model: torch.nn.Module) -> list[Layer]:
    """The layers whose quantizers are enabled, in the order of ``named_modules``."""
    groups: dict[str, list[str]] = {}
    quantizers = quantizers_of(model)
    for name in quantizers:
        owner = name.rpartition(".")[0]
        if name.split(".")[-1].isdigit():  # a list of quantizers
            owner = owner.rpartition(".")[0]
        module = model.get_submodule(owner)
        quantized = isinstance(module, _utils.QuantMixin | _utils.QuantInputMixin)
        # What insert_shared puts behind a module is of those that read there: it stands by itself.
        quantized = quantized and not name.endswith("._output_quantizer")
        groups.setdefault(owner if quantized else name, []).append(name)
    return [
        Layer(name, model.get_submodule(name), tuple(quantizers[n] for n in names), tuple(names))
        for name, names in groups.items()
    ]


def switch(layers: Iterable[Layer], on: bool) -> None:
    """Enables or disables all quantizers of the layers."""
    for layer in layers:
        for quantizer in layer.quantizers:
            quantizer._disabled = not on


@contextlib.contextmanager
def switched(layers: Iterable[Layer]) -> Iterator[None]:
    """Quantizers are as before afterwards."""
    before = {q: q._disabled for layer in layers for q in layer.quantizers}
    try:
        yield
    finally:
        for quantizer, disabled in before.items():
            quantizer._disabled = disabled
