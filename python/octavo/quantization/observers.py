"""Observers: modules that watch tensors pass and say which scale and zero point fit them.

The names, arguments, buffers and results are torch.ao.quantization.observer's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from octavo import _core
from octavo.errors import UnsupportedError, UserError

_EPS = torch.finfo(torch.float32).eps
_RANGES = {
    torch.qint8: (-128, 127),
    torch.int8: (-128, 127),
    torch.quint8: (0, 255),
    torch.uint8: (0, 255),
    torch.qint32: (-(2**31), 2**31 - 1),
    torch.int32: (-(2**31), 2**31 - 1),
    torch.int16: (-(2**15), 2**15 - 1),
}
_UNSIGNED = (torch.quint8, torch.uint8)
_SYMMETRIC = (torch.per_tensor_symmetric, torch.per_channel_symmetric)
_PER_CHANNEL = (
    torch.per_channel_affine,
    torch.per_channel_symmetric,
    torch.per_channel_affine_float_qparams,
)


class Constructor:
    """A class with some of its arguments, called once for each module that is prepared."""

    def __init__(self, make: Callable[..., Any], late: dict[str, Callable[[], Any]] | None = None):
        self.make = make
        self.late = late or {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Makes one."""
        for name, value in self.late.items():
            kwargs.setdefault(name, value())
        return self.make(*args, **kwargs)

    def with_args(self, **kwargs: Any) -> Constructor:
        """These arguments too."""
        return Constructor(partial(self.make, **kwargs), self.late)

    def with_callable_args(self, **kwargs: Callable[[], Any]) -> Constructor:
        """Arguments that are computed at each call."""
        return Constructor(self.make, {**self.late, **kwargs})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constructor) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        late = "".join(f", {name}=…" for name in self.late)
        if not isinstance(self.make, partial):
            return f"{self.make.__name__}({late[2:]})"
        words = ", ".join(f"{name}={value}" for name, value in self.make.keywords.items())
        return f"{self.make.func.__name__}({words}{late})"


class WithArgs:
    """Gives a module class ``with_args`` and ``with_callable_args``."""

    @classmethod
    def with_args(cls, **kwargs: Any) -> Constructor:
        """The class with these arguments, to be called without."""
        return Constructor(cls).with_args(**kwargs)

    @classmethod
    def with_callable_args(cls, **kwargs: Callable[[], Any]) -> Constructor:
        """The class with arguments that are computed at each call."""
        return Constructor(cls).with_callable_args(**kwargs)


class ObserverBase(WithArgs, nn.Module):
    """What every observer has: a dtype, ``forward`` and ``calculate_qparams``."""

    def __init__(self, dtype: torch.dtype, is_dynamic: bool = False) -> None:
        super().__init__()
        self.dtype = dtype
        self.is_dynamic = is_dynamic

    def forward(self, x: Tensor) -> Tensor:
        """Looks at a tensor and gives it back."""
        raise NotImplementedError

    def calculate_qparams(self) -> Any:
        """Scale and zero point."""
        raise NotImplementedError


class UniformQuantizationObserverBase(ObserverBase):
    """Observers of a range; the parameters follow from its ends in torch's arithmetic.

    Args:
        dtype: of the integers.
        qscheme: one of the four, or ``per_channel_affine_float_qparams``.
        reduce_range: one bit less.
        quant_min: least integer; with ``quant_max``, instead of the dtype's.
        quant_max: greatest integer.
        eps: least scale; float32's epsilon as torch has it.
        is_dynamic: parameters are chosen anew at each call.
        factory_kwargs: device of the buffers.
    """

    eps: Tensor
    min_val: Tensor
    max_val: Tensor

    def __init__(
        self,
        dtype: torch.dtype = torch.quint8,
        qscheme: torch.qscheme = torch.per_tensor_affine,
        reduce_range: bool = False,
        quant_min: int | None = None,
        quant_max: int | None = None,
        factory_kwargs: dict[str, Any] | None = None,
        eps: float = _EPS,
        is_dynamic: bool = False,
        **_kwargs: Any,
    ) -> None:
        super().__init__(dtype, is_dynamic)
        if dtype not in _RANGES:
            raise UserError(
                f"{type(self).__name__}: dtype {dtype} is not one of "
                + ", ".join(sorted(str(known) for known in _RANGES))
            )
        if (quant_min is None) != (quant_max is None):
            raise UserError(f"{type(self).__name__}: quant_min and quant_max go together")
        self.qscheme = qscheme
        self.reduce_range = reduce_range
        self.has_customized_qrange = quant_min is not None
        least, most = _RANGES[dtype]
        if quant_min is not None and quant_max is not None:
            if not quant_min <= 0 <= quant_max or quant_min == quant_max:
                raise UserError(
                    f"{type(self).__name__}: [{quant_min}, {quant_max}] does not hold 0 and more"
                )
            least, most = quant_min, quant_max
        if reduce_range:
            if qscheme == torch.per_tensor_symmetric and dtype in _UNSIGNED:
                raise UnsupportedError(
                    f"{type(self).__name__}: no reduced range for symmetric unsigned integers"
                )
            least, most = least // 2, most // 2
        self.quant_min, self.quant_max = least, most
        device = (factory_kwargs or {}).get("device")
        self.register_buffer("eps", torch.tensor([eps], dtype=torch.float32, device=device))

    def _calculate_qparams(self, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
        if bool(((least == torch.inf) & (most == -torch.inf)).any()) or least.numel() == 0:
            warnings.warn(
                "must run observer before calling calculate_qparams. "
                "Returning default values for scale and zero point",
                stacklevel=3,
            )
            device = least.device
            return torch.tensor([1.0], device=device), torch.tensor([0], device=device)
        if bool((least > most).any()):
            raise UserError(f"{type(self).__name__}: min {least} is above max {most}")
        span = float(self.quant_max - self.quant_min)
        if self.qscheme == torch.per_channel_affine_float_qparams:
            scale = (most - least) / span
            scale = torch.where(scale > self.eps, scale, torch.ones_like(scale))
            return scale, -least / scale
        least = least.clamp(max=0)
        most = most.clamp(min=0)
        if self.qscheme in _SYMMETRIC:
            scale = torch.maximum(torch.maximum(-least, most) / (span / 2), self.eps)
            middle = 0
            if self.dtype in _UNSIGNED:
                custom = (self.quant_min + self.quant_max) // 2
                middle = custom if self.has_customized_qrange else 128
            zero_point = torch.full(least.size(), middle, dtype=torch.int64, device=least.device)
        else:
            scale = torch.maximum((most - least) / span, self.eps)
            zero_point = self.quant_min - torch.round(least / scale).to(torch.int)
            zero_point = zero_point.clamp(self.quant_min, self.quant_max)
        if least.dim() == 0:  # per tensor: torch gives one element
            return scale.reshape(1), zero_point.reshape(1)
        return scale, zero_point

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point for what was seen."""
        return self._calculate_qparams(self.min_val, self.max_val)

    def reset_min_max_vals(self) -> None:
        """Forgets what was seen."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"min_val={self.min_val}, max_val={self.max_val}"


class MinMaxObserver(UniformQuantizationObserverBase):
    """The least and the greatest value of all tensors seen."""

    _schemes = (torch.per_tensor_affine, torch.per_tensor_symmetric)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.qscheme not in self._schemes:
            raise UnsupportedError(f"{type(self).__name__}: {self.qscheme} is not per tensor")
        device = self.eps.device
        self.register_buffer("min_val", torch.tensor(torch.inf, device=device))
        self.register_buffer("max_val", torch.tensor(-torch.inf, device=device))

    def forward(self, x_orig: Tensor) -> Tensor:
        """Widens the range by a tensor, and gives it back."""
        if x_orig.numel() == 0:
            return x_orig
        x = x_orig.detach().to(self.min_val.dtype)
        least, most = torch.aminmax(x)
        self.min_val.copy_(self._merged(self.min_val, least, torch.minimum))
        self.max_val.copy_(self._merged(self.max_val, most, torch.maximum))
        return x_orig

    def _merged(self, old: Tensor, new: Tensor, wider: Callable[..., Tensor]) -> Tensor:
        return wider(old, new)

    def reset_min_max_vals(self) -> None:
        """Forgets what was seen."""
        self.min_val.fill_(torch.inf)
        self.max_val.fill_(-torch.inf)


class MovingAverageMinMaxObserver(MinMaxObserver):
    """Moving averages of each tensor's least and greatest value."""

    def __init__(self, averaging_constant: float = 0.01, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.averaging_constant = averaging_constant

    def _merged(self, old: Tensor, new: Tensor, wider: Callable[..., Tensor]) -> Tensor:
        if bool(torch.isinf(old)):
            return new
        return old + self.averaging_constant * (new - old)


class PerChannelMinMaxObserver(UniformQuantizationObserverBase):
    """The least and the greatest value of each index of an axis.

    Args:
        ch_axis: the axis.
        args: as of :class:`UniformQuantizationObserverBase`.
        kwargs: as there.
    """

    def __init__(
        self,
        ch_axis: int = 0,
        dtype: torch.dtype = torch.quint8,
        qscheme: torch.qscheme = torch.per_channel_affine,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype, qscheme, *args, **kwargs)
        if self.qscheme not in _PER_CHANNEL:
            raise UnsupportedError(f"{type(self).__name__}: {self.qscheme} is not per channel")
        self.ch_axis = ch_axis
        device = self.eps.device
        self.register_buffer("min_val", torch.tensor([], device=device))
        self.register_buffer("max_val", torch.tensor([], device=device))

    def forward(self, x_orig: Tensor) -> Tensor:
        """Widens the ranges by a tensor, and gives it back."""
        if x_orig.numel() == 0:
            return x_orig
        x = x_orig.detach().to(self.min_val.dtype)
        rows = x.movedim(self.ch_axis, 0).flatten(1) if x.dim() > 1 else x.reshape(-1, 1)
        least, most = torch.aminmax(rows, dim=1)
        if self.min_val.numel() == 0:
            self.min_val.resize_(least.shape).copy_(least)
            self.max_val.resize_(most.shape).copy_(most)
        else:
            self.min_val.copy_(self._merged(self.min_val, least, torch.minimum))
            self.max_val.copy_(self._merged(self.max_val, most, torch.maximum))
        return x_orig

    def _merged(self, old: Tensor, new: Tensor, wider: Callable[..., Tensor]) -> Tensor:
        return wider(old, new)

    def reset_min_max_vals(self) -> None:
        """Forgets what was seen."""
        self.min_val.resize_(0)
        self.max_val.resize_(0)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Ranges have a size only once something was seen.
        for name in ("min_val", "max_val"):
            saved = state_dict.get(prefix + name)
            if saved is not None:
                getattr(self, name).resize_(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class MovingAveragePerChannelMinMaxObserver(PerChannelMinMaxObserver):
    """Moving averages of the least and the greatest value of each index of an axis."""

    def __init__(
        self,
        averaging_constant: float = 0.01,
        ch_axis: int = 0,
        dtype: torch.dtype = torch.quint8,
        qscheme: torch.qscheme = torch.per_channel_affine,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(ch_axis, dtype, qscheme, *args, **kwargs)
        self.averaging_constant = averaging_constant

    def _merged(self, old: Tensor, new: Tensor, wider: Callable[..., Tensor]) -> Tensor:
        return old + self.averaging_constant * (new - old)


class HistogramObserver(UniformQuantizationObserverBase):
    """A histogram of everything seen; the range of it that leaves the least squared error.

    Infinite values are left out, as in torch.

    Args:
        bins: of the histogram.
        args: as of :class:`UniformQuantizationObserverBase`.
        kwargs: as there.
    """

    histogram: Tensor
    upsample_rate = 16  # parts into which an old bin is split before it goes to new bins

    def __init__(self, bins: int = 2048, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.is_dynamic:
            raise UnsupportedError("HistogramObserver: parameters cannot be dynamic")
        if self.qscheme not in MinMaxObserver._schemes:
            raise UnsupportedError(f"HistogramObserver: {self.qscheme} is not per tensor")
        self.bins = bins
        device = self.eps.device
        self.register_buffer("histogram", torch.zeros(bins, device=device))
        self.register_buffer("min_val", torch.tensor(torch.inf, device=device))
        self.register_buffer("max_val", torch.tensor(-torch.inf, device=device))

    def forward(self, x_orig: Tensor) -> Tensor:
        """Counts a tensor in, and gives it back."""
        x = x_orig.detach().float()
        if x.numel() == 0:
            return x_orig
        least, most = torch.aminmax(x)
        if bool(torch.isinf(least)) or bool(torch.isinf(most)):
            warnings.warn("torch.inf detected in input tensor, ignoring input", stacklevel=2)
            x = x[~torch.isinf(x)]
            if x.numel() == 0:
                return x_orig
            least, most = torch.aminmax(x)
        if bool(torch.isinf(self.min_val)):
            counts = torch.zeros_like(self.histogram)
            old_least, old_most = least, most
        else:
            counts = self.histogram
            old_least, old_most = self.min_val.clone(), self.max_val.clone()
        new_least = torch.minimum(old_least, least)
        new_most = torch.maximum(old_most, most)
        if bool(new_least != old_least) or bool(new_most != old_most):
            counts = self._spread(counts, old_least, old_most, new_least, new_most)
        new = torch.histc(x, self.bins, min=new_least.item(), max=new_most.item())
        self.histogram.copy_(counts + new)
        self.min_val.copy_(new_least)
        self.max_val.copy_(new_most)
        return x_orig

    def _spread(
        self, counts: Tensor, old_least: Tensor, old_most: Tensor, least: Tensor, most: Tensor
    ) -> Tensor:
        """The old counts in bins of the new range."""
        bounds = (least.item(), most.item())
        if bool(old_least == old_most):
            where = torch.histc(old_least.reshape(1), self.bins, min=bounds[0], max=bounds[1])
            return where * counts.sum()
        parts = self.bins * self.upsample_rate
        fine = counts.repeat_interleave(self.upsample_rate) / self.upsample_rate
        starts = torch.linspace(old_least.item(), old_most.item(), parts + 1)[:-1]
        middles = starts + 0.5 * ((old_most - old_least) / parts)
        edges = torch.linspace(bounds[0], bounds[1], self.bins + 1)
        bins = torch.bucketize(middles, edges, right=True) - 1
        return torch.bincount(bins.clamp(0, self.bins - 1), fine, self.bins)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point of the range with the least squared error."""
        if bool(torch.isinf(self.min_val)):
            return self._calculate_qparams(self.min_val, self.max_val)
        first, last = _core.least_norm_range(
            self.histogram.cpu().numpy(),
            torch.cumsum(self.histogram, 0).cpu().numpy(),
            self.histogram.sum().item(),
            self.min_val.item(),
            self.max_val.item(),
            256,
        )
        width = (self.max_val - self.min_val) / self.bins
        least = self.min_val + width * first
        return self._calculate_qparams(least, self.min_val + width * (last + 1))

    def reset_min_max_vals(self) -> None:
        """Forgets what was seen."""
        self.histogram.zero_()
        self.min_val.fill_(torch.inf)
        self.max_val.fill_(-torch.inf)


class FixedQParamsObserver(ObserverBase):
    """Parameters that are given, for functions of a known range."""

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        scale: float,
        zero_point: int,
        dtype: torch.dtype = torch.quint8,
        qscheme: torch.qscheme = torch.per_tensor_affine,
        quant_min: int = 0,
        quant_max: int = 255,
        is_dynamic: bool = False,
    ) -> None:
        super().__init__(dtype, is_dynamic)
        self.qscheme = qscheme
        self.quant_min, self.quant_max = quant_min, quant_max
        self.register_buffer("scale", torch.tensor([scale]))
        self.register_buffer("zero_point", torch.tensor([zero_point], dtype=torch.int))

    def forward(self, x: Tensor) -> Tensor:
        """Gives the tensor back."""
        return x

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """The parameters that were given."""
        return self.scale, self.zero_point


class PlaceholderObserver(ObserverBase):
    """Observes nothing: says the dtype that ``convert`` shall use."""

    def __init__(
        self,
        dtype: torch.dtype = torch.float32,
        custom_op_name: str = "",
        compute_dtype: torch.dtype | None = None,
        quant_min: int | None = None,
        quant_max: int | None = None,
        qscheme: torch.qscheme | None = None,
        eps: float | None = None,
        is_dynamic: bool = False,
    ) -> None:
        super().__init__(dtype, is_dynamic or compute_dtype is not None)
        self.qscheme = torch.per_tensor_affine if qscheme is None else qscheme
        self.quant_min, self.quant_max, self.eps = quant_min, quant_max, eps
        self.custom_op = custom_op_name

    def forward(self, x: Tensor) -> Tensor:
        """Gives the tensor back."""
        return x

    def calculate_qparams(self) -> Any:
        """A placeholder has none.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("calculate_qparams should not be called for PlaceholderObserver")

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"dtype={self.dtype}, is_dynamic={self.is_dynamic}"


class NoopObserver(ObserverBase):
    """Does nothing, for modules that stay in float or become float16."""

    def __init__(self, dtype: torch.dtype = torch.float16, custom_op_name: str = "") -> None:
        super().__init__(dtype)
        self.custom_op = custom_op_name

    def forward(self, x: Tensor) -> Tensor:
        """Gives the tensor back."""
        return x

    def calculate_qparams(self) -> Any:
        """There are none.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("calculate_qparams should not be called for NoopObserver")


class RecordingObserver(ObserverBase):
    """Keeps every tensor, for looking at; memory grows with what passes."""

    def __init__(self, dtype: torch.dtype = torch.quint8) -> None:
        super().__init__(dtype)
        self.tensor_val: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Keeps a copy, and gives the tensor back."""
        self.tensor_val.append(x.clone())
        return x

    def calculate_qparams(self) -> Any:
        """There are none.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("calculate_qparams should not be called for RecordingObserver")

    def get_tensor_value(self) -> list[Tensor]:
        """All that was seen."""
        return self.tensor_val


def is_per_channel(qscheme: torch.qscheme) -> bool:
    """Whether a scheme has parameters for each channel."""
    return qscheme in _PER_CHANNEL


default_observer = MinMaxObserver.with_args(quant_min=0, quant_max=127)
default_placeholder_observer = PlaceholderObserver
default_debug_observer = RecordingObserver
default_weight_observer = MinMaxObserver.with_args(
    dtype=torch.qint8, qscheme=torch.per_tensor_symmetric
)
weight_observer_range_neg_127_to_127 = MinMaxObserver.with_args(
    dtype=torch.qint8,
    qscheme=torch.per_tensor_symmetric,
    quant_min=-127,
    quant_max=127,
    eps=2**-12,
)
default_histogram_observer = HistogramObserver.with_args(quant_min=0, quant_max=127)
default_per_channel_weight_observer = PerChannelMinMaxObserver.with_args(
    dtype=torch.qint8, qscheme=torch.per_channel_symmetric
)
per_channel_weight_observer_range_neg_127_to_127 = PerChannelMinMaxObserver.with_args(
    dtype=torch.qint8,
    qscheme=torch.per_channel_symmetric,
    quant_min=-127,
    quant_max=127,
    eps=2**-12,
)
default_dynamic_quant_observer = PlaceholderObserver.with_args(
    dtype=torch.quint8, quant_min=0, quant_max=255, is_dynamic=True
)
default_float_qparams_observer = PerChannelMinMaxObserver.with_args(
    dtype=torch.quint8, qscheme=torch.per_channel_affine_float_qparams, ch_axis=0
)
default_fixed_qparams_range_neg1to1_observer = FixedQParamsObserver.with_args(
    scale=2.0 / 256.0, zero_point=128
)
default_fixed_qparams_range_0to1_observer = FixedQParamsObserver.with_args(
    scale=1.0 / 256.0, zero_point=0
)
