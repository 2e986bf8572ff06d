"""The quantizer of one tensor: calibrates, clips, quantizes."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch

from octavo.compat.pytorch_quantization import calib
from octavo.compat.pytorch_quantization._logging import log_once, logger
from octavo.compat.pytorch_quantization.nn.modules.clip import Clip
from octavo.compat.pytorch_quantization.tensor_quant import (
    QuantDescriptor,
    fake_tensor_quant,
    scaled_e4m3,
    tensor_quant,
)
from octavo.compat.pytorch_quantization.utils import reduce_amax

__all__ = ["TensorQuantizer"]

_BUFFERS = ("_amax", "_pre_quant_scale")  # there after calibration, a setter or a state dict


class TensorQuantizer(torch.nn.Module):
    """Quantizes a tensor as a descriptor says.

    The stages, each with a switch: calibrate (look only), clip (the range is learned), quantize.
    Without an amax the range of each input is taken.

    Args:
        quant_desc: how.
        disabled: whether the input passes as it is.
        if_quant: whether to quantize.
        if_clip: whether to clip; needs a descriptor with ``learn_amax``.
        if_calib: whether to calibrate.
    """

    use_fb_fake_quant = False  # 2.1's export switch: torch's own fake quantization
    _enable_onnx_export = False  # 2.2's

    def __init__(
        self,
        quant_desc: QuantDescriptor | None = None,
        disabled: bool = False,
        if_quant: bool = True,
        if_clip: bool = False,
        if_calib: bool = False,
    ) -> None:
        super().__init__()
        desc = QuantDescriptor() if quant_desc is None else quant_desc
        self._num_bits = desc.num_bits
        self._fake_quant = desc.fake_quant
        self._axis = desc.axis
        self._scale_amax = desc.scale_amax
        self._learn_amax = desc.learn_amax
        self._unsigned = desc.unsigned
        self._narrow_range = desc.narrow_range
        self._scale: Any = None if not desc.fake_quant else 1.0
        self._disabled = disabled
        self._if_quant = if_quant
        self._if_clip = False
        self._if_calib = if_calib
        if desc.amax is not None:
            self.register_buffer("_amax", torch.tensor(desc.amax))
        if self._learn_amax:
            init = 1.0 if desc.amax is None else desc.amax
            self.clip = Clip(-init, init, learn_min=True, learn_max=True)
            self.enable_clip()
        if if_clip:
            self.enable_clip()
        self._calibrator: Any = None
        if desc.calib_method == "histogram":
            self._calibrator = calib.HistogramCalibrator(self._num_bits, self._axis, self._unsigned)
        elif desc.calib_method == "max":
            self._calibrator = calib.MaxCalibrator(self._num_bits, self._axis, self._unsigned)

    # ---- properties

    @property
    def num_bits(self) -> Any:
        """An integer, or (4, 3)."""
        return self._num_bits

    @num_bits.setter
    def num_bits(self, value: Any) -> None:
        self._num_bits = value

    @property
    def maxbound(self) -> float:
        """The greatest quantized value."""
        if self._num_bits == (4, 3):
            return 448.0
        return int((1 << (self._num_bits - 1 + int(self._unsigned))) - 1)

    @property
    def unsigned(self) -> bool:
        """Whether the integers have no sign."""
        return bool(self._unsigned)

    @unsigned.setter
    def unsigned(self, value: bool) -> None:
        self._unsigned = value

    @property
    def narrow_range(self) -> bool:
        """Whether the lowest integer is left out."""
        return bool(self._narrow_range)

    @narrow_range.setter
    def narrow_range(self, value: bool) -> None:
        self._narrow_range = value

    @property
    def scale(self) -> Any:
        """Of real quantization: what the integers are to be divided by, once there were some."""
        if self._fake_quant:
            logger.error("Fake quantize mode doesn't use scale explicitly!")
        if self._scale is None:
            logger.critical("Accessing scale before quantizing any tensor!")
        return self._scale

    @property
    def step_size(self) -> torch.Tensor | None:
        """The distance of two quantized values; None without an amax."""
        amax = self.amax
        if amax is None:
            logger.error("step_size is undefined under dynamic amax mode!")
            return None
        return amax / self.maxbound

    @property
    def axis(self) -> Any:
        """What has a scale of its own."""
        return self._axis

    @property
    def fake_quant(self) -> bool:
        """Whether quantized values go back to float."""
        return bool(self._fake_quant)

    @property
    def amax(self) -> torch.Tensor | None:
        """The absolute maximum; None: of each input."""
        return self._buffers.get("_amax")

    @amax.setter
    def amax(self, value: Any) -> None:
        self._set_buffer("_amax", value)

    @property
    def pre_quant_scale(self) -> torch.Tensor | None:
        """What inputs are multiplied by first (SmoothQuant); None: nothing."""
        return self._buffers.get("_pre_quant_scale")

    @pre_quant_scale.setter
    def pre_quant_scale(self, value: Any) -> None:
        self._set_buffer("_pre_quant_scale", value)

    def _set_buffer(self, name: str, value: Any) -> None:
        if value is None:
            logger.error("Setting %s to None is meaningless.", name[1:])
            return
        tensor = torch.as_tensor(value).detach().clone()
        present = self._buffers.get(name)
        if present is None:
            self.register_buffer(name, tensor)
        elif present.shape != tensor.shape:
            raise RuntimeError(f"Changing shape when setting {name[1:]} is not allowed.")
        else:
            present.data.copy_(tensor)

    # ---- switches

    def disable(self) -> None:
        """The input passes as it is."""
        self._disabled = True

    def enable(self) -> None:
        """Undoes :meth:`disable`."""
        self._disabled = False

    def _learn_clip(self, on: bool) -> None:
        self.clip.clip_value_min.requires_grad = on
        self.clip.clip_value_max.requires_grad = on
        self._if_clip = on

    def disable_clip(self) -> None:
        """The range is no longer learned."""
        self._learn_clip(False)

    def enable_clip(self) -> None:
        """The range is learned.

        Raises:
            ValueError: the descriptor has no ``learn_amax``.
        """
        if not self._learn_amax:
            raise ValueError("learn_amax is False. Cannot enable clip.")
        self._learn_clip(True)

    def disable_calib(self) -> None:
        """Inputs are not looked at any more."""
        self._if_calib = False

    def enable_calib(self) -> None:
        """The calibrator looks at each input.

        Raises:
            ValueError: there is none.
        """
        if self._calibrator is None:
            raise ValueError("Calibrator was not created, cannot enable calibration.")
        self._if_calib = True

    def disable_quant(self) -> None:
        """Inputs are not quantized."""
        self._if_quant = False

    def enable_quant(self) -> None:
        """Inputs are quantized."""
        self._if_quant = True

    # ---- calibration

    def load_calib_amax(self, *args: Any, **kwargs: Any) -> None:
        """Takes the calibrator's amax.

        Args:
            args: for the calibrator's ``compute_amax``.
            kwargs: likewise; but ``strict=False`` sets amax to NaN where nothing was collected.

        Raises:
            RuntimeError: nothing was collected; there is no calibrator; another shape than now.
        """
        strict = kwargs.pop("strict", True)
        if self._calibrator is None:
            raise RuntimeError("Calibrator not created.")
        amax = self._calibrator.compute_amax(*args, **kwargs)
        if amax is None:
            message = (
                "Calibrator returned None. "
                "This usually happens when calibrator hasn't seen any tensor."
            )
            if strict:
                raise RuntimeError(
                    f"{message} Passing 'strict=False' to `load_calib_amax()` "
                    "will ignore the error."
                )
            logger.warning("%s Set amax to NaN!", message)
            amax = torch.tensor(math.nan)
        present = self.amax
        if present is None:
            self.register_buffer("_amax", amax.detach().clone())
        else:
            present.copy_(amax)

    def init_learn_amax(self) -> None:
        """The learned range begins at amax.

        Raises:
            RuntimeError: the descriptor has no ``learn_amax``, or there is no amax.
        """
        if not self._learn_amax:
            raise RuntimeError("Called init_learn_amax with learn_amax=False.")
        amax = self.amax
        if amax is None:
            raise RuntimeError("There is no amax yet: call load_calib_amax first.")
        if amax.numel() != 1:
            logger.warning("Per channel learned amax not supported. Initializing with max(amax).")
        self.clip.clip_value_min.data.copy_(-amax.max())
        self.clip.clip_value_max.data.copy_(amax.max())

    def _get_amax(self, inputs: torch.Tensor) -> torch.Tensor:
        amax = self.amax
        if amax is None:
            reduced = None
            if self._axis is not None:
                axes = self._axis if isinstance(self._axis, list | tuple) else [self._axis]
                kept = {a + inputs.dim() if a < 0 else a for a in axes}
                reduced = [i for i in range(inputs.dim()) if i not in kept]
            amax = reduce_amax(inputs, axis=reduced, keepdims=True)
        if self._scale_amax is not None:
            amax = amax.detach() * self._scale_amax
        # .data makes a constant of it in a TorchScript trace; torch.export knows detach alone.
        amax = amax.detach() if torch.compiler.is_exporting() else amax.data
        return amax if amax.dtype in (torch.float, torch.double) else amax.float()

    # ---- forward

    def _fb_fake_quant(self, inputs: torch.Tensor, amax: torch.Tensor) -> torch.Tensor:
        """torch's fake quantization, over all integers.

        Raises:
            TypeError: several axes.
        """
        bound = (1 << (self._num_bits - 1 + int(self._unsigned))) - 1
        limits = (0 if self._unsigned else -bound - 1, bound)
        if amax.numel() == 1:
            return torch.fake_quantize_per_tensor_affine(inputs, amax.item() / bound, 0, *limits)
        axes = [i for i, size in enumerate(amax.shape) if size != 1]
        if len(axes) != 1:
            raise TypeError("Multiple axis is not supported in quantization")
        scale = amax.detach().reshape(-1) / bound
        zero_point = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(inputs, scale, zero_point, axes[0], *limits)

    def _quant_forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self._learn_amax:
            inputs = self.clip(inputs)
            low, high = self.clip.clip_value_min, self.clip.clip_value_max
            amax = torch.maximum(-low, high).detach()
        else:
            amax = self._get_amax(inputs)
        if not self._fake_quant:
            outputs, self._scale = tensor_quant(inputs, amax, self._num_bits, self._unsigned)
            return outputs
        if self.use_fb_fake_quant and not torch.compiler.is_exporting():  # it takes no .item()
            log_once(logging.WARNING, "Use Pytorch's native experimental fake quantization.")
            return self._fb_fake_quant(inputs, amax)
        options = (self._num_bits, self._unsigned, self._narrow_range)
        try:
            return fake_tensor_quant(inputs, amax, *options)
        except ValueError:
            finite = torch.isfinite(amax)
            if self._learn_amax or self.amax is not None or finite.all():
                raise
            # The range of this very input: like other modules, NaN out for what is not finite in.
            outputs = fake_tensor_quant(inputs, torch.where(finite, amax, 1), *options)
            return torch.where(finite, outputs, math.nan)

    def _check_onnx_readiness(self, inputs: torch.Tensor) -> None:
        if self.amax is None:
            raise AssertionError(
                "Quantizer has not been calibrated. ONNX export requires the quantizer to be "
                "calibrated. Calibrate and load amax before exporting to ONNX."
            )
        if self._if_calib:
            logger.warning(
                "Quantizer is in calibration mode. Please complete calibration before exporting "
                "to ONNX for correct results."
            )
        amax = self._get_amax(inputs)
        if isinstance(self._num_bits, tuple) and amax.numel() != 1:
            raise AssertionError(
                "E4M3 supports ONNX export only for per-tensor quantization. Per-tensor "
                "quantization requires scalar amax. Received non-scalar amax of shape: "
                f"{amax.shape}"
            )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Runs the stages that are on."""
        if self._enable_onnx_export and not self._disabled:
            self._check_onnx_readiness(inputs)
        scale = self.pre_quant_scale
        if scale is not None:
            inputs = inputs * scale
        if self._disabled:
            return inputs
        outputs = inputs
        if self._if_calib:
            if self._calibrator is None:
                raise RuntimeError("Calibrator was not created.")
            self._calibrator.collect(inputs)
        if self._if_clip:
            outputs = self.clip(inputs)
        if self._if_quant:
            if isinstance(self._num_bits, tuple):
                outputs = scaled_e4m3(inputs, self._get_amax(inputs), *self._num_bits)
            else:
                outputs = self._quant_forward(inputs)
        return outputs

    # ---- text and state

    def _short_amax(self, fmt: str = ".4f") -> str:
        amax = self.amax
        if amax is None:
            return "dynamic"
        if amax.numel() == 1:
            return f"{amax.item():{fmt}}"
        return f"[{amax.min().item():{fmt}}, {amax.max().item():{fmt}}]({amax.numel()})"

    def extra_repr(self) -> str:
        """What the module's repr shows."""
        if self._disabled:
            return "disabled"
        parts = [
            f"{'unsigned ' if self._unsigned else ''}{self._num_bits}bit",
            "narrow" if self._narrow_range else "",
            "fake" if self._fake_quant else "",
            f"axis={self._axis}" if self._axis is not None else "per-tensor",
            f"amax={self._short_amax()}",
            f"*{self._scale_amax}" if self._scale_amax else "",
            "pre_quant_scale" if self.pre_quant_scale is not None else "",
            "learned" if self._learn_amax else "",
            f"calibrator={type(self._calibrator).__name__}" if self._calibrator else "",
            f"scale={self._scale}" if self._scale is not None else "",
            "quant" if self._if_quant else "",
            "clip" if self._if_clip else "",
            "calib" if self._if_calib else "",
        ]
        return " ".join(part for part in parts if part)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Makes the buffers that the state has and this lacks, on the state's device."""
        for name in _BUFFERS:
            value = state_dict.get(prefix + name)
            present = self._buffers.get(name)
            if value is None and present is not None:
                logger.error("%s: No %s in state_dict.", prefix[:-1], name[1:])
            elif value is not None and present is None:
                self.register_buffer(name, value.detach().clone())
            elif value is not None:
                logger.warning("%s: Overwriting %s.", prefix[:-1], name[1:])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
