"""From an observed graph to one on integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from octavo.quantization import quantized, workflow
from octavo.quantization.fx_calls import KEEPS, SHAPES, call_kind, is_relu, join_of
from octavo.quantization.fx_modules import free_name, module_of, place, role, static_modules

__all__ = ["Converter"]


class Converter:
    """Puts integer modules in, and conversions where floats are wanted."""

    def __init__(self, model: fx.GraphModule, marks: dict[str, list[int]]) -> None:
        self._model, self._marks, self._graph = model, marks, model.graph
        self._integer: set[fx.Node] = set()
        self._floats: dict[fx.Node, fx.Node] = {}
        self._static, self._dynamic = (
            static_modules(),
            (workflow.get_default_dynamic_quant_module_mappings()),
        )

    def run(self) -> None:
        """Call after call, in order."""
        placeholders = [n for n in self._graph.nodes if n.op == "placeholder"]
        self._integer |= {placeholders[i] for i in self._marks["inputs"]}
        for node in list(self._graph.nodes):
            if node.op == "output":
                self._output(node)
            elif node.op.startswith("call_"):
                self._call(node)

    def _call(self, node: fx.Node) -> None:
        module = module_of(self._model, node)
        seen = role(self._model, node)
        if seen == "input":
            scale, zero_point = module.calculate_qparams()
            made = quantized.Quantize(scale, zero_point, module.dtype)
            self._replace(node, made, "quantize")
            self._integer.add(node)
        elif seen == "output":  # what was before it has its grid by now
            first: Any = node.args[0]
            node.replace_all_uses_with(first)
            self._graph.erase_node(node)
        elif module is not None and getattr(module, "qconfig", None) is not None:
            self._convert(node, module)
        elif join_of(node) is not None and self._join(node):
            pass
        elif self._keeps(node, module):
            self._integer.add(node)
        elif call_kind(node) not in SHAPES:
            node.args = fx.map_arg(node.args, self._float_for(node))
            node.kwargs = fx.map_arg(node.kwargs, self._float_for(node))

    def _keeps(self, node: fx.Node, module: Any) -> bool:
        kind = workflow._kind(module) if module is not None else call_kind(node)
        first = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
        return kind in KEEPS and isinstance(first, fx.Node) and first in self._integer

    def _observer_of(self, node: fx.Node) -> Any:
        for user in node.users:
            if role(self._model, user) == "output":
                return module_of(self._model, user)
        return None

    def _convert(self, node: fx.Node, module: Any) -> None:
        observer = self._observer_of(node)
        if observer is None:  # weights alone, or scales found at each call
            node.args = fx.map_arg(node.args, self._float_for(node))
            made = workflow.swap_module(module, self._dynamic)
        else:
            module.activation_post_process = observer
            made = workflow.swap_module(module, self._static)
            self._integer.add(node)
        made.__dict__.pop("qconfig", None)
        place(self._model, str(node.target), made)

    def _join(self, node: fx.Node) -> bool:
        """An addition or such becomes a method of a QFunctional."""
        method = join_of(node)
        assert method is not None
        if method in ("add_scalar", "mul_scalar"):
            tensors = [n for n in node.args if isinstance(n, fx.Node)]
            if len(tensors) != 1 or tensors[0] not in self._integer:
                return False
            (number,) = [n for n in node.args[:2] if not isinstance(n, fx.Node)]
            self._functional(node, method, None, (tensors[0], number))
            return True
        observer, last = self._observer_of(node), node
        user = next(iter(node.users)) if len(node.users) == 1 else None
        with_relu = user is not None and is_relu(user, module_of(self._model, user))
        if observer is None and method == "add" and user is not None and with_relu:
            observer, last, method = self._observer_of(user), user, "add_relu"
        if observer is None:
            return False
        made = self._functional(node, method, observer, node.args)
        if last is not node:
            last.replace_all_uses_with(made)
            # An observer behind it is met later in the order; it now reads the addition.
            self._graph.erase_node(last)
        return True

    def _functional(self, node: fx.Node, method: str, observer: Any, args: Any) -> fx.Node:
        functional = quantized.QFunctional()
        if observer is not None:
            functional.activation_post_process = observer
            functional._take_grid(functional)
            functional.activation_post_process = nn.Identity()
        name = free_name(self._model, method)
        self._model.add_submodule(name, functional)
        with self._graph.inserting_before(node):
            owner = self._graph.get_attr(name)
        node.op, node.target = "call_method", method
        node.args, node.kwargs = (owner, *args), {}
        self._integer.add(node)
        return node

    def _replace(self, node: fx.Node, module: nn.Module, stem: str) -> None:
        name = free_name(self._model, stem)
        self._model.add_submodule(name, module)
        node.target = name

    def _float_for(self, reader: fx.Node) -> Callable[[fx.Node], fx.Node]:
        def as_float(x: fx.Node) -> fx.Node:
            if x not in self._integer:
                return x
            if x not in self._floats:
                name = free_name(self._model, "dequantize")
                self._model.add_submodule(name, quantized.DeQuantize())
                with self._graph.inserting_after(x):
                    self._floats[x] = self._graph.call_module(name, (x,))
            return self._floats[x]

        del reader
        return as_float

    def _output(self, node: fx.Node) -> None:
        keep = set(self._marks["outputs"])
        result: Any = node.args[0]
        if isinstance(result, (tuple, list)):
            made = [
                r if i in keep else fx.map_arg(r, self._float_for(node))
                for i, r in enumerate(result)
            ]
            node.args = (type(result)(made),)
        elif 0 not in keep:
            node.args = (fx.map_arg(result, self._float_for(node)),)
