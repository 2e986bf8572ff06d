"""Quantizers that residual additions, concatenations, pooling and resizing need.

The model's graph (torch.export's) says where they go. A functional call such as ``x + y`` gets its
quantizer in the forward of the module that makes the call: torch.fx traces that forward alone, its
submodules as they are.
"""

from __future__ import annotations

import copy
import functools
import types
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from octavo.compat.pytorch_quantization import nn as quant_nn
from octavo.compat.pytorch_quantization.nn.modules import _utils
from octavo.compat.pytorch_quantization.tensor_quant import QuantDescriptor
from octavo.errors import UserError
from octavo.nn.running import evaluating
from octavo.nn.shared_forward import record_calls, rewritten, unfollowed
from octavo.nn.shared_plan import Plan, Site, Target

__all__ = ["Insertion", "insert_shared"]


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


class SharedQuantizer(quant_nn.TensorQuantizer):
    """A quantizer of several readers: the same tensor is quantized once, and exported once.

    What it has given passes as it is.
    """

    _last: Any = None  # what it was given and gave, weakly, each with its version; and how

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
        how = (
            torch.is_grad_enabled(), self._disabled, self._if_quant, self._if_clip,
            self._num_bits, self._unsigned, self._narrow_range,
            *((id(t), t._version) for t in own),
        )  # fmt: skip
        if self._last is not None and self._last[2] == how:
            given, made = self._last[0], self._last[1]
            known: torch.Tensor | None = made[0]()
            same = given[0]() is inputs and given[1] == inputs._version
            if known is not None and known._version == made[1] and (same or known is inputs):
                return known
        version = inputs._version
        outputs = super().forward(inputs)
        made = (weakref.ref(outputs), outputs._version)
        self._last = ((weakref.ref(inputs), version), made, how)
        return outputs

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_last"}


def _quantized_input(self: Any, input: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    return type(self).forward(self, self._input_quantizer(input), *args, **kwargs)


def _quantized_output(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self._output_quantizer(type(self).forward(self, *args, **kwargs))


def _quantized_both(self: Any, input: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    return self._output_quantizer(_quantized_input(self, input, *args, **kwargs))


def _gated(self: Any, input: torch.Tensor) -> Any:
    """SiLU as the product that its target runs on integers."""
    x = self._input_quantizer(input)
    y = x * self._gate_quantizer(torch.sigmoid(x))
    return self._output_quantizer(y) if hasattr(self, "_output_quantizer") else y


def insert_shared(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    *,
    target: str = "tensorrt",
    quant_desc_input: QuantDescriptor | None = None,
) -> Insertion:
    """Gives additions, concatenations, pooling, resizing, functions the quantizers they need.

    Where they go follows from torch.export's graph and the target's facts (docs/targets.md). For
    TensorRT: the shortcut of a residual addition has a quantizer; all inputs of a concatenation,
    and what reads its output, share one; a MaxPool and a nearest Resize share theirs with what
    reads them. Elsewhere a concatenation has scales of its own. For OpenVINO and ONNX Runtime an
    addition has quantizers on both sides. Where a target runs an op on integers only if its result
    is quantized, that has a quantizer unless all that reads it has one: for ONNX Runtime each
    convolution's too, and what ReLU and the like give is unsigned, as a Relu is left out only then.
    So do, where the target runs them on integers: products of two tensors of one shape, averages
    (``x.mean((2, 3))`` and pooling), functions of one element (for Octavo tables behind integers,
    for ONNX Runtime sigmoid, leaky ReLU, softmax, and SiLU, which becomes a product with a
    quantized sigmoid). Those stay in float in a forward that torch.fx cannot follow.
    Nothing is put where no quantized module is before or behind.

    Call it after ``octavo.nn.replace`` (which folds batch normalization first) and before
    calibration. Modules keep their names, parameters and hooks; one whose forward calls ``x + y``,
    ``torch.cat`` or such itself has a new forward with the quantizers in it.

    Args:
        model: with quantized modules; changed in place.
        args: example inputs.
        target: ``"octavo"``, ``"onnxruntime"``, ``"openvino"`` or ``"tensorrt"``; also the one to
            give to :func:`octavo.export_onnx`.
        quant_desc_input: of new quantizers; None: the default of quantized convolutions.

    Raises:
        UserError: an unknown target; a forward that torch.fx cannot follow. The model is then as
            before.
    """
    wants = Target.of(target)
    descriptor = quant_desc_input or quant_nn.QuantConv2d.default_quant_desc_input
    quantizers = [m for m in model.modules() if isinstance(m, quant_nn.TensorQuantizer)]
    before = {q: q._disabled for q in quantizers}
    with evaluating(model):
        try:
            for q in quantizers:
                q._disabled = True
            truth = model(*tree_map(_copied, args))
            graph = _exported(model, args)
            without: set[tuple[str, str]] = set()
            while True:
                plan = Plan(model, graph, wants, before, without)
                sites = plan.sites()
                calls = record_calls(model, {site.owner for site in sites}, args)
                more = _unfollowed(model, sites, calls) - without
                if not more:
                    break
                without |= more
        finally:
            for q, disabled in before.items():
                q._disabled = disabled
        result = Insertion()
        try:
            _Inserter(model, plan, descriptor, result).run(sites, calls)
            _check(model, args, truth)
        except BaseException:
            result.undo()
            raise
    return result


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def _check(model: torch.nn.Module, args: tuple[Any, ...], truth: Any) -> None:
    """With copies for what quantizers give the model gives what it gave before.

    A module in place whose result nobody takes would not: what it changed is not what is read.
    """
    quantizers = [m for m in model.modules() if isinstance(m, quant_nn.TensorQuantizer)]
    try:
        for q in quantizers:
            q.__dict__["forward"] = torch.clone
        found = model(*tree_map(_copied, args))
    finally:
        for q in quantizers:
            del q.__dict__["forward"]
    for a, b in zip(tree_leaves(truth), tree_leaves(found), strict=True):
        if not isinstance(a, torch.Tensor) or not a.is_floating_point():
            continue
        # x * sigmoid(x) is not silu(x) to the last bit; half types have 2^-8 in each layer.
        slack = (0.1 if a.element_size() < 4 else 1e-3) * float(a.abs().nan_to_num().max())
        if not torch.allclose(a, b, rtol=0, atol=slack, equal_nan=True):
            raise UserError(
                "insert_shared: with copies for its quantizers the model gives other values than "
                "before; does a module work in place, and its result is not used? Use the result"
            )


def _exported(model: torch.nn.Module, args: tuple[Any, ...]) -> torch.fx.Graph:
    try:
        graph: torch.fx.Graph = torch.export.export(model, args).graph
    except Exception as error:
        raise UserError(
            f"insert_shared: torch.export cannot follow the model ({error}); put quantizers in by "
            "hand"
        ) from error
    return graph


def _has_own_forward(owner: Any) -> bool:
    """Whether a forward is taken as it is: of torch's modules and of quantized ones."""
    quantized = isinstance(owner, _utils.QuantMixin | _utils.QuantInputMixin)
    return quantized or type(owner).__module__.startswith("torch.nn.")


def _unfollowed(
    model: torch.nn.Module, sites: list[Site], calls: dict[str, tuple[Any, Any]]
) -> set[tuple[str, str]]:
    own: dict[str, list[Site]] = defaultdict(list)
    for site in sites:
        if not _has_own_forward(model.get_submodule(site.owner)):
            own[site.owner].append(site)
    found = [unfollowed(model.get_submodule(n), n, s, calls[n]) for n, s in own.items()]
    return set().union(*found)


class _Inserter:
    """Makes the quantizers of a plan and puts them in."""

    def __init__(
        self, model: torch.nn.Module, plan: Plan, descriptor: QuantDescriptor, result: Insertion
    ) -> None:
        self._model, self._plan, self._result = model, plan, result
        self._descriptor = descriptor
        self._made: dict[Any, Any] = {}  # by group
        self._attributes: dict[tuple[str, Any, str], str] = {}

    def run(self, sites: list[Site], calls: dict[str, tuple[Any, Any]]) -> None:
        """At the sites; then in the modules that read the same tensors."""
        functional: dict[str, list[Site]] = defaultdict(list)
        single: dict[str, set[str]] = defaultdict(set)
        for site in sites:
            owner = self._model.get_submodule(site.owner)
            if _has_own_forward(owner):
                if self._needs_gate(site):
                    self._add_gate(site.owner, "_gate_quantizer")
                    single[site.owner].add("_gate_quantizer")
                for side, tensor in self._tensors(site):
                    attribute = "_output_quantizer" if side is None else "_input_quantizer"
                    self._add(site.owner, tensor, attribute)
                    single[site.owner].add(attribute)
                continue
            for side, tensor in self._tensors(site):
                name = self._add(site.owner, tensor)
                if side is None:
                    site.output_name = name
                else:
                    site.names[side] = name
            own = functional[site.owner]
            known = [s for s in own if s.kind == site.kind and s.ordinal == site.ordinal]
            # once, however often the module is called
            if not known:
                if self._needs_gate(site):
                    site.gate_name = self._add_gate(site.owner)
                own.append(site)
        for name, attributes in single.items():
            owner = self._model.get_submodule(name)
            forward = _gated if "_gate_quantizer" in attributes else (
                _quantized_both if len(attributes) == 2 else
                _quantized_output if "_output_quantizer" in attributes else _quantized_input
            )  # fmt: skip
            _override(owner, types.MethodType(forward, owner), self._result)
        for name, own in functional.items():
            owner = self._model.get_submodule(name)
            _override(owner, rewritten(owner, name, own, calls[name]), self._result)
        self._share()

    def _tensors(self, site: Site) -> list[tuple[int | None, torch.fx.Node]]:
        """What is quantized at a site: operands by number, None for the result."""
        found: list[tuple[int | None, torch.fx.Node]] = [(i, site.operands[i]) for i in site.sides]
        return [*found, (None, site.node)] if site.output else found

    def _quantizer_of(self, tensor: torch.fx.Node) -> Any:
        root = self._plan.groups.find(tensor)
        if root not in self._made:
            self._made[root] = self._new_quantizer(self._plan.is_unsigned(tensor))
        return self._made[root]

    def _new_quantizer(self, unsigned: bool) -> Any:
        descriptor = self._descriptor
        if unsigned and not descriptor.learn_amax:
            descriptor = QuantDescriptor(**(descriptor.dict() | {"unsigned": True}))
        return SharedQuantizer(descriptor)

    def _add(self, owner_name: str, tensor: torch.fx.Node, attribute: str = "") -> str:
        quantizer = self._quantizer_of(tensor)
        key = (owner_name, quantizer, attribute)
        if key not in self._attributes:
            self._attributes[key] = self._put(owner_name, quantizer, attribute)
        return self._attributes[key]

    def _put(self, owner_name: str, quantizer: Any, attribute: str) -> str:
        owner = self._model.get_submodule(owner_name)
        name = attribute or _free_name(owner)
        owner.add_module(name, quantizer)
        self._result.names.append(f"{owner_name}.{name}".removeprefix("."))
        self._result._undo.append(functools.partial(delattr, owner, name))
        return name

    def _needs_gate(self, site: Site) -> bool:
        return self._plan.target.gates and site.kind == "silu" and bool(site.sides)

    def _add_gate(self, owner_name: str, attribute: str = "") -> str:
        """A sigmoid's quantizer: the sigmoid is in no graph before."""
        if attribute and hasattr(self._model.get_submodule(owner_name), attribute):
            return attribute
        return self._put(owner_name, self._new_quantizer(self._plan.target.unsigned), attribute)

    def _share(self) -> None:
        """What reads one tensor quantizes it alike: runtimes then see one quantize."""
        readers: dict[Any, list[tuple[str, Any, torch.fx.Node]]] = defaultdict(list)
        for reader in self._plan.readers:
            readers[self._plan.groups.find(reader[2])].append(reader)
        for root, modules in readers.items():
            distinct = {name: module for name, module, _ in modules}
            unsigned = self._plan.is_unsigned(modules[0][2])
            one = self._made.get(root)
            if one is None and (len(distinct) > 1 or unsigned):
                one = _shared(modules[0][1]._input_quantizer, unsigned)
            if one is None:
                continue
            changed = []
            for name, module in distinct.items():
                old = module._input_quantizer
                if old is one or _configuration(old, unsigned) != _configuration(one, unsigned):
                    continue
                module._input_quantizer = one
                undo = functools.partial(setattr, module, "_input_quantizer", old)
                self._result._undo.append(undo)
                changed.append(name)
            if len(changed) > 1 or (changed and root in self._made):
                self._result.shared.append(tuple(changed))


def _shared(quantizer: Any, unsigned: bool) -> Any:
    """The same quantizer for several readers."""
    one = _utils.as_class(SharedQuantizer, quantizer)
    if unsigned and not one._learn_amax:
        one._unsigned = True
        one._calibrator = copy.deepcopy(one._calibrator)
        if one._calibrator is not None:
            one._calibrator._unsigned = True
    return one


def _configuration(quantizer: Any, unsigned: bool) -> tuple[Any, ...]:
    q = quantizer
    signs = unsigned or q.unsigned
    return (q.num_bits, q.axis, signs, q.narrow_range, q._learn_amax, q._disabled)


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
