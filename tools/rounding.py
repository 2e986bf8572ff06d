"""How far two correct float32 runs of one ONNX network may differ.

A float32 dot product rounds at every step, and the order of the steps is each library's own. This
walks the network in float64 and carries, beside every value, the variance that float32 rounding
gives it. `rounding_rules.py` has the rule of each op; they take:

* each of the n roundings of a sum or dot product as independent, with relative error uniform in
  [-u, u] (u = 2**-24, variance u**2 / 3) on a partial sum of at most sum |w x|;
* the errors of different terms of a sum or dot product as independent;
* the two operands of a product or quotient as correlated in the worst way, so that deviations add:
  often both come from one value (x * x, x * sigmoid x);
* a function of one element by its slope, and as computed within FUNCTION_ULPS units in the last
  place, by either run.

Both runs err, so their difference has twice the variance, and `bound` is SIGMAS standard
deviations of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from rounding_rules import SIGMAS, Pair, apply

Feeds = Mapping[str, NDArray[np.generic]]


def _tensor(array: NDArray[np.generic]) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(array))
    return tensor.double() if tensor.is_floating_point() else tensor


def _last_readers(graph: onnx.GraphProto) -> dict[str, int]:
    return {name: place for place, node in enumerate(graph.node) for name in node.input}


def bound(path: Path, inputs: NDArray[np.float32] | Feeds) -> NDArray[np.float64]:
    """For each value of the network's first output, how far apart two float32 runs may be.

    `inputs`: all of them by name, or the only one."""
    model = onnx.load(path)
    graph = model.graph
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    values: dict[str, Pair] = {
        t.name: (_tensor(numpy_helper.to_array(t)), None) for t in graph.initializer
    }
    fed = [value.name for value in graph.input if value.name not in values]
    feeds = inputs if isinstance(inputs, Mapping) else {fed[0]: inputs}
    for name in fed:
        values[name] = (_tensor(feeds[name]), None)
    last = _last_readers(graph)
    output = graph.output[0].name
    with torch.inference_mode():
        for place, node in enumerate(graph.node):
            operands = [values[name] if name else None for name in node.input]
            values[node.output[0]] = apply(node, operands, opset)
            for name in node.input:
                if name and last[name] == place and name != output:
                    values.pop(name, None)
    value, variance = values[output]
    if variance is None:
        return np.zeros(tuple(value.shape))
    return SIGMAS * torch.sqrt(2.0 * variance).numpy()


def over(
    allowed: NDArray[np.float64], ours: NDArray[np.float32], theirs: NDArray[np.float32]
) -> float:
    """The largest difference of two runs over its bound: at most 1 if both are correct."""
    difference = np.abs(ours.astype(np.float64) - theirs)
    if not np.isfinite(difference).all():
        return float("inf")
    ratio = np.full(difference.shape, np.inf)
    np.divide(difference, allowed, out=ratio, where=allowed > 0)
    return float(np.where(difference > 0, ratio, 0.0).max())
