"""LSTM with quantized inputs and weights.

In each layer and direction one quantizer serves the concatenation of input and hidden state, and
one that of both weights: at inference they are one matrix product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from octavo.compat.pytorch_quantization import tensor_quant
from octavo.compat.pytorch_quantization.nn.modules import _utils

__all__ = ["LSTM", "LSTMCell", "QuantLSTM", "QuantLSTMCell"]

State = tuple[torch.Tensor, torch.Tensor]


def _quantized_weights(
    quantizer: Any, w_ih: torch.Tensor, w_hh: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    both = quantizer(torch.cat([w_ih, w_hh], 1))
    return both[:, : w_ih.shape[1]], both[:, w_ih.shape[1] :]


def _all_pass(*quantizers: Any) -> bool:
    return all(getattr(q, "_disabled", False) and q.pre_quant_scale is None for q in quantizers)


def _step(
    x: torch.Tensor,
    state: State,
    weights: tuple[torch.Tensor, ...],
    biases: tuple[torch.Tensor | None, torch.Tensor | None],
    quantizer: Any,
) -> State:
    hidden, cell = state
    width = x.shape[1]
    both = quantizer(torch.cat([x, hidden], 1))
    x, hidden = both[:, :width], both[:, width:]
    linear = torch.nn.functional.linear
    gates = linear(x, weights[0], biases[0]) + linear(hidden, weights[1], biases[1])
    into, forget, candidate, out = gates.chunk(4, 1)
    cell = forget.sigmoid() * cell + into.sigmoid() * candidate.tanh()
    return out.sigmoid() * cell.tanh(), cell


class QuantLSTM(torch.nn.LSTM, _utils.QuantMixin):
    """torch.nn.LSTM with quantizers: lists, one for each layer and direction.

    Args:
        args: as of torch.nn.LSTM.
        kwargs: likewise, and ``quant_desc_input``, ``quant_desc_weight``.

    Raises:
        ValueError: ``proj_size`` is given.
    """

    default_quant_desc_weight = tensor_quant.QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        descriptors = {
            name: kwargs.pop(name)
            for name in ("quant_desc_input", "quant_desc_weight")
            if name in kwargs
        }
        of_input, of_weight = _utils.pop_quant_desc_in_kwargs(type(self), **descriptors)
        unknown = {k: v for k, v in kwargs.items() if k not in _LSTM_ARGUMENTS}
        if unknown:
            raise TypeError(f"Unused keys: {unknown.keys()}")
        if kwargs.get("proj_size", 0) < 0:
            raise ValueError(
                "proj_size should be a positive integer or zero to disable projections"
            )
        if kwargs.get("proj_size", 0) > 0:
            raise ValueError("proj_size is not supported in pytorch-quantization yet")
        super().__init__(*args, **kwargs)
        self.init_quantizer(of_input, of_weight, self.num_layers * (1 + self.bidirectional))

    @classmethod
    def from_float(cls, module: torch.nn.Module, **kwargs: Any) -> Any:
        """As QuantMixin's.

        Raises:
            ValueError: the module has ``proj_size``.
        """
        if module.proj_size:
            raise ValueError("proj_size is not supported in pytorch-quantization yet")
        return super().from_float(module, **kwargs)

    def _layer(
        self, index: int, x: torch.Tensor, batch_sizes: list[int], state: State, reverse: bool
    ) -> tuple[torch.Tensor, State]:
        """One layer in one direction; x: the steps one after the other, longest sequences first."""
        w_ih, w_hh, *biases = self.all_weights[index]
        weights = _quantized_weights(self._weight_quantizers[index], w_ih, w_hh)
        b_ih, b_hh = biases if biases else (None, None)
        steps = list(x.split(batch_sizes))
        outputs: list[torch.Tensor] = []
        hidden, cell = state
        for step in reversed(steps) if reverse else steps:
            size = len(step)
            new = _step(
                step,
                (hidden[:size], cell[:size]),
                weights,
                (b_ih, b_hh),
                self._input_quantizers[index],
            )
            # Sequences that are over, or have not begun, keep their state.
            hidden, cell = (
                torch.cat([n, old[size:]]) if size < len(old) else n
                for n, old in zip(new, (hidden, cell), strict=True)
            )
            outputs.append(new[0])
        if reverse:
            outputs.reverse()
        return torch.cat(outputs), (hidden, cell)

    def forward(self, input: Any, hx: State | None = None) -> Any:  # type: ignore[override]
        """As torch.nn.LSTM's, for batches and packed sequences.

        With all quantizers disabled it is torch.nn.LSTM's own.

        Raises:
            RuntimeError: shapes that do not fit.
        """
        if _all_pass(*self._input_quantizers, *self._weight_quantizers):
            return super().forward(input, hx)
        packed = isinstance(input, PackedSequence)
        if packed:
            x, sizes, order, restore = input
            batch_sizes: list[int] = sizes.tolist()
        else:
            if input.dim() != 3:
                raise RuntimeError(f"input must have 3 dimensions, got {input.dim()}")
            x, order, restore = input.transpose(0, 1) if self.batch_first else input, None, None
            batch_sizes = [x.shape[1]] * x.shape[0]
            steps = x.shape[0]
            x = x.reshape(-1, x.shape[2])
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                "input.size(-1) must be equal to input_size. Expected "
                f"{self.input_size}, got {x.shape[-1]}"
            )
        directions = 2 if self.bidirectional else 1
        shape = (self.num_layers * directions, batch_sizes[0], self.hidden_size)
        if hx is None:
            hx = (x.new_zeros(shape), x.new_zeros(shape))
        elif order is not None:
            hx = (hx[0].index_select(1, order), hx[1].index_select(1, order))
        for i, part in enumerate(hx):
            if tuple(part.shape) != shape:
                raise RuntimeError(f"Expected hidden[{i}] size {shape}, got {tuple(part.shape)}")
        last: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                index = layer * directions + direction
                state = (hx[0][index], hx[1][index])
                y, state = self._layer(index, x, batch_sizes, state, direction == 1)
                outputs.append(y)
                last.append(state)
            x = torch.cat(outputs, -1)
            if self.dropout and layer + 1 < self.num_layers:
                x = torch.nn.functional.dropout(x, self.dropout, self.training)
        final = tuple(torch.stack(parts) for parts in zip(*last, strict=True))
        if packed:
            if restore is not None:
                final = tuple(part.index_select(1, restore) for part in final)
            return PackedSequence(x, sizes, order, restore), final
        x = x.reshape(steps, batch_sizes[0], -1)
        return x.transpose(0, 1) if self.batch_first else x, final


_LSTM_ARGUMENTS = (
    "input_size",
    "hidden_size",
    "num_layers",
    "bias",
    "batch_first",
    "dropout",
    "bidirectional",
    "proj_size",
    "device",
    "dtype",
)


class QuantLSTMCell(torch.nn.LSTMCell, _utils.QuantMixin):
    """torch.nn.LSTMCell with quantizers.

    Args:
        input_size: as of torch.nn.LSTMCell.
        hidden_size: likewise.
        bias: likewise.
        kwargs: ``quant_desc_input``, ``quant_desc_weight``, ``device``, ``dtype``.
    """

    default_quant_desc_weight = tensor_quant.QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, **kwargs: Any) -> None:
        own = {name: kwargs.pop(name) for name in ("device", "dtype") if name in kwargs}
        super().__init__(input_size, hidden_size, bias, **own)
        self.init_quantizer(*_utils.pop_quant_desc_in_kwargs(type(self), **kwargs))

    def forward(self, input: torch.Tensor, hx: State | None = None) -> State:
        """One step.

        Raises:
            RuntimeError: shapes that do not fit.
        """
        if input.shape[1] != self.input_size:
            raise RuntimeError(
                f"input has inconsistent input_size: got {input.shape[1]}, "
                f"expected {self.input_size}"
            )
        shape = (input.shape[0], self.hidden_size)
        if hx is None:
            hx = (input.new_zeros(shape), input.new_zeros(shape))
        for i, part in enumerate(hx):
            if part.shape[0] != shape[0]:
                raise RuntimeError(
                    f"Input batch size {shape[0]} doesn't match hidden[{i}] batch size "
                    f"{part.shape[0]}"
                )
            if part.shape[1] != shape[1]:
                raise RuntimeError(
                    f"hidden[{i}] has inconsistent hidden_size: got {part.shape[1]}, "
                    f"expected {shape[1]}"
                )
        weights = _quantized_weights(self._weight_quantizer, self.weight_ih, self.weight_hh)
        return _step(input, hx, weights, (self.bias_ih, self.bias_hh), self._input_quantizer)


LSTM = QuantLSTM
LSTMCell = QuantLSTMCell
