"""Modules that run on integers: what ``convert`` puts in place after calibration or training.

Names, printed forms, methods and state_dict keys are torch.ao.nn.quantized's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from octavo._export.qdq import INTEGERS, constants, is_exporting, quantize_dequantize
from octavo.errors import UnsupportedError, UserError
from octavo.quantization import fuse, qat
from octavo.quantization._ops import classes, ops
from octavo.quantization.packed import PackedModule, observed_weight, scheme_of


def _float(x: Tensor) -> Tensor:
    """The floats of a quantized tensor; what torch.onnx exports are floats already, behind Q/DQ."""
    return x if is_exporting() else ops.dequantize_int8(x)


def _output_parameters(module: Any) -> tuple[float, int]:
    observer = getattr(module, "activation_post_process", None)
    if observer is None:
        raise UserError(
            f"convert: {type(module).__name__} was not observed; call prepare, then the model"
        )
    scale, zero_point = observer.calculate_qparams()
    if scale.numel() != 1:
        raise UnsupportedError("convert: activations are quantized per tensor")
    return float(scale), int(zero_point)


class Quantize(nn.Module):
    """float32 to quint8 or qint8."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, scale: Any, zero_point: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([float(scale)]))
        self.register_buffer("zero_point", torch.tensor([int(zero_point)]))
        self.dtype = dtype
        self._numbers: tuple[float, int] | None = None

    @classmethod
    def from_float(cls, module: Any) -> Quantize:
        """From an observed stub."""
        scale, zero_point = _output_parameters(module)
        return cls(scale, zero_point, module.activation_post_process.dtype)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._numbers = None
        super()._load_from_state_dict(*args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """The integers."""
        if is_exporting():
            return quantize_dequantize(x, self.scale, self.zero_point, None, INTEGERS[self.dtype])
        if self._numbers is None:
            self._numbers = (float(self.scale), int(self.zero_point))
        y: Tensor = ops.quantize_int8(x, *self._numbers, self.dtype)
        return y

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"scale={self.scale}, zero_point={self.zero_point}, dtype={self.dtype}"


class DeQuantize(nn.Module):
    """quint8 or qint8 to float32."""

    @classmethod
    def from_float(cls, module: Any) -> DeQuantize:
        """From a stub."""
        del module
        return cls()

    def forward(self, x: Tensor) -> Tensor:
        """The floats."""
        return _float(x)


class _OnGrid(nn.Module):
    """A module with a scale and a zero point of what it gives."""

    scale: float
    zero_point: int
    dtype = torch.quint8  # what is observed, if not otherwise

    def _take_grid(self, module: Any) -> None:
        self.scale, self.zero_point = _output_parameters(module)
        self.dtype = module.activation_post_process.dtype

    def _exported(self, y: Tensor) -> Tensor:
        with constants():
            grid = torch.tensor(self.scale), torch.tensor(self.zero_point)
        return quantize_dequantize(y, *grid, None, INTEGERS[self.dtype])


class _Output(PackedModule, _OnGrid):
    """A packed module on a grid."""

    relu = False

    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0
        self.zero_point = 0

    def _exported_layer(self, y: Tensor) -> Tensor:
        return self._exported(functional.relu(y) if self.relu else y)

    def _save(self, destination: Any, prefix: str) -> None:
        destination[prefix + "scale"] = torch.tensor(self.scale)
        destination[prefix + "zero_point"] = torch.tensor(self.zero_point)

    def _load_output(self, state: dict[str, Any], prefix: str, missing: list[str]) -> None:
        scale = self._take(state, prefix + "scale", missing)
        zero_point = self._take(state, prefix + "zero_point", missing)
        if scale is not None and zero_point is not None:
            self.scale, self.zero_point = float(scale), int(zero_point)


class Linear(_Output):
    """A Linear on integers."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features

    def _get_name(self) -> str:
        return "QuantizedLinearReLU" if self.relu else "QuantizedLinear"

    def _pack(self) -> Any:
        return classes.LinearInt8(self._weight, self._bias)

    def forward(self, x: Tensor) -> Tensor:
        """Quantized in, quantized out."""
        if is_exporting():
            return self._exported_layer(functional.linear(x, self._exported_weight(), self._bias))
        y: Tensor = ops.linear_int8(x, self._layer(), self.scale, self.zero_point, self.relu)
        return y

    @classmethod
    def from_float(cls, module: Any) -> Linear:
        """From an observed or trained module."""
        made = cls(*_features(module))
        made._take_grid(module)
        layer: Any = module[0] if isinstance(module, fuse.FusedModule) else module
        weight, bias = qat.folded(layer)
        made.set_weight_bias(observed_weight(layer, weight), bias)
        return made

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"scale={self.scale}, zero_point={self.zero_point}, {scheme_of(self.weight())}"
        )

    def _save(self, destination: Any, prefix: str) -> None:
        super()._save(destination, prefix)
        save_linear(self, destination, prefix)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, meta: Any, strict: bool, missing: Any, *rest: Any
    ) -> None:
        self._load_output(state_dict, prefix, missing)
        load_linear(self, state_dict, prefix, missing)
        super()._load_from_state_dict(state_dict, prefix, meta, strict, missing, *rest)


def _features(module: Any) -> tuple[int, int]:
    layer: Any = module[0] if isinstance(module, fuse.FusedModule) else module
    return layer.in_features, layer.out_features


def save_linear(module: PackedModule, destination: Any, prefix: str) -> None:
    """Weight and bias under torch's keys."""
    destination[prefix + "_packed_params.dtype"] = torch.qint8
    destination[prefix + "_packed_params._packed_params"] = (module.weight(), module.bias())


def load_linear(module: PackedModule, state: Any, prefix: str, missing: list[str]) -> None:
    """Weight and bias from torch's keys."""
    module._take(state, prefix + "_packed_params.dtype", [])
    pair = module._take(state, prefix + "_packed_params._packed_params", missing)
    if pair is not None:
        weight, bias = pair
        if module._weight is not None and weight.shape != module._weight.shape:
            raise UserError(
                f"load_state_dict: {prefix}weight is {tuple(weight.shape)}, "
                f"the module's {tuple(module._weight.shape)}"
            )
        module.set_weight_bias(weight, bias)


class LinearReLU(Linear):
    """A Linear and a ReLU on integers."""

    relu = True


class _Conv(_Output):
    """What the convolutions share."""

    rank = 2

    def __init__(self, source: Any) -> None:
        super().__init__()
        if source.padding_mode != "zeros":
            raise UnsupportedError(
                f"convert: a convolution with padding_mode {source.padding_mode}"
            )
        self.in_channels, self.out_channels = source.in_channels, source.out_channels
        self.kernel_size, self.stride = source.kernel_size, source.stride
        self.dilation, self.groups = source.dilation, source.groups
        self.padding = source.padding
        if isinstance(self.padding, str):
            if self.padding == "same" and any(
                d * (k - 1) % 2 for k, d in zip(self.kernel_size, self.dilation, strict=True)
            ):
                raise UnsupportedError("convert: a convolution that is padded more on one side")
            same = self.padding == "same"
            self.padding = tuple(
                d * (k - 1) // 2 if same else 0
                for k, d in zip(self.kernel_size, self.dilation, strict=True)
            )

    def _get_name(self) -> str:
        return f"QuantizedConv{'ReLU' if self.relu else ''}{self.rank}d"

    def _pack(self) -> Any:
        weight, lead = self._weight, [1] * (2 - self.rank)
        if self.rank == 1:  # a row of pixels
            weight = weight.unsqueeze(2)
        return classes.ConvInt8(
            weight,
            self._bias,
            lead + list(self.stride),
            [0] * (2 - self.rank) + list(self.padding),
            lead + list(self.dilation),
            self.groups,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Quantized in, quantized out."""
        if is_exporting():
            convolve: Any = functional.conv1d if self.rank == 1 else functional.conv2d
            options = (self.stride, self.padding, self.dilation, self.groups)
            return self._exported_layer(convolve(x, self._exported_weight(), self._bias, *options))
        y: Tensor = ops.conv_int8(x, self._layer(), self.scale, self.zero_point, self.relu)
        return y

    @classmethod
    def from_float(cls, module: Any) -> Any:
        """From an observed or trained module."""
        layer: Any = module[0] if isinstance(module, fuse.FusedModule) else module
        made = cls(layer)
        made._take_grid(module)
        weight, bias = qat.folded(layer)
        made.set_weight_bias(observed_weight(layer, weight), bias)
        return made

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, scale={self.scale}, zero_point={self.zero_point}"
        )
        if self.padding != (0,) * self.rank:
            text += f", padding={self.padding}"
        if self.dilation != (1,) * self.rank:
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text + (", bias=False" if self._bias is None else "")

    def _save(self, destination: Any, prefix: str) -> None:
        destination[prefix + "weight"] = self._weight
        destination[prefix + "bias"] = self._bias
        super()._save(destination, prefix)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, meta: Any, strict: bool, missing: Any, *rest: Any
    ) -> None:
        self._load_output(state_dict, prefix, missing)
        weight = self._take(state_dict, prefix + "weight", missing)
        bias = self._take(state_dict, prefix + "bias", missing)
        if weight is not None:
            self.set_weight_bias(weight, bias)
        super()._load_from_state_dict(state_dict, prefix, meta, strict, missing, *rest)


class Conv2d(_Conv):
    """A Conv2d on integers."""


class ConvReLU2d(Conv2d):
    """A Conv2d and a ReLU on integers."""

    relu = True


class Conv1d(_Conv):
    """A Conv1d on integers."""

    rank = 1

    def forward(self, x: Tensor) -> Tensor:
        """Quantized in, quantized out."""
        if is_exporting():
            return super().forward(x)
        return super().forward(x.unsqueeze(2)).squeeze(2)


class ConvReLU1d(Conv1d):
    """A Conv1d and a ReLU on integers."""

    relu = True


class Activation(nn.Module):
    """A function of one element on integers, by a table of its 256 results."""

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self, kind: Any, arguments: dict[str, Any], scale: float | None, zero_point: int | None
    ) -> None:
        super().__init__()
        self.kind, self.arguments = kind, arguments
        self.dtype = torch.quint8
        if scale is not None:  # else the input's
            self.register_buffer("scale", torch.tensor(scale))
            self.register_buffer("zero_point", torch.tensor(zero_point))
        self._table: tuple[Any, Tensor] | None = None

    @classmethod
    def from_float(cls, module: Any) -> Activation:
        """From an observed activation."""
        arguments = _activation_arguments(module)
        if isinstance(module, nn.ReLU6):
            return cls(nn.ReLU6, arguments, None, None)
        made = cls(type(module), arguments, *_output_parameters(module))
        made.dtype = module.activation_post_process.dtype
        return made

    def _get_name(self) -> str:
        return f"Quantized{self.kind.__name__}"

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return ", ".join(f"{name}={value}" for name, value in self.arguments.items())

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._table = None
        super()._load_from_state_dict(*args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Quantized in, quantized out."""
        if is_exporting():
            y: Tensor = self.kind(**self.arguments)(x)
            if "scale" not in self._buffers:
                return y
            return quantize_dequantize(y, self.scale, self.zero_point, None, INTEGERS[self.dtype])
        key = (x.q_scale(), x.q_zero_point(), x.dtype)
        if self._table is None or self._table[0][:3] != key:
            scale, zero_point = key[:2]
            if "scale" in self._buffers:
                scale, zero_point = float(self.scale), int(self.zero_point)
            values = torch.arange(256, dtype=torch.uint8)
            if x.dtype == torch.qint8:
                values = values.view(torch.int8)
            every = torch._make_per_tensor_quantized_tensor(values, key[0], key[1])
            real = self.kind(**self.arguments)(ops.dequantize_int8(every))
            on_grid = ops.quantize_int8(real, scale, zero_point, x.dtype)
            self._table = (*key, scale, zero_point), on_grid.int_repr().view(torch.uint8)
        (*_, scale, zero_point), table = self._table
        result: Tensor = ops.lookup_int8(x, table, scale, zero_point)
        return result


def _activation_arguments(module: Any) -> dict[str, Any]:
    if isinstance(module, nn.LeakyReLU):
        return {"negative_slope": module.negative_slope}
    if isinstance(module, nn.ELU):
        return {"alpha": module.alpha}
    return {}


class InFloat(nn.Module):
    """A module that has no integer form here: dequantize, run, quantize."""

    def __init__(self, module: nn.Module, scale: float, zero_point: int, dtype: Any) -> None:
        super().__init__()
        self.module = module
        self.quantize = Quantize(scale, zero_point, dtype)

    @classmethod
    def from_float(cls, module: Any) -> InFloat:
        """From an observed module."""
        scale, zero_point = _output_parameters(module)
        dtype = module.activation_post_process.dtype
        del module.activation_post_process
        module._forward_hooks.clear()
        return cls(module, scale, zero_point, dtype)

    def _get_name(self) -> str:
        return f"Quantized{type(self.module).__name__}"

    def forward(self, x: Tensor) -> Tensor:
        """Quantized in, quantized out."""
        y: Tensor = self.quantize(self.module(_float(x)))
        return y


def _bounds(dtype: torch.dtype) -> tuple[int, int]:
    return (0, 255) if dtype == torch.quint8 else (-128, 127)


def _on_grid_of(x: Tensor, function: Callable[[Any], Any]) -> Tensor:
    """A monotonous function of x, on the grid that holds all it can give."""
    least, most = _bounds(x.dtype)
    ends = [function((q - x.q_zero_point()) * x.q_scale()) for q in (least, most)]
    low, high = min(*ends, 0.0), max(*ends, 0.0)
    scale = (high - low) / 255 or 1.0
    zero_point = min(max(least - round(low / scale), least), most)
    y: Tensor = ops.quantize_int8(function(ops.dequantize_int8(x)), scale, zero_point, x.dtype)
    return y


class QFunctional(_OnGrid):
    """Additions, products and concatenations of quantized tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0
        self.zero_point = 0
        self.activation_post_process = nn.Identity()

    @classmethod
    def from_float(cls, module: Any) -> QFunctional:
        """From an observed FloatFunctional."""
        made = cls()
        made._take_grid(module)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """Not to be called: its methods are.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("QFunctional is not intended to use the forward; call its methods")

    def _binary(self, x: Tensor, y: Tensor, product: bool, relu: bool) -> Tensor:
        if is_exporting():
            exact = x * y if product else x + y
            return self._exported(functional.relu(exact) if relu else exact)
        if x.shape != y.shape:
            x, y = torch.broadcast_tensors(x, y)
        z: Tensor = ops.binary_int8(x, y, self.scale, self.zero_point, product, relu)
        return z

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """x + y."""
        return self._binary(x, y, False, False)

    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        """max(x + y, 0)."""
        return self._binary(x, y, False, True)

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        """x * y."""
        return self._binary(x, y, True, False)

    def add_scalar(self, x: Tensor, y: float) -> Tensor:
        """x + y for a number: the grid moves along, by whole steps if it can."""
        if is_exporting():
            return x + y
        moved = x.q_zero_point() - round(y / x.q_scale())
        least, most = _bounds(x.dtype)
        if least <= moved <= most:
            return torch._make_per_tensor_quantized_tensor(x.int_repr(), x.q_scale(), moved)
        return _on_grid_of(x, lambda value: value + y)

    def mul_scalar(self, x: Tensor, y: float) -> Tensor:
        """x * y for a number: a positive one stretches the grid."""
        if is_exporting():
            return x * y
        if y > 0:
            return torch._make_per_tensor_quantized_tensor(
                x.int_repr(), x.q_scale() * y, x.q_zero_point()
            )
        return _on_grid_of(x, lambda value: value * y)

    def cat(self, x: list[Tensor], dim: int = 0) -> Tensor:
        """The tensors one after the other, on one grid."""
        return self._in_float(torch.cat([_float(part) for part in x], dim), x[0].dtype)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """The matrix product, computed in float."""
        product = torch.matmul(_float(x), _float(y))
        return self._in_float(product, x.dtype)

    def _in_float(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        if is_exporting():
            return self._exported(x)
        y: Tensor = ops.quantize_int8(x, self.scale, self.zero_point, dtype)
        return y

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"scale={self.scale}, zero_point={self.zero_point}"

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "scale"] = torch.tensor(self.scale)
        destination[prefix + "zero_point"] = torch.tensor(self.zero_point)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if prefix + "scale" in state_dict and prefix + "zero_point" in state_dict:
            self.scale = float(state_dict.pop(prefix + "scale"))
            self.zero_point = int(state_dict.pop(prefix + "zero_point"))
        super()._load_from_state_dict(state_dict, prefix, *args)


__all__ = [
    "Activation",
    "Conv1d",
    "Conv2d",
    "ConvReLU1d",
    "ConvReLU2d",
    "DeQuantize",
    "InFloat",
    "Linear",
    "LinearReLU",
    "QFunctional",
    "Quantize",
]
