"""QConfigMapping: which qconfig each module, function and method of a traced model gets."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from octavo.errors import UserError
from octavo.quantization.fake_quantize import (
    default_fixed_qparams_range_0to1_fake_quant,
    default_fixed_qparams_range_neg1to1_fake_quant,
    default_weight_fake_quant,
)
from octavo.quantization.observers import (
    default_fixed_qparams_range_0to1_observer,
    default_fixed_qparams_range_neg1to1_observer,
    default_weight_observer,
)
from octavo.quantization.qconfig import (
    QConfig,
    float_qparams_weight_only_qconfig,
    get_default_qat_qconfig,
    get_default_qconfig,
)

__all__ = [
    "QConfigMapping",
    "get_default_qat_qconfig_mapping",
    "get_default_qconfig_mapping",
]

_TRANSPOSED = (
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.functional.conv_transpose1d,
    nn.functional.conv_transpose2d,
    nn.functional.conv_transpose3d,
)
# Functions whose results lie within known bounds.
_ZERO_TO_ONE = (
    nn.Hardsigmoid,
    nn.functional.hardsigmoid,
    "hardsigmoid",
    "hardsigmoid_",
    nn.Sigmoid,
    torch.sigmoid,
    "sigmoid",
    "sigmoid_",
)
_MINUS_ONE_TO_ONE = (nn.Tanh, torch.tanh, "tanh", "tanh_")


class QConfigMapping:
    """QConfigs by kind, name, pattern of names, and place; each setter gives the mapping back.

    Of several that fit: by place, then by name, by pattern, by kind, then the global one. None
    leaves what it fits in float.

    Attributes:
        global_qconfig: for what nothing else fits.
        object_type_qconfigs: by module type, function, or method name.
        module_name_regex_qconfigs: by regular expression, the first that matches.
        module_name_qconfigs: by the name of a module, or of one that holds it.
        module_name_object_type_order_qconfigs: by name of the holding module, kind, and number.
    """

    def __init__(self) -> None:
        self.global_qconfig: Any = None
        self.object_type_qconfigs: OrderedDict[Any, Any] = OrderedDict()
        self.module_name_regex_qconfigs: OrderedDict[str, Any] = OrderedDict()
        self.module_name_qconfigs: OrderedDict[str, Any] = OrderedDict()
        self.module_name_object_type_order_qconfigs: OrderedDict[tuple[str, Any, int], Any] = (
            OrderedDict()
        )

    def set_global(self, global_qconfig: Any) -> QConfigMapping:
        """For what nothing else fits."""
        self.global_qconfig = global_qconfig
        return self

    def set_object_type(self, object_type: Any, qconfig: Any) -> QConfigMapping:
        """For a module type, a function, or the name of a method."""
        self.object_type_qconfigs[object_type] = qconfig
        return self

    def set_module_name_regex(self, module_name_regex: str, qconfig: Any) -> QConfigMapping:
        """For modules whose whole name the expression matches."""
        self.module_name_regex_qconfigs[module_name_regex] = qconfig
        return self

    def set_module_name(self, module_name: str, qconfig: Any) -> QConfigMapping:
        """For a module and what it holds."""
        self.module_name_qconfigs[module_name] = qconfig
        return self

    def set_module_name_object_type_order(
        self, module_name: str, object_type: Any, index: int, qconfig: Any
    ) -> QConfigMapping:
        """For the call number ``index`` of a kind within a module."""
        self.module_name_object_type_order_qconfigs[module_name, object_type, index] = qconfig
        return self

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`from_dict` takes."""
        return {
            "": self.global_qconfig,
            "object_type": list(self.object_type_qconfigs.items()),
            "module_name_regex": list(self.module_name_regex_qconfigs.items()),
            "module_name": list(self.module_name_qconfigs.items()),
            "module_name_object_type_order": [
                (*key, value) for key, value in self.module_name_object_type_order_qconfigs.items()
            ],
        }

    @classmethod
    def from_dict(cls, qconfig_dict: Mapping[str, Any]) -> QConfigMapping:
        """From ``{"": …, "object_type": [(kind, qconfig), …], "module_name": […], …}``.

        Raises:
            UserError: a key that is none of these.
        """
        made = cls()
        setters: dict[str, Any] = {
            "object_type": made.set_object_type,
            "module_name_regex": made.set_module_name_regex,
            "module_name": made.set_module_name,
            "module_name_object_type_order": made.set_module_name_object_type_order,
        }
        for key, value in qconfig_dict.items():
            if key == "":
                made.set_global(value)
            elif key in setters:
                for entry in value:
                    setters[key](*entry)
            else:
                raise UserError(
                    f"QConfigMapping: {key!r} is not one of '', {', '.join(map(repr, setters))}"
                )
        return made

    def __repr__(self) -> str:
        lines = [f"\n {name}: {value}" for name, value in vars(self).items()]
        return f"QConfigMapping ({''.join(lines)}\n)"

    def find(self, name: str, holder: str, kind: Any, index: int) -> Any:
        """Of a call.

        Args:
            name: of the module that is called; of a function: of the module that calls it.
            holder: the module that makes the call.
            kind: module type, function or method name.
            index: of the call among those of its kind in its holder.
        """
        places = self.module_name_object_type_order_qconfigs
        if (holder, kind, index) in places:
            return places[holder, kind, index]
        path = name
        while path:
            if path in self.module_name_qconfigs:
                return self.module_name_qconfigs[path]
            path = path.rpartition(".")[0]
        for pattern, qconfig in self.module_name_regex_qconfigs.items():
            if re.fullmatch(pattern, name):
                return qconfig
        return self.object_type_qconfigs.get(kind, self.global_qconfig)


def _defaults(qconfig: QConfig, weight: Any, low: Any, high: Any) -> QConfigMapping:
    mapping = QConfigMapping().set_global(qconfig).set_object_type("reshape", qconfig)
    for kind in _TRANSPOSED:
        mapping.set_object_type(kind, QConfig(qconfig.activation, weight))
    for table in (nn.Embedding, nn.EmbeddingBag):
        mapping.set_object_type(table, float_qparams_weight_only_qconfig)
    for kinds, observer in ((_ZERO_TO_ONE, low), (_MINUS_ONE_TO_ONE, high)):
        for fixed in kinds:
            mapping.set_object_type(fixed, QConfig(observer, qconfig.weight))
    return mapping


def get_default_qconfig_mapping(backend: str = "x86", version: int = 0) -> QConfigMapping:
    """Of :func:`get_default_qconfig`; transposed convolutions have weights per tensor."""
    return _defaults(
        get_default_qconfig(backend, version),
        default_weight_observer,
        default_fixed_qparams_range_0to1_observer,
        default_fixed_qparams_range_neg1to1_observer,
    )


def get_default_qat_qconfig_mapping(backend: str = "x86", version: int = 1) -> QConfigMapping:
    """Of :func:`get_default_qat_qconfig`, for training."""
    return _defaults(
        get_default_qat_qconfig(backend, version),
        default_weight_fake_quant,
        default_fixed_qparams_range_0to1_fake_quant,
        default_fixed_qparams_range_neg1to1_fake_quant,
    )
