"""What is done about the calls of a traced model: tables, and modules in place of functions."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

__all__ = ["JOINS", "KEEPS", "SHAPES", "as_module", "call_kind", "is_relu", "join_of"]

# What joins tensors: QFunctional's methods.
JOINS: dict[Any, str] = {
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    "add": "add",
    "add_": "add",
    operator.mul: "mul",
    operator.imul: "mul",
    torch.mul: "mul",
    "mul": "mul",
    "mul_": "mul",
    torch.cat: "cat",
    torch.concat: "cat",
    operator.matmul: "matmul",
    torch.matmul: "matmul",
    "matmul": "matmul",
}
# What keeps the grid of what it reads, or knows its own: torch has it for quantized tensors.
KEEPS: set[Any] = {
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AvgPool1d, nn.AvgPool2d,
    nn.AvgPool3d, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Flatten, nn.Identity,
    nn.MaxPool1d, nn.MaxPool2d, nn.PixelShuffle, nn.ReLU, nn.Unflatten, nn.Upsample,
    functional.adaptive_avg_pool2d, functional.adaptive_avg_pool3d, functional.avg_pool2d,
    functional.avg_pool3d, functional.dropout, functional.interpolate, functional.max_pool1d,
    functional.max_pool2d, functional.relu, functional.pixel_shuffle, operator.getitem,
    torch.adaptive_avg_pool1d, torch.avg_pool1d, torch.chunk, torch.flatten, torch.mean,
    torch.narrow, torch.permute, torch.relu, torch.reshape, torch.split, torch.squeeze,
    torch.transpose, torch.unsqueeze, torch.max_pool2d, torch.clone,
    "chunk", "clone", "contiguous", "detach", "expand", "flatten", "mean", "narrow", "permute",
    "relu", "relu_", "repeat", "reshape", "split", "squeeze", "t", "transpose", "unsqueeze", "view",
}  # fmt: skip
# What asks for sizes alone.
SHAPES: set[Any] = {getattr, "size", "dim", "numel", "shape", "stride", "ndimension"}

_RELUS = (torch.relu, functional.relu, functional.relu_, "relu", "relu_")


def call_kind(node: fx.Node) -> Any:
    """Function or name of a method."""
    return node.target


def is_relu(node: fx.Node, module: Any) -> bool:
    """Whether a call is max(x, 0)."""
    if module is not None:
        return type(module) is nn.ReLU
    return node.op in ("call_function", "call_method") and node.target in _RELUS


def join_of(node: fx.Node) -> str | None:
    """The method of QFunctional for a call, if it is one on tensors."""
    if node.op not in ("call_function", "call_method"):
        return None
    method = JOINS.get(node.target)
    if method == "cat":
        extra = set(node.kwargs) - {"tensors", "dim"}
        given: Any = node.args[0] if node.args else node.kwargs.get("tensors")
        fits = isinstance(given, list | tuple) and all(isinstance(n, fx.Node) for n in given)
        return method if fits and not extra else None
    if method is None or node.kwargs or len(node.args) != 2:
        return None
    a, b = node.args
    if isinstance(a, fx.Node) and isinstance(b, fx.Node):
        return None if a.op == "get_attr" or b.op == "get_attr" else method
    if method in ("add", "mul") and any(isinstance(n, int | float) for n in (a, b)):
        return f"{method}_scalar"
    return None


def _parameter(model: nn.Module, node: Any) -> Any:
    """The value of an attribute of the model; None if it is none."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: Any = model
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


def _linear(model: nn.Module, x: Any, weight: Any, bias: Any = None) -> nn.Module | None:
    del x
    values = _weights(model, weight, bias)
    if values is None:
        return None
    w, b = values
    made = nn.Linear(w.shape[1], w.shape[0], b is not None, device="meta")
    made.weight, made.bias = w, b
    return made


def _weights(model: nn.Module, weight: Any, bias: Any) -> tuple[Any, Any] | None:
    w, b = _parameter(model, weight), _parameter(model, bias)
    known = isinstance(w, nn.Parameter) and (bias is None or isinstance(b, nn.Parameter))
    return (w, b) if known else None


def _conv(kind: Any) -> Callable[..., nn.Module | None]:
    def make(
        model: nn.Module,
        x: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> nn.Module | None:
        del x
        values = _weights(model, weight, bias)
        if values is None:
            return None
        w, b = values
        made = kind(
            w.shape[1] * groups, w.shape[0], tuple(w.shape[2:]), stride, padding, dilation, groups,
            b is not None, device="meta",
        )  # fmt: skip
        made.weight, made.bias = w, b
        return made  # type: ignore[no-any-return]

    return make


def _function(kind: Any, *names: str) -> Callable[..., nn.Module]:
    def make(model: nn.Module, x: Any, *args: Any, **kwargs: Any) -> nn.Module:
        del model, x
        given = dict(zip(names, args, strict=False)) | kwargs
        given.pop("inplace", None)
        made: nn.Module = kind(**given)
        return made

    return make


_MODULES: dict[Any, Callable[..., nn.Module | None]] = {
    functional.linear: _linear,
    torch.conv1d: _conv(nn.Conv1d),
    torch.conv2d: _conv(nn.Conv2d),
    torch.conv3d: _conv(nn.Conv3d),
    functional.conv1d: _conv(nn.Conv1d),
    functional.conv2d: _conv(nn.Conv2d),
    functional.conv3d: _conv(nn.Conv3d),
    functional.relu6: _function(nn.ReLU6, "inplace"),
    functional.hardswish: _function(nn.Hardswish, "inplace"),
    functional.hardsigmoid: _function(nn.Hardsigmoid, "inplace"),
    functional.leaky_relu: _function(nn.LeakyReLU, "negative_slope", "inplace"),
    functional.elu: _function(nn.ELU, "alpha", "inplace"),
    functional.sigmoid: _function(nn.Sigmoid),
    torch.sigmoid: _function(nn.Sigmoid),
    "sigmoid": _function(nn.Sigmoid),
    functional.tanh: _function(nn.Tanh),
    torch.tanh: _function(nn.Tanh),
    "tanh": _function(nn.Tanh),
}


def as_module(model: nn.Module, node: fx.Node) -> nn.Module | None:
    """A module that computes what a call of a function does; None if there is none."""
    if node.op == "call_module" or node.target not in _MODULES:
        return None
    kwargs = dict(node.kwargs)
    args = node.args if node.args else (kwargs.pop("input", None),)
    if not isinstance(args[0], fx.Node):
        return None
    made = _MODULES[node.target](model, *args, **kwargs)
    if made is not None:
        node.args = (args[0],)
    return made
