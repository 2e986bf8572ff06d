"""How far two correct float32 runs of one ONNX network may differ.

A float32 dot product rounds at every step, and the order of the steps is each library's own. This
walks the network in float64 and carries, beside every value, the variance that float32 rounding
gives it: each of the n roundings of a dot product is taken as independent, with relative error
uniform in [-u, u] (u = 2**-24, variance u**2 / 3) on a partial sum of at most sum |w x|. Both runs
err, so their difference has twice the variance, and `bound` is SIGMAS standard deviations of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch.nn import functional

UNIT_VARIANCE = 2.0**-48 / 3.0
SIGMAS = 6.0

Pair = tuple[torch.Tensor, torch.Tensor]  # value and variance


def _affine(
    x: Pair, weight: torch.Tensor, bias: torch.Tensor | None, apply: Callable[..., torch.Tensor]
) -> Pair:
    """A convolution or matrix product: `apply(x, weight, bias)`."""
    value, variance = x
    roundings = weight[0].numel() + 1
    magnitude = apply(value.abs(), weight.abs(), None if bias is None else bias.abs())
    out_variance = (
        apply(variance, weight.square(), None) + roundings * UNIT_VARIANCE * magnitude.square()
    )
    return apply(value, weight, bias), out_variance


def _clip(
    value: torch.Tensor, variance: torch.Tensor, low: float | None, high: float | None
) -> Pair:
    """Exact, and an error that cannot bring the value back inside the limits is forgotten."""
    reach = SIGMAS * torch.sqrt(variance)
    outside = torch.zeros_like(value, dtype=torch.bool)
    if low is not None:
        outside |= value + reach < low
    if high is not None:
        outside |= value - reach > high
    return value.clamp(low, high), variance.masked_fill(outside, 0.0)


def _node(node: onnx.NodeProto, inputs: list[Pair], weights: list[torch.Tensor | None]) -> Pair:
    """`inputs` holds the computed inputs, `weights` has an entry for every input, the constants."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    value, variance = inputs[0]
    match node.op_type:
        case "Conv":
            top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
            padding = (left, right, top, bottom)
            weight = weights[1]
            assert weight is not None

            def convolve(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
                return functional.conv2d(
                    functional.pad(x, padding),
                    w,
                    b,
                    stride=tuple(attributes.get("strides", (1, 1))),
                    dilation=tuple(attributes.get("dilations", (1, 1))),
                    groups=attributes.get("group", 1),
                )

            return _affine(
                (value, variance), weight, weights[2] if len(weights) > 2 else None, convolve
            )
        case "Gemm":
            weight = weights[1]
            assert weight is not None
            assert attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
            if not attributes.get("transB", 0):
                weight = weight.T
            return _affine((value, variance), weight, weights[2], functional.linear)
        case "BatchNormalization":
            gamma, beta, mean, var = (w[:, None, None] for w in weights[1:5] if w is not None)
            slope = gamma / torch.sqrt(var + attributes.get("epsilon", 1e-5))
            shift = beta - mean * slope
            # a square root, a division, a few products and sums, none above this in any order
            magnitude = (value.abs() + mean.abs()) * slope.abs() + beta.abs()
            return (
                value * slope + shift,
                variance * slope.square() + 6 * UNIT_VARIANCE * magnitude.square(),
            )
        case "Clip":
            low, high = (None if w is None else float(w) for w in weights[1:3])
            return _clip(value, variance, low, high)
        case "Relu":
            return _clip(value, variance, 0.0, None)
        case "Add":
            other, other_variance = inputs[1]
            total = value + other
            return total, variance + other_variance + UNIT_VARIANCE * total.square()
        case "GlobalAveragePool":
            count = value.shape[2] * value.shape[3]
            mean = value.mean((2, 3), keepdim=True)
            magnitude = value.abs().mean((2, 3), keepdim=True)
            return mean, variance.mean((2, 3), keepdim=True) / count + (
                count + 1
            ) * UNIT_VARIANCE * magnitude.square()
        case "Flatten" if attributes.get("axis", 1) == 1:
            return value.flatten(1), variance.flatten(1)
    raise ValueError(f"no rounding rule for {node.op_type} node {node.name}")


def bound(path: Path, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """For each output value of the network at `path`, how far apart two float32 runs may be."""
    graph = onnx.load(path).graph
    constants = {t.name: torch.tensor(numpy_helper.to_array(t)).double() for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            value = onnx.helper.get_attribute_value(node.attribute[0])
            array = numpy_helper.to_array(value) if node.attribute[0].name == "value" else value
            constants[node.output[0]] = torch.tensor(array).double()
    values: dict[str, Pair] = {}
    start = torch.from_numpy(inputs).double()
    values[graph.input[0].name] = (start, torch.zeros_like(start))
    with torch.inference_mode():
        for node in graph.node:
            if node.op_type != "Constant":
                computed = [values[name] for name in node.input if name in values]
                fixed = [constants.get(name) for name in node.input]
                values[node.output[0]] = _node(node, computed, fixed)
    _, variance = values[graph.output[0].name]
    return SIGMAS * torch.sqrt(2.0 * variance).numpy()
