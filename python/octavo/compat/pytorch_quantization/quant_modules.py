"""Quantized modules in the place of torch.nn's, for models built afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from octavo.compat.pytorch_quantization import nn as quant_nn

__all__ = ["deactivate", "enable_onnx_export", "initialize"]


class _QuantEntry(NamedTuple):
    orig_mod: Any
    mod_name: str
    replace_mod: Any


_DEFAULT_QUANT_MAP = [
    _QuantEntry(torch.nn, name, getattr(quant_nn, f"Quant{name}"))
    for name in (
        "Conv1d",
        "Conv2d",
        "Conv3d",
        "ConvTranspose1d",
        "ConvTranspose2d",
        "ConvTranspose3d",
        "Linear",
        "LSTM",
        "LSTMCell",
        "AvgPool1d",
        "AvgPool2d",
        "AvgPool3d",
        "AdaptiveAvgPool1d",
        "AdaptiveAvgPool2d",
        "AdaptiveAvgPool3d",
    )
]


class QuantModuleReplacementHelper:
    """Puts quantized modules into torch.nn, and the float ones back.

    Attributes:
        default_quant_map: what is replaced unless the user says otherwise.
        quant_map: what :meth:`apply_quant_modules` replaces.
        orginal_func_map: what :meth:`restore_float_modules` puts back.
    """

    def __init__(self) -> None:
        self.default_quant_map = _DEFAULT_QUANT_MAP
        self.quant_map: set[_QuantEntry] = set()
        self.orginal_func_map: set[_QuantEntry] = set()

    def prepare_state(
        self,
        float_module_list: Sequence[str] | None = None,
        custom_map: Iterable[tuple[Any, str, Any]] | None = None,
    ) -> None:
        """Decides what to replace.

        Args:
            float_module_list: names of the default map that stay as they are.
            custom_map: further ones: (where, name, by what).
        """
        custom = [_QuantEntry(*entry) for entry in custom_map or ()]
        replaced = {(e.orig_mod, e.mod_name) for e in custom}
        default = [
            e
            for e in self.default_quant_map
            if e.mod_name not in (float_module_list or ())
            and (e.orig_mod, e.mod_name) not in replaced
        ]
        self.quant_map = {*default, *custom}
        # What is there now may be a replacement of an earlier call: the first one counts.
        known = {(e.orig_mod, e.mod_name) for e in self.orginal_func_map}
        for entry in self.quant_map:
            if (entry.orig_mod, entry.mod_name) not in known:
                present = getattr(entry.orig_mod, entry.mod_name)
                self.orginal_func_map.add(_QuantEntry(entry.orig_mod, entry.mod_name, present))

    def apply_quant_modules(self) -> None:
        """Replaces."""
        for entry in self.quant_map:
            setattr(entry.orig_mod, entry.mod_name, entry.replace_mod)

    def restore_float_modules(self) -> None:
        """Puts back what was there before the first :meth:`prepare_state`."""
        for entry in self.orginal_func_map:
            setattr(entry.orig_mod, entry.mod_name, entry.replace_mod)
        self.orginal_func_map = set()


_quant_module_helper_object = QuantModuleReplacementHelper()


def initialize(
    float_module_list: Sequence[str] | None = None,
    custom_quant_modules: Iterable[tuple[Any, str, Any]] | None = None,
) -> None:
    """From now on, models that use torch.nn's modules get quantized ones.

    Args:
        float_module_list: names, such as ``"Linear"``, that stay float.
        custom_quant_modules: further ones: (module that holds the class, its name, replacement).
    """
    _quant_module_helper_object.restore_float_modules()
    _quant_module_helper_object.prepare_state(float_module_list, custom_quant_modules)
    _quant_module_helper_object.apply_quant_modules()


def deactivate() -> None:
    """Undoes :func:`initialize`, however often it was called."""
    _quant_module_helper_object.restore_float_modules()


@contextmanager
def enable_onnx_export() -> Iterator[None]:
    """Within it, quantizers check that they are ready before torch.onnx.export runs them."""
    before = quant_nn.TensorQuantizer._enable_onnx_export
    quant_nn.TensorQuantizer._enable_onnx_export = True
    try:
        yield
    finally:
        quant_nn.TensorQuantizer._enable_onnx_export = before
