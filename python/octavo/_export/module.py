"""Quantized torch modules as ONNX files."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from octavo import _core
from octavo._core import Graph
from octavo._export.qdq import reporting_refusals
from octavo.compat.pytorch_quantization import enable_onnx_export
from octavo.compat.pytorch_quantization.nn import TensorQuantizer
from octavo.errors import UserError
from octavo.nn.running import in_evaluation_mode
from octavo.quantization.packed import PackedModule

__all__ = ["module_graph"]


def _check(model: torch.nn.Module) -> None:
    for name, module in model.named_modules():
        if not isinstance(module, TensorQuantizer) or module._disabled or not module._if_quant:
            continue
        if module.amax is None and not module._learn_amax:
            raise UserError(f"export_onnx: {name} has no amax; calibrate it, or disable it")
        if module._if_calib:
            raise UserError(f"export_onnx: {name} is being calibrated; call disable_calib()")


def module_graph(
    model: torch.nn.Module,
    args: Any,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    dynamic_shapes: Any,
) -> Graph:
    """The canonical graph of a module in evaluation, by torch.onnx.export on torch.export.

    Inputs are named as forward's parameters if ``input_names`` is None.
    """
    _check(model)
    args = args if isinstance(args, tuple) else (args,)
    if input_names is None:
        parameters = list(inspect.signature(model.forward).parameters.values())[: len(args)]
        plain = all(p.kind == p.POSITIONAL_OR_KEYWORD for p in parameters)
        if plain and all(isinstance(arg, torch.Tensor) for arg in args):
            input_names = [p.name for p in parameters]
    with (
        in_evaluation_mode(model),
        tempfile.TemporaryDirectory() as folder,
        enable_onnx_export(),
        reporting_refusals(),
    ):
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            model,
            args,
            str(path),
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=dynamic_shapes,
            opset_version=18,
            dynamo=True,
            external_data=True,
            verbose=False,
        )
        graph: Graph = _core.load_onnx(str(path))
    for module in model.modules():
        if isinstance(module, PackedModule):
            module._numbers = []  # as large as the weights
    graph.canonicalize()
    return graph
