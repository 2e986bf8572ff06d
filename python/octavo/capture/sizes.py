"""Graphs with symbolic sizes for backends that compile for one size."""

from __future__ import annotations

import logging
import operator
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch

_log = logging.getLogger("octavo.capture")

most_sizes = 16  # programs kept for one graph; the one used longest ago goes first

_arithmetic = {
    operator.add,
    operator.sub,
    operator.mul,
    operator.floordiv,
    operator.mod,
    operator.truediv,
    operator.pow,
    operator.neg,
    torch.sym_max,
    torch.sym_min,
    torch.sym_float,
    getattr(torch, "_sym_sqrt"),  # noqa: B009 (has no type)
}


def with_sizes(gm: torch.fx.GraphModule, inputs: Sequence[Any]) -> torch.fx.GraphModule:
    """The graph with the ints among ``inputs`` as constants, and what is computed from them."""
    graph = torch.fx.Graph()
    known: dict[torch.fx.Node, Any] = {}
    given = iter(inputs)
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            value = next(given)
            if isinstance(value, int):
                known[node] = value
                continue
        args = torch.fx.map_arg(node.args, lambda n: known[n])
        numbers = all(isinstance(arg, int | float) for arg in args)
        if node.op == "call_function" and node.target in _arithmetic and numbers:
            known[node] = node.target(*args)
            continue
        if node.op == "output":
            graph.output(args[0])
        else:
            known[node] = graph.node_copy(node, lambda n: known[n])
    return torch.fx.GraphModule(gm, graph)


def by_size(
    backend: Callable[[torch.fx.GraphModule, list[Any]], Callable[..., Any]],
) -> Callable[[torch.fx.GraphModule, list[Any]], Callable[..., Any]]:
    """The backend, called anew for each set of sizes that a graph with symbols is run with."""

    def compile(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        if not any(isinstance(x, int) for x in example_inputs):
            return backend(gm, example_inputs)
        programs: OrderedDict[tuple[Any, ...], Callable[..., Any]] = OrderedDict()

        def call(*inputs: Any) -> Any:
            # Each symbol is an input, so the ints are all that differs.
            key = tuple(x for x in inputs if isinstance(x, int))
            tensors = [x for x in inputs if not isinstance(x, int)]
            program = programs.get(key)
            if program is None:
                _log.info("a graph is compiled for sizes %s", key)
                program = programs[key] = backend(with_sizes(gm, inputs), tensors)
                if len(programs) > most_sizes:
                    programs.popitem(last=False)
            else:
                programs.move_to_end(key)
            return program(*tensors)

        return call

    return compile
