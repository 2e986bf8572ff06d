"""FX graph mode: the model is traced, so it needs neither stubs nor FloatFunctional nor fusing.

    prepared = prepare_fx(model.eval(), get_default_qconfig_mapping("x86"), (example,))
    prepared(data)
    int8 = convert_fx(prepared)

Names are torch.ao.quantization.quantize_fx's. Which tensors are integers follows from the graph:
products, additions, products of tensors, concatenations and some functions have grids of their own;
pooling, reshaping and the like keep what they read; everything else is computed in float.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from octavo.errors import UnsupportedError, UserError
from octavo.quantization import fuse, workflow
from octavo.quantization.fake_quantize import FakeQuantizeBase
from octavo.quantization.fx_calls import (
    KEEPS,
    as_module,
    call_kind,
    is_relu,
    join_of,
)
from octavo.quantization.fx_config import (
    ConvertCustomConfig,
    FuseCustomConfig,
    PrepareCustomConfig,
)
from octavo.quantization.fx_convert import Converter
from octavo.quantization.fx_modules import (
    free_name,
    module_of,
    place,
    retarget,
    role,
    static_modules,
)
from octavo.quantization.observers import ObserverBase
from octavo.quantization.qconfig_mapping import QConfigMapping

__all__ = [
    "ConvertCustomConfig",
    "FuseCustomConfig",
    "PrepareCustomConfig",
    "convert_fx",
    "fuse_fx",
    "prepare_fx",
    "prepare_qat_fx",
]


class _Tracer(fx.Tracer):
    def __init__(self, custom: PrepareCustomConfig) -> None:
        super().__init__()
        self._custom = custom

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """torch's modules, ours, and what is not to be traced."""
        custom = self._custom
        if module_qualified_name in custom.non_traceable_module_names or isinstance(
            m, tuple(custom.non_traceable_module_classes)
        ):
            return True
        ours = isinstance(m, (fuse.FusedModule, ObserverBase, FakeQuantizeBase))
        return ours or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module, custom: PrepareCustomConfig) -> fx.GraphModule:
    """A graph of a copy, in which each call of a module has a module of its own."""
    model = copy.deepcopy(model)
    try:
        graph = _Tracer(custom).trace(model)
    except Exception as error:
        raise UserError(
            f"prepare_fx: torch.fx cannot trace the model ({error}); name the modules in which it "
            "fails by PrepareCustomConfig().set_non_traceable_module_names, or use the eager "
            "prepare"
        ) from error
    traced = fx.GraphModule(model, graph)
    for name in custom.preserved_attributes:
        setattr(traced, name, getattr(model, name))
    traced.train(model.training)
    seen: set[str] = set()
    for node in graph.nodes:
        if node.op == "call_module" and str(node.target) in seen:
            retarget(traced, node, _again(traced.get_submodule(str(node.target))))
        seen.add(str(node.target))
    traced.recompile()
    return traced


def _again(module: nn.Module) -> nn.Module:
    """Another module over the same parameters."""
    made = copy.copy(module)
    for name in ("_parameters", "_buffers", "_modules"):
        setattr(made, name, dict(getattr(module, name)))
    return made


def _holder(node: fx.Node) -> str:
    """The module whose forward makes a call."""
    stack = list((node.meta.get("nn_module_stack") or {}).items())
    if node.op == "call_module" and stack and str(stack[-1][0]) == str(node.target):
        stack = stack[:-1]
    return str(stack[-1][0]) if stack else ""


class _Qconfigs:
    """What a mapping says of each call, before calls are changed."""

    def __init__(self, model: fx.GraphModule, mapping: QConfigMapping) -> None:
        self._found: dict[fx.Node, Any] = {}
        counts: dict[tuple[str, Any], int] = defaultdict(int)
        for node in model.graph.nodes:
            if not node.op.startswith("call_"):
                continue
            module, holder = module_of(model, node), _holder(node)
            kind = node.target if module is None else workflow._kind(module)
            if isinstance(module, fuse.FusedModule):
                kind = type(module[0])
            name = holder if module is None else str(node.target)
            found = mapping.find(name, holder, kind, counts[holder, kind])
            fused = type(module) if isinstance(module, fuse.FusedModule) else None
            self._found[node] = mapping.object_type_qconfigs.get(fused, found)
            counts[holder, kind] += 1

    def of(self, node: fx.Node) -> Any:
        """None: in float."""
        return self._found.get(node)


def _is_dynamic(qconfig: Any) -> bool:
    activation = qconfig.activation()
    plain = getattr(activation, "dtype", None) in (torch.float32, torch.float16)
    return bool(getattr(activation, "is_dynamic", False) or plain)


def _fuse(model: fx.GraphModule, is_qat: bool, qconfigs: _Qconfigs | None) -> None:
    """Products take the BatchNorm and the ReLU behind them."""

    def follower(node: fx.Node, wants: Callable[[fx.Node], bool]) -> Any:
        user = next(iter(node.users)) if len(node.users) == 1 else None
        return user if user is not None and user.args[0] is node and wants(user) else None

    def is_norm(node: fx.Node) -> bool:
        return isinstance(module_of(model, node), nn.modules.batchnorm._BatchNorm)

    def wants_relu(node: fx.Node) -> bool:
        return is_relu(node, module_of(model, node))

    for node in list(model.graph.nodes):
        if not isinstance(module_of(model, node), (nn.Linear, nn.modules.conv._ConvNd)):
            continue
        if qconfigs is not None and qconfigs.of(node) is None:
            continue
        chain = [node]
        for wants in (is_norm, wants_relu):
            found = follower(chain[-1], wants)
            if found is not None:
                chain.append(found)
        while len(chain) > 1:
            parts = [module_of(model, n) or nn.ReLU().train(model.training) for n in chain]
            try:
                fused = fuse.fuse_known_modules(parts, is_qat)[0]
            except UnsupportedError:
                chain.pop()
                continue
            fused.train(model.training)
            place(model, str(node.target), fused)
            chain[-1].replace_all_uses_with(node)
            for part in reversed(chain[1:]):
                model.graph.erase_node(part)
            break


def fuse_fx(
    model: nn.Module, fuse_custom_config: FuseCustomConfig | None = None, backend_config: Any = None
) -> fx.GraphModule:
    """Folds BatchNorm into what is before it, and joins ReLUs, in evaluation.

    Raises:
        UserError: torch.fx cannot trace the model; BatchNorm in training.
        UnsupportedError: a backend_config.
    """
    _refuse("fuse_fx", backend_config=backend_config)
    custom = PrepareCustomConfig()
    custom.preserved_attributes = list((fuse_custom_config or custom).preserved_attributes)
    traced = _traced(model, custom)
    _fuse(traced, False, None)
    return _finished(traced)


def _refuse(function: str, **given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise UnsupportedError(f"{function}: {name}; leave it out")


def _finished(model: fx.GraphModule) -> fx.GraphModule:
    for node in reversed(list(model.graph.nodes)):
        if node.op == "get_attr" and not node.users:
            model.graph.erase_node(node)
    model.graph.lint()
    model.delete_all_unused_submodules()
    model.recompile()
    return model


class _Preparer:
    """Puts observers behind what has a grid, and where floats become integers."""

    def __init__(self, model: fx.GraphModule, qconfigs: _Qconfigs, is_qat: bool) -> None:
        self._model, self._qconfigs, self._is_qat = model, qconfigs, is_qat
        self._static = static_modules() | workflow.get_default_qat_module_mappings()
        self._static |= dict.fromkeys(workflow.get_default_qat_module_mappings().values())
        self._dynamic = workflow.get_default_dynamic_quant_module_mappings()
        self._integer: set[fx.Node] = set()
        self._inputs: dict[fx.Node, fx.Node] = {}  # observers where floats become integers

    def run(self, quantized_inputs: list[int]) -> None:
        placeholders = [n for n in self._model.graph.nodes if n.op == "placeholder"]
        self._integer |= {placeholders[i] for i in quantized_inputs}
        for node in list(self._model.graph.nodes):
            if not node.op.startswith("call_"):
                continue
            qconfig = self._qconfigs.of(node)
            module = self._as_module(node) if qconfig is not None else module_of(self._model, node)
            if module is not None:
                self._look_at_module(node, module, qconfig)
            else:
                self._look_at_call(node, qconfig)

    def _as_module(self, node: fx.Node) -> Any:
        """Functional products and functions become modules, which convert knows."""
        module = module_of(self._model, node)
        if module is None:
            module = as_module(self._model, node)
            if module is not None:
                module.train(self._model.training)
                x = node.args[0]
                retarget(self._model, node, module)
                node.args, node.kwargs = (x,), {}
        return module

    def _look_at_module(self, node: fx.Node, module: Any, qconfig: Any) -> None:
        kind = workflow._kind(module)
        module.qconfig = None
        if kind in KEEPS:
            self._keep(node)
            return
        if qconfig is None:
            return
        if _is_dynamic(qconfig):
            if kind in self._dynamic:
                module.qconfig = qconfig
            return
        if kind not in self._static:
            return
        for part in module.modules():
            part.qconfig = qconfig
        if self._is_qat:
            swapped = workflow.swap_module(module, workflow.get_default_qat_module_mappings())
            if swapped is not module:
                place(self._model, str(node.target), swapped)
        node.args = (self._observed(node.args[0], qconfig), *node.args[1:])
        if kind is nn.ReLU6:  # keeps the grid, as the eager one
            self._integer.add(node)
        self._observe(node, qconfig, "output")

    def _look_at_call(self, node: fx.Node, qconfig: Any) -> None:
        kind = call_kind(node)
        join = join_of(node)
        if kind in KEEPS and join is None:
            self._keep(node)
        if join is None or qconfig is None or _is_dynamic(qconfig):
            return
        if join in ("add_scalar", "mul_scalar"):  # the grid moves along
            if any(n in self._integer for n in node.all_input_nodes):
                self._integer.add(node)
            return
        if join == "cat":
            given: Any = node.args[0] if node.args else node.kwargs["tensors"]
            parts = [self._observed(n, qconfig) for n in given]
            dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
            node.args, node.kwargs = (parts, dim), {}
        else:
            node.args = tuple(self._observed(n, qconfig) for n in node.args[:2])
        last = node
        user = next(iter(node.users)) if len(node.users) == 1 else None
        if join == "add" and user is not None and is_relu(user, module_of(self._model, user)):
            last = user  # one with the addition
            self._integer.add(node)
        self._observe(last, qconfig, "output")

    def _keep(self, node: fx.Node) -> None:
        """What pooling and reshaping give has the grid of what they read."""
        first = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
        if isinstance(first, fx.Node) and (first in self._integer):
            self._integer.add(node)

    def _observed(self, x: Any, qconfig: Any) -> Any:
        """Where a float tensor becomes integers: once for all that read it."""
        if not isinstance(x, fx.Node) or x in self._integer:
            return x
        if x not in self._inputs:
            self._inputs[x] = self._observe(x, qconfig, "input")
        return self._inputs[x]

    def _observe(self, node: fx.Node, qconfig: Any, seen: str) -> fx.Node:
        if known := [n for n in node.users if role(self._model, n) == seen]:
            return known[0]
        observer = qconfig.activation()
        observer.role = seen
        name = free_name(self._model, "activation_post_process")
        self._model.add_submodule(name, observer)
        users = list(node.users)
        with self._model.graph.inserting_after(node):
            made = self._model.graph.call_module(name, (node,))
        if seen == "output":
            for user in users:
                user.replace_input_with(node, made)
        self._integer.add(made)
        return made


def _prepare(
    function: str,
    model: nn.Module,
    qconfig_mapping: QConfigMapping | Mapping[str, Any],
    prepare_custom_config: PrepareCustomConfig | None,
    is_qat: bool,
) -> fx.GraphModule:
    if not isinstance(qconfig_mapping, QConfigMapping):
        if not isinstance(qconfig_mapping, Mapping):
            raise UserError(
                f"{function}: qconfig_mapping is {type(qconfig_mapping).__name__}; give a "
                "QConfigMapping of octavo.quantization"
            )
        qconfig_mapping = QConfigMapping.from_dict(qconfig_mapping)
    custom = prepare_custom_config or PrepareCustomConfig()
    if not isinstance(custom, PrepareCustomConfig):
        raise UnsupportedError(f"{function}: prepare_custom_config that is no PrepareCustomConfig")
    traced = _traced(model, custom)
    qconfigs = _Qconfigs(traced, qconfig_mapping)
    _fuse(traced, is_qat, qconfigs)
    _Preparer(traced, qconfigs, is_qat).run(custom.input_quantized_indexes)
    prepared = _finished(traced)
    prepared.meta["octavo_prepared"] = {
        "inputs": list(custom.input_quantized_indexes),
        "outputs": list(custom.output_quantized_indexes),
    }
    return prepared


def prepare_fx(
    model: nn.Module,
    qconfig_mapping: QConfigMapping | Mapping[str, Any],
    example_inputs: tuple[Any, ...],
    prepare_custom_config: PrepareCustomConfig | None = None,
    _equalization_config: Any = None,
    backend_config: Any = None,
) -> fx.GraphModule:
    """Traces a copy of a model, fuses, and adds observers; then run data through it.

    Args:
        model: in evaluation.
        qconfig_mapping: what gets which qconfig.
        example_inputs: not needed: which tensors are observed follows from the graph.
        prepare_custom_config: what is not traced; quantized inputs and outputs.
        _equalization_config: not supported; None.
        backend_config: not supported; None. The backend is Octavo's kernels.

    Raises:
        UserError: torch.fx cannot trace the model; BatchNorm in training.
        UnsupportedError: an argument that is not supported.
    """
    del example_inputs
    _refuse("prepare_fx", _equalization_config=_equalization_config, backend_config=backend_config)
    return _prepare("prepare_fx", model, qconfig_mapping, prepare_custom_config, False)


def prepare_qat_fx(
    model: nn.Module,
    qconfig_mapping: QConfigMapping | Mapping[str, Any],
    example_inputs: tuple[Any, ...],
    prepare_custom_config: PrepareCustomConfig | None = None,
    backend_config: Any = None,
) -> fx.GraphModule:
    """As :func:`prepare_fx`, for training: weights and activations are fake-quantized.

    Raises:
        UserError: the model is in evaluation; torch.fx cannot trace it.
        UnsupportedError: an argument that is not supported.
    """
    del example_inputs
    _refuse("prepare_qat_fx", backend_config=backend_config)
    if not model.training:
        raise UserError("prepare_qat_fx: only works on models in training mode; call model.train()")
    return _prepare("prepare_qat_fx", model, qconfig_mapping, prepare_custom_config, True)


def convert_fx(
    graph_module: fx.GraphModule,
    convert_custom_config: ConvertCustomConfig | None = None,
    _remove_qconfig: bool = True,
    qconfig_mapping: QConfigMapping | Mapping[str, Any] | None = None,
    backend_config: Any = None,
    keep_original_weights: bool = False,
) -> fx.GraphModule:
    """A copy of an observed or trained model that runs INT8 on Octavo's kernels.

    Args:
        graph_module: from :func:`prepare_fx` or :func:`prepare_qat_fx`, after data or training.
        convert_custom_config: attributes that it keeps.
        _remove_qconfig: True.
        qconfig_mapping: not supported; None: what was prepared is converted.
        backend_config: not supported; None.
        keep_original_weights: not supported; False.

    Raises:
        UserError: a model that was not prepared, or has seen no data.
        UnsupportedError: an argument that is not supported.
    """
    _refuse(
        "convert_fx",
        backend_config=backend_config,
        qconfig_mapping=qconfig_mapping,
        keep_original_weights=keep_original_weights or None,
        _remove_qconfig=None if _remove_qconfig else False,
    )
    marks = getattr(graph_module, "meta", {}).get("octavo_prepared")
    if marks is None:
        raise UserError("convert_fx: the model does not come from prepare_fx or prepare_qat_fx")
    model = copy.deepcopy(graph_module)
    model.eval()
    Converter(model, marks).run()
    del model.meta["octavo_prepared"]
    for name in (convert_custom_config or ConvertCustomConfig()).preserved_attributes:
        setattr(model, name, getattr(graph_module, name))
    return _finished(model)
