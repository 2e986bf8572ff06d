"""Runs what of a model follows from one module, on values that are known for the rest."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch

from octavo.nn.running import Forward

__all__ = ["Suffix"]


class _Leaves(torch.fx.Tracer):
    """Enters no module that is a layer."""

    def __init__(self, leaves: Collection[torch.nn.Module]) -> None:
        super().__init__()
        self._kept = set(leaves)

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        """Whether a call of it is one node."""
        return m in self._kept or super().is_leaf_module(m, module_qualified_name)


class _InPlaceError(Exception):
    pass


class _Recorder(torch.fx.Interpreter):
    """Keeps all values; refuses what changes one in place, since others run on it later."""

    def run_node(self, n: torch.fx.Node) -> Any:
        inputs = [self.env[a] for a in n.all_input_nodes]
        tensors = [t for t in inputs if isinstance(t, torch.Tensor)]
        versions = [t._version for t in tensors]
        result = super().run_node(n)
        if [t._version for t in tensors] != versions:
            raise _InPlaceError
        return result


class Suffix:
    """A model that runs whole at first, then again from a module on.

    Where torch.fx cannot trace the model, a value is changed in place, or ``forward`` gives
    something else than the model does, the whole model runs each time; ``known`` tells.

    Args:
        model: in evaluation mode.
        layers: modules that are not entered.
        forward: runs the model on a batch.
    """

    def __init__(
        self, model: torch.nn.Module, layers: Collection[torch.nn.Module], forward: Forward
    ) -> None:
        self._model = model
        self._forward = forward
        self._graph: torch.fx.GraphModule | None = None
        self._values: dict[torch.fx.Node, Any] = {}
        self._batch: Any = None
        try:
            graph = _Leaves(layers).trace(model)
        except Exception:  # whatever the model's code raises on proxies
            return
        self._graph = torch.fx.GraphModule(model, graph)

    @property
    def known(self) -> bool:
        """Whether the graph is known and of use."""
        return self._graph is not None

    def start(self, batch: Any) -> Any:
        """Runs everything; what the modules do now is what later runs begin with."""
        self._batch = batch
        self._values = {}
        if self._graph is None:
            return self._forward(self._model, batch)
        calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []

        def keep(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
            calls.append((args, kwargs, output))

        hook = self._model.register_forward_hook(keep, with_kwargs=True)
        try:
            result = self._forward(self._model, batch)
        finally:
            hook.remove()
        if len(calls) != 1 or calls[0][2] is not result:
            self._graph = None
            return result
        args, kwargs, _ = calls[0]
        recorder = _Recorder(self._graph, garbage_collect_values=False)
        try:
            traced = recorder.run(*_bound(self._graph, args, kwargs))
        except _InPlaceError:
            self._graph = None
            return self._forward(self._model, batch)
        if not _equal(traced, result):  # the trace took another branch than the model does
            self._graph = None
            return result
        self._values = dict(recorder.env)
        return result

    def whole(self) -> Any:
        """The batch of :meth:`start`, all of it; later runs begin with the same as before."""
        return self._forward(self._model, self._batch)

    def again(self, layer: torch.nn.Module) -> Any:
        """The batch of :meth:`start`, where only ``layer`` does something else than then."""
        graph = self._graph
        if graph is None:
            return self.whole()
        after: set[torch.fx.Node] = set()
        for node in graph.graph.nodes:
            itself = node.op == "call_module" and graph.get_submodule(node.target) is layer
            if itself or any(a in after for a in node.all_input_nodes):
                after.add(node)
        known = {n: v for n, v in self._values.items() if n not in after}
        if not after:
            return self.whole()  # its call is not in the graph
        return torch.fx.Interpreter(graph).run(initial_env=known, enable_io_processing=False)


def _bound(graph: torch.fx.GraphModule, args: Any, kwargs: Any) -> list[Any]:
    """The arguments in the order of the graph's placeholders."""
    names = [n for n in graph.graph.nodes if n.op == "placeholder"]
    rest = dict(kwargs)
    bound = list(args[: len(names)])
    for node in names[len(args) :]:
        bound.append(rest.pop(str(node.target)) if node.target in rest else node.args[0])
    return bound


def _equal(a: Any, b: Any) -> bool:
    leaves: Callable[[Any], list[Any]] = torch.utils._pytree.tree_leaves
    x, y = leaves(a), leaves(b)
    return len(x) == len(y) and all(
        torch.equal(i, j) if isinstance(i, torch.Tensor) else i == j
        for i, j in zip(x, y, strict=True)
    )
