"""QConfig: which observers or fake quantizers a module's activations and weights get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from octavo.errors import UserError
from octavo.quantization.fake_quantize import (
    FakeQuantize,
    FusedMovingAvgObsFakeQuantize,
    default_dynamic_fake_quant,
    default_embedding_fake_quant,
    default_fake_quant,
    default_fused_act_fake_quant,
    default_fused_per_channel_wt_fake_quant,
    default_fused_wt_fake_quant,
    default_per_channel_weight_fake_quant,
    default_weight_fake_quant,
)
from octavo.quantization.observers import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    NoopObserver,
    PlaceholderObserver,
    default_debug_observer,
    default_dynamic_quant_observer,
    default_float_qparams_observer,
    default_observer,
    default_per_channel_weight_observer,
    default_placeholder_observer,
    default_weight_observer,
)

Maker = Callable[..., Any]


class _Pair(NamedTuple):
    activation: Maker
    weight: Maker


class QConfig(_Pair):
    """Makers of a module's observers: classes, or what ``with_args`` gives, not modules."""

    __slots__ = ()

    def __new__(cls, activation: Maker, weight: Maker) -> QConfig:
        """A pair of makers.

        Raises:
            ValueError: an observer that is made already, which modules would share.
        """
        if isinstance(activation, nn.Module) or isinstance(weight, nn.Module):
            raise ValueError(
                "QConfig received observer instance, please pass observer class instead. "
                "Use MyObserver.with_args(x=1) to override arguments to constructor if needed"
            )
        return super().__new__(cls, activation, weight)


default_qconfig = QConfig(default_observer, default_weight_observer)
default_debug_qconfig = QConfig(default_debug_observer, default_weight_observer)
default_per_channel_qconfig = QConfig(default_observer, default_per_channel_weight_observer)
default_dynamic_qconfig = QConfig(default_dynamic_quant_observer, default_weight_observer)
float16_dynamic_qconfig = QConfig(
    PlaceholderObserver.with_args(dtype=torch.float16, is_dynamic=True),
    PlaceholderObserver.with_args(dtype=torch.float16),
)
float16_static_qconfig = QConfig(
    PlaceholderObserver.with_args(dtype=torch.float16),
    PlaceholderObserver.with_args(dtype=torch.float16),
)
per_channel_dynamic_qconfig = QConfig(
    default_dynamic_quant_observer, default_per_channel_weight_observer
)
float_qparams_weight_only_qconfig = QConfig(
    default_placeholder_observer, default_float_qparams_observer
)
default_qat_qconfig = QConfig(default_fake_quant, default_weight_fake_quant)
default_dynamic_qat_qconfig = QConfig(default_dynamic_fake_quant, default_weight_fake_quant)
default_weight_only_qconfig = QConfig(nn.Identity, default_weight_fake_quant)
default_activation_only_qconfig = QConfig(default_fake_quant, nn.Identity)
default_qat_qconfig_v2 = QConfig(default_fused_act_fake_quant, default_fused_wt_fake_quant)
default_embedding_qat_qconfig = QConfig(
    NoopObserver.with_args(dtype=torch.float32), default_embedding_fake_quant
)
default_quint8_weight_qconfig = QConfig(HistogramObserver, MinMaxObserver)

_BACKENDS = ("fbgemm", "x86", "qnnpack", "onednn")


def _check(name: str, backend: str, version: int | None, versions: tuple[int, ...]) -> None:
    if backend not in _BACKENDS:
        raise UserError(f"{name}: backend {backend!r} is not one of {', '.join(_BACKENDS)}")
    if version not in versions:
        raise UserError(f"{name}: version {version} is not one of {versions}")


def get_default_qconfig(backend: str = "x86", version: int = 0) -> QConfig:
    """What torch gives for a backend, except that activations use all 8 bits.

    torch's ``"x86"`` and ``"fbgemm"`` use 7, because its kernels saturate without VNNI; Octavo's
    are exact on every processor.
    """
    _check("get_default_qconfig", backend, version, (0,))
    return QConfig(
        HistogramObserver.with_args(reduce_range=False),
        default_weight_observer if backend == "qnnpack" else default_per_channel_weight_observer,
    )


def get_default_qat_qconfig(backend: str = "x86", version: int = 1) -> QConfig:
    """What torch gives for a backend, for training; activations use all 8 bits."""
    _check("get_default_qat_qconfig", backend, version, (0, 1))
    kind = FusedMovingAvgObsFakeQuantize if version else FakeQuantize
    activation = kind.with_args(
        observer=MovingAverageMinMaxObserver,
        quant_min=0,
        quant_max=255,
        reduce_range=False,
    )
    if backend == "qnnpack":
        weight = default_fused_wt_fake_quant if version else default_weight_fake_quant
    elif version:
        weight = default_fused_per_channel_wt_fake_quant
    else:
        weight = default_per_channel_weight_fake_quant
    return QConfig(activation, weight)
