"""Batch normalization folded into the convolution or linear layer before it."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.utils import fusion

from octavo.errors import UserError

__all__ = ["fold_batch_norm"]

_CONVOLUTIONS = (torch.nn.modules.conv._ConvNd,)
_LINEAR = (torch.nn.Linear,)
_BATCH_NORM = torch.nn.modules.batchnorm._BatchNorm
_CONV_OPS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
             "conv_transpose3d", "linear")  # fmt: skip


def _pairs_by_trace(model: torch.nn.Module) -> Iterator[tuple[str, str]]:
    try:
        graph = torch.fx.symbolic_trace(model).graph
    except Exception as error:
        raise UserError(
            f"batch normalization cannot be folded: torch.fx cannot trace the model ({error}); "
            "give example inputs (args=), or do not fold (fold=False)"
        ) from error
    calls = Counter(n.target for n in graph.nodes if n.op == "call_module")
    for node in graph.nodes:
        if node.op != "call_module" or len(node.args) != 1:
            continue
        (before,) = node.args
        if not isinstance(before, torch.fx.Node) or before.op != "call_module":
            continue
        once = calls[node.target] == calls[before.target] == len(before.users) == 1
        if once:
            yield str(before.target), str(node.target)


def _pairs_by_export(model: torch.nn.Module, args: tuple[Any, ...]) -> Iterator[tuple[str, str]]:
    program = torch.export.export(model, args)
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}

    def owner(node: Any, index: int) -> str | None:
        value = node.args[index] if index < len(node.args) else None
        if not isinstance(value, torch.fx.Node) or value.name not in names or len(value.users) > 1:
            return None
        return str(names[value.name]).rpartition(".")[0]

    for node in program.graph.nodes:
        if node.op != "call_function" or getattr(node.target, "_opname", "") != "batch_norm":
            continue
        before = node.args[0]
        if getattr(before.target, "_opname", "") not in _CONV_OPS or len(before.users) != 1:
            continue
        # aten.batch_norm: input, weight, bias, running_mean, ...
        layer, norm = owner(before, 1), owner(node, 3)
        if layer is not None and norm is not None:
            yield layer, norm


def _fold(layer: Any, norm: Any) -> Callable[[], None]:
    """Changes the layer's weight and bias in place; gives what undoes it."""
    weight, bias = layer.weight.detach().clone(), layer.bias
    bias_values = None if bias is None else bias.detach().clone()
    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    if isinstance(layer, _LINEAR):
        new = fusion.fuse_linear_bn_weights(layer.weight, bias, *statistics)
    else:
        new = fusion.fuse_conv_bn_weights(layer.weight, bias, *statistics, layer.transposed)
    with torch.no_grad():
        layer.weight.copy_(new[0])
        if bias is None:
            layer.bias = torch.nn.Parameter(new[1].detach())
        else:
            bias.copy_(new[1])

    def undo() -> None:
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias = bias
            if bias is not None:
                bias.copy_(bias_values)

    return undo


def set_module(model: torch.nn.Module, name: str, module: torch.nn.Module) -> None:
    """Puts a module at a qualified name."""
    parent, _, last = name.rpartition(".")
    model.get_submodule(parent)._modules[last] = module


def fold_batch_norm(
    model: torch.nn.Module, args: tuple[Any, ...] | None = None
) -> tuple[list[tuple[str, str]], Callable[[], None]]:
    """Folds each batch normalization into the convolution or linear layer that alone feeds it.

    What it does in evaluation mode becomes part of weight and bias; torch.nn.Identity takes its
    place. One without running statistics stays.

    Args:
        model: changed in place.
        args: example inputs: torch.export then finds the pairs; None: torch.fx does, if it can
            trace the model.

    Returns:
        The pairs (layer, normalization) by name, and what undoes it; weights are then as they were
        before.

    Raises:
        UserError: there are no ``args``, and torch.fx cannot trace the model.
    """
    if not any(isinstance(m, _BATCH_NORM) for m in model.modules()):
        return [], lambda: None
    was_training = {m: m.training for m in model.modules()}
    model.eval()
    try:
        pairs = list(_pairs_by_trace(model) if args is None else _pairs_by_export(model, args))
    finally:
        for module, training in was_training.items():
            module.training = training
    folded: list[tuple[str, str]] = []
    undo: list[Callable[[], None]] = []
    for layer_name, norm_name in pairs:
        layer, norm = model.get_submodule(layer_name), model.get_submodule(norm_name)
        if not isinstance(layer, _CONVOLUTIONS + _LINEAR) or not isinstance(norm, _BATCH_NORM):
            continue
        if norm.running_mean is None or norm.running_var is None:
            continue
        undo.append(_fold(layer, norm))
        set_module(model, norm_name, torch.nn.Identity().train(norm.training))
        folded.append((layer_name, norm_name))
        undo.append(functools.partial(set_module, model, norm_name, norm))

    def undo_all() -> None:
        for step in reversed(undo):
            step()

    return folded, undo_all
