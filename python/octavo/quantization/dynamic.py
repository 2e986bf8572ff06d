"""Modules with INT8 weights whose inputs are quantized at each call: ``quantize_dynamic``.

Names and printed forms are torch.ao.nn.quantized.dynamic's. Inputs use all 256 levels; torch's
reduced range, which its kernels need without VNNI, is not needed here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from octavo._export.qdq import constants, dynamic_product, is_exporting, refuse
from octavo.errors import UnsupportedError, UserError
from octavo.quantization import fuse
from octavo.quantization._ops import classes, ops
from octavo.quantization.packed import (
    PackedModule,
    quantize_weight,
    scheme_of,
)
from octavo.quantization.quantized import load_linear, save_linear


def _dynamic_weight(module: Any, weight: Tensor) -> Tensor:
    """A weight as the qconfig says: qint8, or float16."""
    observer = module.qconfig.weight()
    if observer.dtype == torch.float16:
        return weight.detach().to(torch.float16)
    observer(weight)
    return quantize_weight(weight, observer)


class Linear(PackedModule):
    """A Linear with an INT8 or float16 weight, float in and out."""

    relu = False

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features

    def _get_name(self) -> str:
        return "DynamicQuantizedLinearReLU" if self.relu else "DynamicQuantizedLinear"

    def _pack(self) -> Any:
        return classes.LinearInt8(self._weight, self._bias)

    def _transposed_numbers(self) -> tuple[Tensor, ...]:
        """Integers [K, N], scales, zero points, for a file."""
        if not self._numbers:
            with constants():
                integers, scale, zero, axis = self._weight_numbers()
                if axis == 1:
                    refuse("export_onnx: a weight with a scale for each of its inputs")
                zero = zero.to(torch.int8)
                self._numbers.append((integers.t().contiguous(), scale.float(), zero))
        numbers: tuple[Tensor, ...] = self._numbers[0]
        return numbers

    def forward(self, x: Tensor) -> Tensor:
        """Float in, float out."""
        if self._weight.dtype == torch.float16:
            y = functional.linear(x, self._weight.float(), self._bias)
            return functional.relu(y) if self.relu else y
        if is_exporting():
            y = dynamic_product(x, *self._transposed_numbers())
            y = y if self._bias is None else y + self._bias
            return functional.relu(y) if self.relu else y
        z: Tensor = ops.linear_dynamic(x, self._layer(), self.relu)
        return z

    @classmethod
    def from_float(cls, module: Any) -> Linear:
        """From a Linear, or a fused LinearReLU, with a qconfig."""
        layer: Any = module[0] if isinstance(module, fuse.FusedModule) else module
        made = cls(layer.in_features, layer.out_features)
        made.set_weight_bias(_dynamic_weight(module, layer.weight), layer.bias)
        return made

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        text = (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"dtype={self._weight.dtype}"
        )
        return text + (f", {scheme_of(self._weight)}" if self._weight.is_quantized else "")

    def _save(self, destination: Any, prefix: str) -> None:
        destination[prefix + "scale"] = torch.tensor(1.0)  # torch saves them here too
        destination[prefix + "zero_point"] = torch.tensor(0)
        save_linear(self, destination, prefix)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        self._take(state_dict, prefix + "scale", [])
        self._take(state_dict, prefix + "zero_point", [])
        load_linear(self, state_dict, prefix, args[2])
        super()._load_from_state_dict(state_dict, prefix, *args)


class LinearReLU(Linear):
    """A Linear and a ReLU with an INT8 or float16 weight."""

    relu = True


class _Gates(Linear):
    """The product of one input of a recurrent cell with all its gates' weights."""

    @classmethod
    def of(cls, module: Any, weight: Tensor, bias: Tensor | None) -> _Gates:
        """From a weight and a bias of a float module."""
        made = cls(weight.shape[1], weight.shape[0])
        made.set_weight_bias(_dynamic_weight(module, weight), bias)
        return made


def _lstm_step(gates: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    i, f, g, o = gates.chunk(4, -1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru_step(x: Tensor, h_gates: Tensor, h: Tensor) -> Tensor:
    x_r, x_z, x_n = x.chunk(3, -1)
    h_r, h_z, h_n = h_gates.chunk(3, -1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + r * h_n)
    return n + z * (h - n)


class _Layer(nn.Module):
    """One direction of one layer of a recurrent network."""

    def __init__(self, ih: _Gates, hh: _Gates) -> None:
        super().__init__()
        self.ih, self.hh = ih, hh

    def step(self, x: Tensor, state: tuple[Tensor, ...], mode: str) -> tuple[Tensor, ...]:
        """The next state."""
        if self._in_one_call(x, state):
            return self.run(x, [x.shape[0]], state, mode, reverse=False)[1]
        return self._step(self.ih(x), state, mode)

    def _in_one_call(self, *inputs: Any) -> bool:
        """Not for a file, nor where layers of float16, which are differentiable, may have to be."""
        if is_exporting():
            return False
        x, state = inputs
        wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *state))
        return self.ih.weight().dtype != torch.float16 or not wanted

    def _step(self, x: Tensor, state: tuple[Tensor, ...], mode: str) -> tuple[Tensor, ...]:
        gates = self.hh(state[0])
        if mode == "LSTM":
            return _lstm_step(x + gates, state)
        if mode == "GRU":
            return (_gru_step(x, gates, state[0]),)
        act = torch.tanh if mode == "RNN_TANH" else torch.relu
        return (act(x + gates),)

    def run(
        self, x: Tensor, sizes: list[int], state: tuple[Tensor, ...], mode: str, reverse: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """All steps: ``sizes[t]`` rows of ``x`` belong to step t, and never grow with t."""
        if self._in_one_call(x, state):
            c = state[1] if mode == "LSTM" else None
            if self.ih.weight().dtype == torch.float16:
                weight = self.hh.weight().float()  # once for all steps
                rest = (self.ih(x), weight, self.hh.bias(), state[0], c, sizes, mode, reverse)
                y, *last = ops.recurrent_float(*rest)
            else:
                layers = self.ih._layer(), self.hh._layer()
                y, *last = ops.recurrent_int8(x, *layers, state[0], c, sizes, mode, reverse)
            return y, tuple(last)
        parts = list(self.ih(x).split(sizes))
        outputs: list[Tensor] = [x] * len(sizes)
        # The rows that a shorter step leaves out keep the state they have.
        for t in reversed(range(len(sizes))) if reverse else range(len(sizes)):
            n = sizes[t]
            new = self._step(parts[t], tuple(s[:n] for s in state), mode)
            outputs[t] = new[0]
            state = tuple(
                s if n == old.shape[0] else torch.cat([s, old[n:]])
                for s, old in zip(new, state, strict=True)
            )
        return torch.cat(outputs), state


class _Recurrent(nn.Module):
    """What LSTM and GRU share."""

    mode = ""
    states = 1

    def __init__(self, source: Any) -> None:
        super().__init__()
        if getattr(source, "proj_size", 0):
            raise UnsupportedError("quantize_dynamic: an LSTM with proj_size")
        self.input_size, self.hidden_size = source.input_size, source.hidden_size
        self.num_layers, self.bias = source.num_layers, source.bias
        self.batch_first, self.dropout = source.batch_first, float(source.dropout)
        self.bidirectional = source.bidirectional
        self.training = source.training
        layers = []
        for layer in range(self.num_layers):
            for suffix in ("", "_reverse") if self.bidirectional else ("",):
                gates = []
                for side in ("ih", "hh"):
                    name = f"{side}_l{layer}{suffix}"
                    bias = getattr(source, f"bias_{name}") if self.bias else None
                    gates.append(_Gates.of(source, getattr(source, f"weight_{name}"), bias))
                layers.append(_Layer(*gates))
        self.layers = nn.ModuleList(layers)

    @classmethod
    def from_float(cls, module: Any) -> Any:
        """From a float module with a qconfig."""
        return cls(module)

    def _get_name(self) -> str:
        return f"DynamicQuantized{self.mode}"

    def __repr__(self) -> str:
        return f"{self._get_name()}({self.extra_repr()})"

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        text = f"{self.input_size}, {self.hidden_size}"
        defaults = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
        }
        for name, default in defaults.items():
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        return text

    def _initial(self, given: Any, batch: int, x: Tensor) -> tuple[Tensor, ...]:
        shape = (len(self.layers), batch, self.hidden_size)
        if given is None:
            return tuple(x.new_zeros(shape) for _ in range(self.states))
        states = (given,) if self.states == 1 else tuple(given)
        for state in states:
            if tuple(state.shape) != shape:
                raise UserError(f"{self._get_name()}: a state of {tuple(state.shape)}, not {shape}")
        return states

    def forward(self, x: Any, hx: Any = None) -> Any:
        """As torch's module: a tensor or a PackedSequence; also the last states."""
        packed = x if isinstance(x, PackedSequence) else None
        if packed is not None:
            data, sizes = packed.data, packed.batch_sizes.tolist()
            if hx is not None and packed.sorted_indices is not None:
                hx = _select(hx, packed.sorted_indices)
            steps, batch, single = len(sizes), sizes[0], False
        else:
            single = x.dim() == 2
            if single:
                x = x.unsqueeze(1)
                hx = None if hx is None else _map(hx, lambda s: s.unsqueeze(1))
            elif self.batch_first:
                x = x.transpose(0, 1)
            steps, batch = x.shape[0], x.shape[1]
            if isinstance(steps, torch.SymInt):
                refuse(
                    f"export_onnx: {self._get_name()}: the number of steps is fixed in a file, as "
                    "each is written out; leave its axis out of dynamic_shapes"
                )
            data, sizes = x.reshape(steps * batch, -1), [batch] * steps
        state = self._initial(hx, batch, data)
        directions = 2 if self.bidirectional else 1
        lasts = []
        for level in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                at = level * directions + direction
                layer: Any = self.layers[at]
                first = tuple(s[at] for s in state)
                y, last = layer.run(data, sizes, first, self.mode, direction == 1)
                outputs.append(y)
                lasts.append(last)
            data = torch.cat(outputs, -1) if directions == 2 else outputs[0]
            if self.dropout and self.training and level + 1 < self.num_layers:
                data = functional.dropout(data, self.dropout)
        hidden: Any = tuple(torch.stack(kind) for kind in zip(*lasts, strict=True))
        if packed is not None:
            result: Any = PackedSequence(
                data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
            )
            if packed.unsorted_indices is not None:
                hidden = _select(hidden, packed.unsorted_indices)
        else:
            result = data.reshape(steps, batch, -1)
            if single:
                result, hidden = result.squeeze(1), _map(hidden, lambda s: s.squeeze(1))
            elif self.batch_first:
                result = result.transpose(0, 1)
        return result, hidden if self.states == 2 else hidden[0]


def _map(states: Any, f: Any) -> Any:
    return f(states) if isinstance(states, Tensor) else tuple(f(state) for state in states)


def _select(states: Any, order: Tensor) -> Any:
    return _map(states, lambda state: state.index_select(1, order))


class LSTM(_Recurrent):
    """An LSTM with INT8 or float16 weights."""

    mode = "LSTM"
    states = 2


class GRU(_Recurrent):
    """A GRU with INT8 or float16 weights."""

    mode = "GRU"


class _Cell(nn.Module):
    """What the cells share."""

    mode = ""
    states = 1

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.input_size, self.hidden_size = source.input_size, source.hidden_size
        self.bias = source.bias
        if isinstance(source, nn.RNNCell):
            self.mode = "RNN_TANH" if source.nonlinearity == "tanh" else "RNN_RELU"
        self.layer = _Layer(
            _Gates.of(source, source.weight_ih, source.bias_ih),
            _Gates.of(source, source.weight_hh, source.bias_hh),
        )

    @classmethod
    def from_float(cls, module: Any) -> Any:
        """From a float module with a qconfig."""
        return cls(module)

    def _get_name(self) -> str:
        return f"DynamicQuantized{type(self).__name__}"

    def __repr__(self) -> str:
        return f"{self._get_name()}({self.extra_repr()})"

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        text = f"{self.input_size}, {self.hidden_size}"
        if not self.bias:
            text += ", bias=False"
        return text + (", nonlinearity=relu" if self.mode == "RNN_RELU" else "")

    def forward(self, x: Tensor, hx: Any = None) -> Any:
        """The next state."""
        single = x.dim() == 1
        rows = x.unsqueeze(0) if single else x
        if hx is None:
            zeros = x.new_zeros(rows.shape[0], self.hidden_size)
            state: tuple[Tensor, ...] = (zeros,) * self.states
        else:
            given = (hx,) if self.states == 1 else tuple(hx)
            state = tuple(s.unsqueeze(0) if single else s for s in given)
        new = self.layer.step(rows, state, self.mode)
        if single:
            new = tuple(s.squeeze(0) for s in new)
        return new if self.states == 2 else new[0]


class LSTMCell(_Cell):
    """An LSTMCell with INT8 or float16 weights."""

    mode = "LSTM"
    states = 2


class GRUCell(_Cell):
    """A GRUCell with INT8 or float16 weights."""

    mode = "GRU"


class RNNCell(_Cell):
    """An RNNCell with INT8 or float16 weights."""
