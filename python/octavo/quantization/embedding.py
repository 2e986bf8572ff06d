"""Embeddings with 8-bit tables, a scale and a float zero point for each row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from octavo._export.qdq import is_exporting, refuse
from octavo.errors import UnsupportedError, UserError
from octavo.quantization._ops import ops


def _quantized_table(module: Any) -> Tensor:
    observer = module.qconfig.weight()
    if observer.dtype != torch.quint8 or observer.qscheme != torch.per_channel_affine_float_qparams:
        raise UnsupportedError(
            "embeddings are quantized to quint8 with float_qparams_weight_only_qconfig"
        )
    observer(module.weight)
    scale, zero_point = observer.calculate_qparams()
    return torch.quantize_per_channel(
        module.weight.detach().float(), scale.float(), zero_point.float(), 0, torch.quint8
    )


class Embedding(nn.Module):
    """An Embedding whose rows are dequantized as they are looked up."""

    _name = "QuantizedEmbedding"

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self._table: Any = None
        self._parts: Any = None

    @classmethod
    def from_float(cls, module: Any) -> Any:
        """From an embedding with a qconfig."""
        made = cls(module.num_embeddings, module.embedding_dim)
        made.set_weight(_quantized_table(module))
        return made

    def set_weight(self, w: Tensor) -> None:
        """Takes a quint8 table."""
        self._table = w
        self._parts = (
            w.int_repr().contiguous(),
            w.q_per_channel_scales().float().contiguous(),
            w.q_per_channel_zero_points().float().contiguous(),
        )

    def weight(self) -> Tensor:
        """The table, a quantized tensor."""
        table: Tensor = self._table
        return table

    def forward(self, indices: Tensor) -> Tensor:
        """The rows, in float."""
        if is_exporting():
            return self._exported_rows(indices)
        rows: Tensor = ops.embedding_int8(*self._parts, indices)
        return rows

    def _exported_rows(self, indices: Tensor) -> Tensor:
        """The same in torch's own operations, while torch.onnx exports: rows of 8-bit integers."""
        table, *numbers = self._parts
        scale, zero = (functional.embedding(indices, n.unsqueeze(1)) for n in numbers)
        return (functional.embedding(indices, table).float() - zero) * scale

    def _get_name(self) -> str:
        return self._name

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return (
            f"num_embeddings={self.num_embeddings}, embedding_dim={self.embedding_dim}, "
            f"dtype={self._table.dtype}, qscheme={self._table.qscheme()}"
        )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if is_exporting():  # the TorchScript engine takes plain tensors only
            return
        destination[prefix + "_packed_params.dtype"] = torch.quint8
        destination[prefix + "_packed_params._packed_weight"] = self._table

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        state_dict.pop(prefix + "_packed_params.dtype", None)
        key = prefix + "_packed_params._packed_weight"
        if key in state_dict:
            table = state_dict.pop(key)
            if table.shape != self._table.shape:
                raise UserError(f"load_state_dict: {key} is {tuple(table.shape)}")
            self.set_weight(table)
        else:
            args[2].append(key)
        super()._load_from_state_dict(state_dict, prefix, *args)


class EmbeddingBag(Embedding):
    """An EmbeddingBag (sum or mean) over an 8-bit table."""

    _name = "QuantizedEmbeddingBag"
    mode = "sum"
    include_last_offset = False

    @classmethod
    def from_float(cls, module: Any) -> Any:
        """From an embedding bag with a qconfig."""
        if module.mode not in ("sum", "mean"):
            raise UnsupportedError(f"quantize_dynamic: an EmbeddingBag of mode {module.mode!r}")
        made = super().from_float(module)
        made.mode = module.mode
        made.include_last_offset = module.include_last_offset
        return made

    def forward(
        self,
        indices: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        """The sum or mean of each bag's rows, in float."""
        if is_exporting():
            if indices.dim() != 2 or per_sample_weights is not None:
                refuse("export_onnx: an EmbeddingBag with offsets or per_sample_weights")
            rows = self._exported_rows(indices)
            return rows.mean(1) if self.mode == "mean" else rows.sum(1)
        if indices.dim() == 2:
            if offsets is not None:
                raise UserError("EmbeddingBag: offsets go with indices of one axis")
            bags, length = indices.shape
            offsets = torch.arange(0, bags * length, length)
            indices = indices.reshape(-1)
            if per_sample_weights is not None:
                per_sample_weights = per_sample_weights.reshape(-1)
        elif offsets is None:
            raise UserError("EmbeddingBag: indices of one axis need offsets")
        elif self.include_last_offset:
            offsets = offsets[:-1]
        if per_sample_weights is not None and self.mode != "sum":
            raise UserError("EmbeddingBag: per_sample_weights go with mode 'sum'")
        sums: Tensor = ops.embedding_bag_int8(
            *self._parts, indices, offsets, per_sample_weights, self.mode == "mean"
        )
        return sums
