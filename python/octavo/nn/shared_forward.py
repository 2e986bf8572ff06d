"""Forwards of modules with quantizers at the calls that they make themselves."""

from __future__ import annotations

import functools
import inspect
import operator
import types
from collections import defaultdict
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from octavo.errors import UserError
from octavo.nn.shared_kinds import KINDS, OPTIONAL, TWO_SIDED
from octavo.nn.shared_plan import Site

__all__ = ["record_calls", "rewritten", "unfollowed"]


class _Children(torch.fx.Tracer):
    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        """Every submodule is one node."""
        return True


class _Kinds(torch.fx.Interpreter):
    """Notes the calls of ours in a forward, in order, where their operands are tensors."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[str, list[torch.fx.Node]] = defaultdict(list)

    def run_node(self, n: torch.fx.Node) -> Any:
        kind = _fx_kind(n)
        if kind is not None:
            values = [self.env[a] for a in _fx_operands(n, kind)]
            if values and all(isinstance(v, torch.Tensor) for v in values) and (
                (kind not in TWO_SIDED or len(values) == 2) and not _changes_for_others(n, kind)
            ):  # fmt: skip
                self.found[kind].append(n)
        return super().run_node(n)


def _fx_kind(node: torch.fx.Node) -> str | None:
    if node.op == "call_method":
        return KINDS.get(str(node.target))
    if node.op != "call_function":
        return None
    name = getattr(node.target, "__name__", "")
    if name in ("interpolate", "upsample"):
        mode = node.kwargs.get("mode", node.args[3] if len(node.args) > 3 else "nearest")
        return "resize" if mode == "nearest" else None
    return KINDS.get(name.removesuffix("_with_indices"))


def _changes_for_others(node: torch.fx.Node, kind: str) -> bool:
    """Whether a call in place is for what reads its operand afterwards."""
    name = str(getattr(node.target, "__name__", node.target))
    in_place = name.endswith("_") or name == "imul" or bool(node.kwargs.get("inplace"))
    operand = node.args[0] if node.args else None
    read = isinstance(operand, torch.fx.Node) and len(operand.users) > 1
    return kind in OPTIONAL and in_place and read


def _fx_operands(node: torch.fx.Node, kind: str) -> list[torch.fx.Node]:
    first = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
    if kind == "cat":
        return [n for n in first if isinstance(n, torch.fx.Node)]  # type: ignore[union-attr]
    operands = list(node.args[:2]) if kind in TWO_SIDED else [first]
    return [n for n in operands if isinstance(n, torch.fx.Node)]


def _trace(owner: Any, plain: dict[str, Any]) -> torch.fx.Graph:
    """For these numbers and None as arguments; the traced forward refuses others."""
    graph = _Children().trace(owner, concrete_args=plain or None)
    for node in graph.nodes:
        name = str(node.target).rpartition("_")[0]  # torch.fx numbers these
        if node.op == "placeholder" and name in plain and node.target not in plain:
            node.target = name
    return graph


def _copied(values: Any) -> Any:
    return tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, values)


def _equal(a: Any, b: Any) -> bool:
    pairs = list(zip(tree_leaves(a), tree_leaves(b), strict=True))
    exact = functools.partial(torch.allclose, rtol=0, atol=0, equal_nan=True)
    return all(x.shape == y.shape and exact(x, y) for x, y in pairs if isinstance(x, torch.Tensor))


def _followed(owner: Any, call: tuple[Any, Any]) -> tuple[torch.fx.Graph, _Kinds]:
    """The owner's forward as a graph that gives what it gives, and the calls in it.

    Raises:
        Exception: there is none.
    """
    signature = inspect.signature(owner.forward)
    bound = signature.bind(*call[0], **call[1])
    bound.apply_defaults()
    values: list[Any] = []
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        values += value if kind == inspect.Parameter.VAR_POSITIONAL else [value]
    named = bound.arguments.items()
    plain = {n: v for n, v in named if v is None or isinstance(v, bool | int | float)}
    args, kwargs = _copied(call)
    wanted = owner.forward(*args, **kwargs)
    first: Exception | None = None
    # Numbers decide branches only where a trace without them fails or goes another way.
    for given in ({}, plain) if plain else ({},):
        try:
            graph = _trace(owner, given)
            kinds = _Kinds(torch.fx.GraphModule(owner, graph))
            if _equal(kinds.run(*_copied(values)), wanted):
                return graph, kinds
            raise ValueError("the traced forward gives other values")
        except Exception as error:
            first = first or error
    assert first is not None
    raise first


def unfollowed(
    owner: Any, name: str, sites: list[Site], call: tuple[Any, Any]
) -> set[tuple[str, str]]:
    """(owner, kind) of the calls that may stay in float and that its forward does not show.

    torch.export counts what functions written in Python call too, which torch.fx takes as one.
    """
    wanted = {site.kind: site.count for site in sites if site.kind in OPTIONAL}
    if not wanted:
        return set()
    try:
        found = _followed(owner, call)[1].found
    except Exception:
        return {(name, kind) for kind in wanted}
    return {(name, kind) for kind, count in wanted.items() if len(found[kind]) != count}


def _gated(graph: torch.fx.Graph, node: torch.fx.Node, x: Any, gate: str) -> torch.fx.Node:
    """SiLU as a product with a sigmoid that has a quantizer."""
    with graph.inserting_before(node):
        sigmoid = graph.call_function(torch.sigmoid, (x,))
        quantized = graph.call_module(gate, (sigmoid,))
        product = graph.call_function(operator.mul, (x, quantized))
    node.replace_all_uses_with(product)
    graph.erase_node(node)
    return product


def _put(node: torch.fx.Node, i: int, quantized: torch.fx.Node, kind: str) -> None:
    """In place of an operand."""
    if kind == "cat":
        first = list(node.args[0] if node.args else node.kwargs["tensors"])  # type: ignore[arg-type]
        first[i] = quantized
        if node.args:
            node.args = (first, *node.args[1:])
        else:
            node.kwargs = {**node.kwargs, "tensors": first}
    elif i < len(node.args):
        node.args = tuple(quantized if k == i else a for k, a in enumerate(node.args))
    else:
        key = next(iter(node.kwargs))
        node.kwargs = {**node.kwargs, key: quantized}


def rewritten(owner: Any, name: str, sites: list[Site], call: tuple[Any, Any]) -> Any:
    """The owner's forward with the sites' quantizers, as a method."""
    try:
        graph, kinds = _followed(owner, call)
    except Exception as error:
        raise UserError(
            f"{name or 'the model'}: torch.fx cannot follow its forward ({error}); put quantizers "
            "there by hand (octavo.compat's TensorQuantizer) or make submodules of its branches"
        ) from error
    module: Any = kinds.module
    for site in sites:
        found = kinds.found[site.kind]
        if site.ordinal >= len(found):
            raise UserError(
                f"{name or 'the model'}: its forward has {len(found)} calls of {site.kind}, "
                f"torch.export sees more; put quantizers there by hand"
            )
        node = found[site.ordinal]
        operands = _fx_operands(node, site.kind)
        given = [*site.names.values(), site.output_name, site.gate_name]
        for attribute in filter(None, given):
            module.add_module(attribute, owner.get_submodule(attribute))
        for i, attribute in site.names.items():
            with graph.inserting_before(node):
                quantized = graph.call_module(attribute, (operands[i],))
            _put(node, i, quantized, site.kind)
        if site.gate_name:
            node = _gated(graph, node, _fx_operands(node, site.kind)[0], site.gate_name)
        if site.output_name:
            with graph.inserting_after(node):
                result = graph.call_module(site.output_name, (node,))
            node.replace_all_uses_with(
                result, delete_user_cb=functools.partial(operator.is_not, result)
            )
    graph.lint()
    code = torch.fx.GraphModule(owner, graph)
    return types.MethodType(type(code).forward, owner)


def record_calls(
    model: torch.nn.Module, names: set[str], args: tuple[Any, ...]
) -> dict[str, tuple[Any, Any]]:
    """What modules are first called with."""
    calls: dict[str, tuple[Any, Any]] = {}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _m, a, k, n=name: calls.setdefault(n, (a, k)) and None, with_kwargs=True
        )
        for name in names
    ]
    try:
        model(*args)
    finally:
        for hook in hooks:
            hook.remove()
    return calls
