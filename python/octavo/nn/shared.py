"""Quantizers that residual additions, concatenations, pooling and resizing need.

The model's graph (torch.export's) says where they go. A functional call such as ``x + y`` gets its
quantizer in the forward of the module that makes the call: torch.fx traces that forward alone, its
submodules as they are.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from octavo.compat.pytorch_quantization import nn as quant_nn
from octavo.compat.pytorch_quantization.nn.modules import _utils
from octavo.compat.pytorch_quantization.tensor_quant import QuantDescriptor
from octavo.errors import UnsupportedError, UserError
from octavo.nn.running import evaluating

__all__ = ["Insertion", "insert_shared"]


@dataclass(frozen=True)
class _Target:
    """What a runtime wants (docs/targets.md)."""

    all_sides: bool  # of an addition; else the shortcut alone: the rest is in the product
    one_scale: frozenset[str]  # whose inputs and output have one scale
    quantized: frozenset[str]  # others whose inputs are quantized


_SAME = frozenset({"max_pool", "resize"})
_TARGETS = {
    "octavo": _Target(False, _SAME, frozenset({"cat"})),
    "openvino": _Target(True, _SAME, frozenset({"cat"})),
    "tensorrt": _Target(False, _SAME | {"cat"}, frozenset()),
}
_KINDS = {
    "add": "add", "iadd": "add", "add_": "add",
    "cat": "cat", "concat": "cat", "concatenate": "cat",
    "max_pool1d": "max_pool", "max_pool2d": "max_pool", "max_pool3d": "max_pool",
    "upsample_nearest1d": "resize", "upsample_nearest2d": "resize", "upsample_nearest3d": "resize",
}  # fmt: skip
_PRODUCTS = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
             "conv_transpose3d", "linear"}  # fmt: skip
# The values are the input's.
_VIEWS = {"view", "reshape", "flatten", "permute", "transpose", "dropout", "unsqueeze", "squeeze",
          "contiguous", "clone"}  # fmt: skip


class Insertion:
    """What :func:`insert_shared` did, and the way back.

    Attributes:
        names: of the quantizers that are new.
        shared: groups of modules that now have one quantizer, by name.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.shared: list[tuple[str, ...]] = []
        self._undo: list[Callable[[], None]] = []

    def undo(self) -> None:
        """Takes the quantizers out; modules have their own again."""
        while self._undo:
            self._undo.pop()()


def _name(node: torch.fx.Node) -> str:
    return str(getattr(node.target, "_opname", ""))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.fx.Node) and isinstance(value.meta.get("val"), torch.Tensor)


def _operands(node: torch.fx.Node) -> list[torch.fx.Node]:
    """The tensors that a call joins; empty if it is none of ours."""
    kind = _KINDS.get(_name(node))
    if kind is None:
        return []
    first = node.args[0]
    if kind == "cat":
        return [n for n in first if isinstance(n, torch.fx.Node)]  # type: ignore[union-attr]
    operands = list(node.args[:2]) if kind == "add" else [first]
    return [n for n in operands if isinstance(n, torch.fx.Node)] if all(
        _is_tensor(n) for n in operands
    ) else []  # fmt: skip


def _owner(node: torch.fx.Node) -> tuple[str, str]:
    """The innermost module's name, and which of its calls this is."""
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return "", ""
    key, (path, _kind) = list(stack.items())[-1]
    name, _, _call = str(path).partition("@")
    return name.removeprefix("L['self']").removeprefix("."), str(key)


class _Groups:
    """Which tensors have one scale (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[Any, Any] = {}

    def find(self, x: Any) -> Any:
        parent = self._parent.setdefault(x, x)
        if parent is not x:
            parent = self._parent[x] = self.find(parent)
        return parent

    def join(self, a: Any, b: Any) -> None:
        self._parent[self.find(a)] = self.find(b)


@dataclass
class _Site:
    """A functional call in a module's forward, and quantizers for some of its operands."""

    owner: str
    kind: str
    ordinal: int  # among the owner's calls of this kind
    quantizers: dict[int, Any]  # by operand


def _through_views(node: torch.fx.Node) -> torch.fx.Node:
    while _name(node) in _VIEWS and isinstance(node.args[0], torch.fx.Node):
        node = node.args[0]
    return node


def _shortcuts(node: torch.fx.Node, operands: list[torch.fx.Node]) -> list[int]:
    """Which operands of an addition are not computed together with it: all but the last product."""
    products = [i for i, n in enumerate(operands) if _name(n) in _PRODUCTS and len(n.users) == 1]
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    last = max(products, key=lambda i: order[operands[i]], default=None)
    return [i for i in range(len(operands)) if i != last]


class _Plan:
    """Reads the graph; decides."""

    def __init__(self, model: torch.nn.Module, graph: torch.fx.Graph, target: _Target) -> None:
        self._model = model
        self._target = target
        self._nodes = list(graph.nodes)
        self.groups = _Groups()
        self.readers: list[tuple[str, Any, torch.fx.Node]] = []  # quantized modules, their inputs
        self.calls: list[tuple[torch.fx.Node, list[torch.fx.Node], list[int]]] = []
        joined: set[torch.fx.Node] = set()
        for node in self._nodes:
            if node.op != "call_function":
                continue
            if _name(node) in _VIEWS and node.all_input_nodes:
                self.groups.join(node, node.args[0])
            self._read_module(node)
            operands = _operands(node)
            kind = _KINDS.get(_name(node), "")
            if not operands or self._inside_quantized(node):
                continue
            if kind in target.one_scale:
                for operand in operands:
                    self.groups.join(operand, node)
                joined.add(node)
            if kind == "add":
                sides = range(len(operands)) if target.all_sides else _shortcuts(node, operands)
                self.calls.append((node, operands, list(sides)))
            elif kind in target.one_scale | target.quantized:
                self.calls.append((node, operands, list(range(len(operands)))))
        by_quantizer: dict[Any, torch.fx.Node] = {}
        for _, module, tensor in self.readers:  # a module that is called twice has one quantizer
            first = by_quantizer.setdefault(module.input_quantizer, tensor)
            if first is not tensor and self.groups.find(first) is not self.groups.find(tensor):
                self.groups.join(first, tensor)
        self.one_scale = {self.groups.find(n) for n in joined}

    def _module_of(self, node: torch.fx.Node) -> Any:
        return self._model.get_submodule(_owner(node)[0])

    def _inside_quantized(self, node: torch.fx.Node) -> bool:
        return isinstance(self._module_of(node), _utils.QuantMixin | _utils.QuantInputMixin)

    def _read_module(self, node: torch.fx.Node) -> None:
        module = self._module_of(node)
        if not self._inside_quantized(node) or not hasattr(module, "_input_quantizer"):
            return
        tensor = node.args[0] if node.args else None
        outside = _is_tensor(tensor) and _owner(tensor) != _owner(node)  # type: ignore[arg-type]
        if outside and not module.input_quantizer._disabled_before:  # type: ignore[union-attr]
            self.readers.append((_owner(node)[0], module, tensor))  # type: ignore[arg-type]

    def wanted(self) -> set[Any]:
        """Groups and nodes of which something reads integers."""
        found = {self.groups.find(tensor) for _, _, tensor in self.readers}
        grown = True
        while grown:  # a call counts if its output is wanted
            before = len(found)
            for node, operands, sides in self.calls:
                if self._is_wanted(node, found):
                    found |= {self.groups.find(operands[i]) for i in sides}
            grown = len(found) > before
        return found

    def _is_wanted(self, node: torch.fx.Node, found: set[Any]) -> bool:
        if _KINDS[_name(node)] == "add":
            return any(_name(n) in _PRODUCTS for n in node.all_input_nodes) or self._reaches(
                node, found
            )
        return self._reaches(node, found)

    def _reaches(self, node: torch.fx.Node, found: set[Any]) -> bool:
        if self.groups.find(node) in found:
            return True
        # through functions of one element, which runtimes put into what is before them
        return any(
            self._reaches(user, found)
            for user in node.users
            if _name(user) in ("relu", "relu_", "silu", "silu_", "hardtanh", "leaky_relu")
        )

    def sites(self) -> Iterator[tuple[torch.fx.Node, _Site, list[torch.fx.Node]]]:
        """The calls that are wanted, with no quantizers yet."""
        found = self.wanted()
        counts: dict[tuple[str, str, str], int] = defaultdict(int)
        chosen = {node: (operands, sides) for node, operands, sides in self.calls}
        for node in self._nodes:
            kind = _KINDS.get(_name(node))
            if kind is None or not _operands(node):
                continue
            owner, call = _owner(node)
            ordinal = counts[owner, call, kind]
            counts[owner, call, kind] += 1
            if node in chosen and self._is_wanted(node, found):
                operands, sides = chosen[node]
                yield node, _Site(owner, kind, ordinal, dict.fromkeys(sides)), operands


class SharedQuantizer(quant_nn.TensorQuantizer):
    """A quantizer of several readers: the same tensor is quantized once, and exported once."""

    _last: Any = None  # what it was given, weakly, and gave, weakly

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """As of TensorQuantizer."""
        if (
            self._if_calib
            or torch.compiler.is_dynamo_compiling()
            or inputs.is_inference()
            # An output may outlive its backward pass only together with its input's graph.
            or (torch.is_grad_enabled() and inputs.grad_fn is None)
        ):
            return super().forward(inputs)
        own = (*self.parameters(), *self.buffers())
        key = (
            inputs._version, torch.is_grad_enabled(), self._disabled, self._if_quant,
            self._if_clip, self._num_bits, self._unsigned, self._narrow_range,
            *((id(t), t._version) for t in own),
        )  # fmt: skip
        if self._last is not None and self._last[0]() is inputs and self._last[1] == key:
            known: torch.Tensor | None = self._last[2]()
            if known is not None:
                return known
        outputs = super().forward(inputs)
        self._last = (weakref.ref(inputs), key, weakref.ref(outputs))
        return outputs

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_last"}


def _quantized_forward(self: Any, input: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    return type(self).forward(self, self._input_quantizer(input), *args, **kwargs)


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
                kind != "add" or len(values) == 2
            ):  # fmt: skip
                self.found[kind].append(n)
        return super().run_node(n)


def _fx_kind(node: torch.fx.Node) -> str | None:
    if node.op == "call_method":
        return _KINDS.get(str(node.target))
    if node.op != "call_function":
        return None
    name = getattr(node.target, "__name__", "")
    if name in ("interpolate", "upsample"):
        mode = node.kwargs.get("mode", node.args[3] if len(node.args) > 3 else "nearest")
        return "resize" if mode == "nearest" else None
    return _KINDS.get(name.removesuffix("_with_indices"))


def _fx_operands(node: torch.fx.Node, kind: str) -> list[torch.fx.Node]:
    first = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
    if kind == "cat":
        return [n for n in first if isinstance(n, torch.fx.Node)]  # type: ignore[union-attr]
    operands = list(node.args[:2]) if kind == "add" else [first]
    return [n for n in operands if isinstance(n, torch.fx.Node)]


def _rewrite(owner: Any, name: str, sites: list[_Site], call: tuple[Any, Any]) -> Any:
    """The owner's forward with the sites' quantizers, as a method."""
    try:
        graph = _Children().trace(owner)
        module = torch.fx.GraphModule(owner, graph)
        kinds = _Kinds(module)
        bound = list(call[0]) + list(call[1].values())
        placeholders = [n for n in graph.nodes if n.op == "placeholder"]
        kinds.run(*bound, *[n.args[0] for n in placeholders[len(bound) :]])
    except Exception as error:
        raise UserError(
            f"{name or 'the model'}: torch.fx cannot follow its forward ({error}); put quantizers "
            "there by hand (octavo.compat's TensorQuantizer) or make submodules of its branches"
        ) from error
    for site in sites:
        found = kinds.found[site.kind]
        if site.ordinal >= len(found):
            raise UserError(
                f"{name or 'the model'}: its forward has {len(found)} calls of {site.kind}, "
                f"torch.export sees more; put quantizers there by hand"
            )
        node = found[site.ordinal]
        operands = _fx_operands(node, site.kind)
        for i, attribute in site.quantizers.items():
            module.add_module(attribute, owner.get_submodule(attribute))
            with graph.inserting_before(node):
                quantized = graph.call_module(attribute, (operands[i],))
            if site.kind == "cat":
                first = list(node.args[0])  # type: ignore[arg-type]
                first[i] = quantized
                node.args = (first, *node.args[1:])
            else:
                node.args = tuple(quantized if k == i else a for k, a in enumerate(node.args))
    graph.lint()
    code = torch.fx.GraphModule(owner, graph)
    return types.MethodType(type(code).forward, owner)


def _record_calls(
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


def insert_shared(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    *,
    target: str = "tensorrt",
    quant_desc_input: QuantDescriptor | None = None,
) -> Insertion:
    """Gives residual additions, concatenations, pooling and resizing the quantizers they need.

    Where they go follows from torch.export's graph and the target (docs/targets.md). For TensorRT:
    the shortcut of a residual addition has a quantizer; all inputs of a concatenation, and what
    reads its output, share one; a MaxPool and a nearest Resize share theirs with what reads them.
    For Octavo and OpenVINO a concatenation has scales of its own, and for OpenVINO an addition has
    quantizers on both sides. Nothing is put where no quantized module is before or behind.

    Call it after ``octavo.nn.replace`` (which folds batch normalization first) and before
    calibration. Modules keep their names, parameters and hooks; one whose forward calls ``x + y``,
    ``torch.cat`` or such itself has a new forward with the quantizers in it.

    Args:
        model: with quantized modules; changed in place.
        args: example inputs.
        target: ``"octavo"``, ``"openvino"`` or ``"tensorrt"``.
        quant_desc_input: of new quantizers; None: the default of quantized convolutions.

    Raises:
        UnsupportedError: target ``"onnxruntime"``, whose rules need unsigned activations.
        UserError: an unknown target; a forward that torch.fx cannot follow. The model is then as
            before.
    """
    if target == "onnxruntime":
        raise UnsupportedError(
            "insert_shared: ONNX Runtime wants unsigned activations with zero points on every "
            "output, which these quantizers have not; export the float model and use "
            'octavo.quantize(graph, data, target="onnxruntime")'
        )
    if target not in _TARGETS:
        raise UserError(f"target: '{target}' is not known; there are {', '.join(_TARGETS)}")
    descriptor = quant_desc_input or quant_nn.QuantConv2d.default_quant_desc_input
    quantizers = [m for m in model.modules() if isinstance(m, quant_nn.TensorQuantizer)]
    before = {q: q._disabled for q in quantizers}
    with evaluating(model):
        try:
            for q in quantizers:
                q.__dict__["_disabled_before"] = q._disabled
                q._disabled = True
            graph = _exported(model, args)
            plan = _Plan(model, graph, _TARGETS[target])
            owners = {site.owner for _, site, _ in plan.sites()}
            calls = _record_calls(model, owners, args)
        finally:
            for q, disabled in before.items():
                q._disabled = disabled
        result = Insertion()
        try:
            _insert(model, plan, descriptor, calls, result)
        except BaseException:
            result.undo()
            raise
        finally:
            for q in quantizers:
                del q.__dict__["_disabled_before"]
    return result


def _exported(model: torch.nn.Module, args: tuple[Any, ...]) -> torch.fx.Graph:
    try:
        graph: torch.fx.Graph = torch.export.export(model, args).graph
    except Exception as error:
        raise UserError(
            f"insert_shared: torch.export cannot follow the model ({error}); put quantizers in by "
            "hand"
        ) from error
    return graph


def _insert(
    model: torch.nn.Module,
    plan: _Plan,
    descriptor: QuantDescriptor,
    calls: dict[str, tuple[Any, Any]],
    result: Insertion,
) -> None:
    made: dict[Any, Any] = {}  # by group, or by tensor where there is none

    def quantizer_of(tensor: torch.fx.Node) -> Any:
        root = plan.groups.find(tensor)
        if root not in made:
            made[root] = SharedQuantizer(descriptor)
        return made[root]

    sites: dict[str, list[_Site]] = defaultdict(list)
    attributes: dict[tuple[str, Any], str] = {}
    for _node, site, operands in plan.sites():
        owner = model.get_submodule(site.owner)
        inside = type(owner).__module__.startswith("torch.nn.")
        for i in site.quantizers:
            quantizer = quantizer_of(operands[i])
            attribute = "_input_quantizer" if inside else attributes.get((site.owner, quantizer))
            if attribute is None:
                attribute = _free_name(owner)
            if (site.owner, quantizer) not in attributes:
                attributes[site.owner, quantizer] = attribute
                owner.add_module(attribute, quantizer)
                result.names.append(f"{site.owner}.{attribute}".removeprefix("."))
                result._undo.append(functools.partial(delattr, owner, attribute))
            site.quantizers[i] = attribute
        if inside:
            _override(owner, types.MethodType(_quantized_forward, owner), result)
        elif not any(s.kind == site.kind and s.ordinal == site.ordinal for s in sites[site.owner]):
            sites[site.owner].append(site)  # once, however often the module is called
    for name, own in sites.items():
        owner = model.get_submodule(name)
        _override(owner, _rewrite(owner, name, own, calls[name]), result)
    readers: dict[Any, list[tuple[str, Any]]] = defaultdict(list)
    for name, module, tensor in plan.readers:
        readers[plan.groups.find(tensor)].append((name, module))
    for root, modules in readers.items():
        # What reads one tensor quantizes it alike: runtimes then see one quantize.
        distinct = dict(modules)
        first = modules[0][1]._input_quantizer
        one = made.get(root)
        if one is None and len(distinct) > 1:
            one = _utils.as_class(SharedQuantizer, first)
        if one is None:
            continue
        changed = []
        for name, module in distinct.items():
            old = module._input_quantizer
            if old is one or _configuration(old) != _configuration(one):
                continue
            module._input_quantizer = one
            result._undo.append(functools.partial(setattr, module, "_input_quantizer", old))
            changed.append(name)
        if changed:
            result.shared.append(tuple(changed))


def _configuration(quantizer: Any) -> tuple[Any, ...]:
    q = quantizer
    return (q.num_bits, q.axis, q.unsigned, q.narrow_range, q._learn_amax, q._disabled)


def _free_name(owner: torch.nn.Module) -> str:
    index = 0
    while hasattr(owner, f"_shared_quantizer_{index}"):
        index += 1
    return f"_shared_quantizer_{index}"


def _override(owner: torch.nn.Module, forward: Any, result: Insertion) -> None:
    """A forward of the instance, which goes before the class's."""
    if "forward" in owner.__dict__:
        return
    owner.__dict__["forward"] = forward
    result._undo.append(functools.partial(owner.__dict__.pop, "forward"))
