"""Settings of FX graph mode beside the qconfigs."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["ConvertCustomConfig", "FuseCustomConfig", "PrepareCustomConfig"]


class FuseCustomConfig:
    """Attributes of the model that the traced one keeps."""

    def __init__(self) -> None:
        self.preserved_attributes: list[str] = []

    def set_preserved_attributes(self, attributes: list[str]) -> Any:
        """Names of attributes."""
        self.preserved_attributes = list(attributes)
        return self


class PrepareCustomConfig(FuseCustomConfig):
    """What is not traced, and which inputs and outputs are quantized tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.non_traceable_module_names: list[str] = []
        self.non_traceable_module_classes: list[type[nn.Module]] = []
        self.input_quantized_indexes: list[int] = []
        self.output_quantized_indexes: list[int] = []

    def set_non_traceable_module_names(self, module_names: list[str]) -> PrepareCustomConfig:
        """Modules that stay as they are, in float."""
        self.non_traceable_module_names = list(module_names)
        return self

    def set_non_traceable_module_classes(
        self, module_classes: list[type[nn.Module]]
    ) -> PrepareCustomConfig:
        """Kinds of modules that stay as they are, in float."""
        self.non_traceable_module_classes = list(module_classes)
        return self

    def set_input_quantized_indexes(self, indexes: list[int]) -> PrepareCustomConfig:
        """Inputs of the converted model that are quantized already."""
        self.input_quantized_indexes = list(indexes)
        return self

    def set_output_quantized_indexes(self, indexes: list[int]) -> PrepareCustomConfig:
        """Outputs of the converted model that stay quantized."""
        self.output_quantized_indexes = list(indexes)
        return self


class ConvertCustomConfig(FuseCustomConfig):
    """Attributes of the prepared model that the converted one keeps."""
