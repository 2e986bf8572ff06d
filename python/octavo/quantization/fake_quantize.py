"""Fake quantization for training: torch.ao.quantization.fake_quantize's names and results."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from octavo._export.qdq import INTEGERS, is_exporting, quantize_dequantize
from octavo.errors import UnsupportedError, UserError
from octavo.quantization._ops import ops
from octavo.quantization.observers import (
    FixedQParamsObserver,
    HistogramObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    WithArgs,
    default_fixed_qparams_range_0to1_observer,
    default_fixed_qparams_range_neg1to1_observer,
    is_per_channel,
)


class FakeQuantizeBase(WithArgs, nn.Module):
    """The two switches, kept in buffers so that they are saved and can differ by module."""

    fake_quant_enabled: Tensor
    observer_enabled: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fake_quant_enabled", torch.tensor([1], dtype=torch.uint8))
        self.register_buffer("observer_enabled", torch.tensor([1], dtype=torch.uint8))
        self._enabled = True  # as fake_quant_enabled, whose value torch.export does not show

    def calculate_qparams(self) -> Any:
        """Scale and zero point."""
        raise NotImplementedError

    def enable_fake_quant(self, enabled: bool = True) -> None:
        """Quantize what passes."""
        self.fake_quant_enabled[0] = int(enabled)
        self._enabled = bool(enabled)

    def disable_fake_quant(self) -> None:
        """Let pass unchanged."""
        self.enable_fake_quant(False)

    def enable_observer(self, enabled: bool = True) -> None:
        """Update the range from what passes."""
        self.observer_enabled[0] = int(enabled)

    def disable_observer(self) -> None:
        """Keep the range."""
        self.enable_observer(False)


def _scheme(least: int, most: int) -> tuple[int, bool, bool] | None:
    """Bits, sign and narrow range of integers between these bounds."""
    bits = (most + 1).bit_length() - 1
    if most + 1 != 2**bits:
        return None
    if least == 0:
        found = bits, False, False
    elif least in (-most - 1, -most):
        found = bits + 1, True, least == -most
    else:
        return None
    return found if 2 <= found[0] <= 16 else None


class FakeQuantize(FakeQuantizeBase):
    """Observes, then rounds to the integers' grid; straight-through gradient inside the range.

    Args:
        observer: makes the observer.
        quant_min: least integer; None: the dtype's.
        quant_max: greatest integer.
        is_dynamic: parameters are those of the last tensor.
        observer_kwargs: what else the observer takes.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        observer: Any = MovingAverageMinMaxObserver,
        quant_min: int | None = None,
        quant_max: int | None = None,
        is_dynamic: bool = False,
        **observer_kwargs: Any,
    ) -> None:
        super().__init__()
        if is_dynamic:
            observer_kwargs["is_dynamic"] = True
        if quant_min is not None and quant_max is not None:
            if quant_min > quant_max:
                raise UserError(f"FakeQuantize: quant_min {quant_min} is above {quant_max}")
            observer_kwargs.update(quant_min=quant_min, quant_max=quant_max)
        self.is_dynamic = is_dynamic
        self.activation_post_process = observer(**observer_kwargs)
        self.quant_min: int = self.activation_post_process.quant_min
        self.quant_max: int = self.activation_post_process.quant_max
        self.dtype: torch.dtype = self.activation_post_process.dtype
        self.qscheme: torch.qscheme = self.activation_post_process.qscheme
        self.ch_axis: int = getattr(self.activation_post_process, "ch_axis", -1)
        self.is_per_channel = is_per_channel(self.qscheme)
        whole = torch.float if self.qscheme == torch.per_channel_affine_float_qparams else torch.int
        # float zero points, and bounds that are no number of bits, are torch's.
        self._integers = None if whole is torch.float else _scheme(self.quant_min, self.quant_max)
        device = self.fake_quant_enabled.device
        self.register_buffer("scale", torch.tensor([1.0], device=device))
        self.register_buffer("zero_point", torch.tensor([0], dtype=whole, device=device))

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """The observer's scale and zero point."""
        scale, zero_point = self.activation_post_process.calculate_qparams()
        return scale, zero_point

    def forward(self, x: Tensor) -> Tensor:
        """Observes and quantizes, as far as each is enabled; torch.onnx.export is not observed."""
        if is_exporting():
            return self._exported(x)
        if self.observer_enabled[0] == 1:
            self.activation_post_process(x.detach())
            scale, zero_point = self.calculate_qparams()
            if self.scale.shape != scale.shape:
                self.scale.resize_(scale.shape)
                self.zero_point.resize_(zero_point.shape)
            self.scale.copy_(scale)
            self.zero_point.copy_(zero_point)
        if self.fake_quant_enabled[0] == 1:
            if self._integers is not None:
                axis = self.ch_axis if self.is_per_channel else 0
                y: Tensor = ops.fake_quantize(
                    x, self.scale, self.zero_point, axis, 0, *self._integers, "torch"
                )
                return y
            if self.is_per_channel:
                return torch.fake_quantize_per_channel_affine(
                    x, self.scale, self.zero_point, self.ch_axis, self.quant_min, self.quant_max
                )
            return torch.fake_quantize_per_tensor_affine(
                x, self.scale, self.zero_point, self.quant_min, self.quant_max
            )
        return x

    def _exported(self, x: Tensor) -> Tensor:
        if not self._enabled:
            return x
        if self.is_dynamic or self.dtype not in INTEGERS or self.zero_point.is_floating_point():
            raise UnsupportedError(
                f"torch.onnx.export: a FakeQuantize of {self.dtype}, {self.qscheme}"
                f"{', dynamic' if self.is_dynamic else ''}"
            )
        dtype = INTEGERS[self.dtype]
        axis = self.ch_axis if self.is_per_channel else None
        limits = torch.iinfo(dtype)
        shape = [1] * x.dim()
        if axis is not None:
            shape[axis] = -1
        # ONNX saturates at the type's ends.
        if self.quant_min > limits.min:
            least = (self.quant_min - self.zero_point) * self.scale
            x = torch.maximum(x, least.reshape(shape))
        if self.quant_max < limits.max:
            most = (self.quant_max - self.zero_point) * self.scale
            x = torch.minimum(x, most.reshape(shape))
        return quantize_dequantize(x, self.scale, self.zero_point, axis, dtype)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return (
            f"fake_quant_enabled={self.fake_quant_enabled}, "
            f"observer_enabled={self.observer_enabled}, quant_min={self.quant_min}, "
            f"quant_max={self.quant_max}, dtype={self.dtype}, qscheme={self.qscheme}, "
            f"ch_axis={self.ch_axis}, scale={self.scale}, zero_point={self.zero_point}"
        )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Per-channel parameters have their size only once something was seen.
        for name in ("scale", "zero_point"):
            saved = state_dict.get(prefix + name)
            if saved is not None:
                getattr(self, name).resize_(saved.shape)
        enabled = state_dict.get(prefix + "fake_quant_enabled")
        if enabled is not None:
            self._enabled = bool(enabled[0] == 1)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class FusedMovingAvgObsFakeQuantize(FakeQuantize):
    """:class:`FakeQuantize` over a moving average.

    torch's fused operator rounds parameters by another formula than its own observer; here
    training and ``convert`` use the observer's.
    """


class FixedQParamsFakeQuantize(FakeQuantize):
    """Parameters that are given and never change."""

    def __init__(self, observer: Any) -> None:
        super().__init__(observer=observer)
        if not isinstance(self.activation_post_process, FixedQParamsObserver):
            raise UserError("FixedQParamsFakeQuantize: takes a FixedQParamsObserver")
        self.scale = self.activation_post_process.scale
        self.zero_point = self.activation_post_process.zero_point
        self.disable_observer()


def disable_fake_quant(module: nn.Module) -> None:
    """For ``model.apply``: lets everything pass unchanged."""
    if isinstance(module, FakeQuantizeBase):
        module.disable_fake_quant()


def enable_fake_quant(module: nn.Module) -> None:
    """For ``model.apply``: quantizes."""
    if isinstance(module, FakeQuantizeBase):
        module.enable_fake_quant()


def disable_observer(module: nn.Module) -> None:
    """For ``model.apply``: keeps ranges as they are."""
    if isinstance(module, FakeQuantizeBase):
        module.disable_observer()


def enable_observer(module: nn.Module) -> None:
    """For ``model.apply``: updates ranges."""
    if isinstance(module, FakeQuantizeBase):
        module.enable_observer()


default_fake_quant = FakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver,
    quant_min=0,
    quant_max=255,
    dtype=torch.quint8,
    qscheme=torch.per_tensor_affine,
    reduce_range=True,
)
default_weight_fake_quant = FakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver,
    quant_min=-128,
    quant_max=127,
    dtype=torch.qint8,
    qscheme=torch.per_tensor_symmetric,
    reduce_range=False,
)
default_dynamic_fake_quant = FakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver,
    quant_min=0,
    quant_max=255,
    is_dynamic=True,
    dtype=torch.quint8,
    averaging_constant=1,
)
default_per_channel_weight_fake_quant = FakeQuantize.with_args(
    observer=MovingAveragePerChannelMinMaxObserver,
    quant_min=-128,
    quant_max=127,
    dtype=torch.qint8,
    qscheme=torch.per_channel_symmetric,
    reduce_range=False,
    ch_axis=0,
)
default_embedding_fake_quant = FakeQuantize.with_args(
    observer=MovingAveragePerChannelMinMaxObserver,
    qscheme=torch.per_channel_affine_float_qparams,
    dtype=torch.quint8,
    quant_min=0,
    quant_max=255,
    ch_axis=0,
    averaging_constant=1,
)
default_histogram_fake_quant = FakeQuantize.with_args(
    observer=HistogramObserver,
    quant_min=0,
    quant_max=255,
    dtype=torch.quint8,
    qscheme=torch.per_tensor_affine,
    reduce_range=True,
)
default_fixed_qparams_range_neg1to1_fake_quant = FixedQParamsFakeQuantize.with_args(
    observer=default_fixed_qparams_range_neg1to1_observer
)
default_fixed_qparams_range_0to1_fake_quant = FixedQParamsFakeQuantize.with_args(
    observer=default_fixed_qparams_range_0to1_observer
)
default_fused_act_fake_quant = FusedMovingAvgObsFakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver, quant_min=0, quant_max=255, dtype=torch.quint8
)
default_fused_wt_fake_quant = FusedMovingAvgObsFakeQuantize.with_args(
    observer=MovingAverageMinMaxObserver,
    quant_min=-128,
    quant_max=127,
    dtype=torch.qint8,
    qscheme=torch.per_tensor_symmetric,
)
default_fused_per_channel_wt_fake_quant = FusedMovingAvgObsFakeQuantize.with_args(
    observer=MovingAveragePerChannelMinMaxObserver,
    quant_min=-128,
    quant_max=127,
    dtype=torch.qint8,
    qscheme=torch.per_channel_symmetric,
)
