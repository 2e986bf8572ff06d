"""prepare, convert, prepare_qat, quantize_dynamic: torch.ao.quantization's eager workflow."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from octavo.errors import UnsupportedError, UserError
from octavo.quantization import dynamic, embedding, fuse, qat, quantized, volumes
from octavo.quantization.fake_quantize import FakeQuantizeBase
from octavo.quantization.observers import ObserverBase
from octavo.quantization.qconfig import (
    QConfig,
    default_dynamic_qconfig,
    float16_dynamic_qconfig,
    float_qparams_weight_only_qconfig,
)
from octavo.quantization.stubs import DeQuantStub, FloatFunctional, QuantStub, QuantWrapper

Mapping_ = Mapping[Any, Any]

_LINEAR = (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)
_IN_FLOAT = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.PReLU,
)
_ACTIVATIONS = (nn.ReLU6, nn.Hardswish, nn.ELU, nn.LeakyReLU)
_STATIC: dict[Any, Any] = {
    QuantStub: quantized.Quantize,
    DeQuantStub: quantized.DeQuantize,
    FloatFunctional: quantized.QFunctional,
    nn.Conv1d: quantized.Conv1d,
    nn.Conv2d: quantized.Conv2d,
    nn.Conv3d: volumes.Conv3d,
    nn.ConvTranspose1d: volumes.ConvTranspose1d,
    nn.ConvTranspose2d: volumes.ConvTranspose2d,
    nn.ConvTranspose3d: volumes.ConvTranspose3d,
    fuse.ConvReLU3d: volumes.ConvReLU3d,
    qat.Conv3d: volumes.Conv3d,
    qat.ConvReLU3d: volumes.ConvReLU3d,
    qat.ConvBn3d: volumes.Conv3d,
    qat.ConvBnReLU3d: volumes.ConvReLU3d,
    fuse.ConvReLU1d: quantized.ConvReLU1d,
    fuse.ConvReLU2d: quantized.ConvReLU2d,
    fuse.LinearReLU: quantized.LinearReLU,
    qat.Linear: quantized.Linear,
    qat.LinearReLU: quantized.LinearReLU,
    qat.LinearBn1d: quantized.Linear,
    qat.Conv1d: quantized.Conv1d,
    qat.Conv2d: quantized.Conv2d,
    qat.ConvReLU1d: quantized.ConvReLU1d,
    qat.ConvReLU2d: quantized.ConvReLU2d,
    qat.ConvBn1d: quantized.Conv1d,
    qat.ConvBn2d: quantized.Conv2d,
    qat.ConvBnReLU1d: quantized.ConvReLU1d,
    qat.ConvBnReLU2d: quantized.ConvReLU2d,
    nn.Embedding: embedding.Embedding,
    nn.EmbeddingBag: embedding.EmbeddingBag,
    **dict.fromkeys(_LINEAR, quantized.Linear),
    **dict.fromkeys(_IN_FLOAT, quantized.InFloat),
    **dict.fromkeys(_ACTIVATIONS, quantized.Activation),
}
_DYNAMIC: dict[Any, Any] = {
    **dict.fromkeys(_LINEAR, dynamic.Linear),
    fuse.LinearReLU: dynamic.LinearReLU,
    nn.LSTM: dynamic.LSTM,
    nn.GRU: dynamic.GRU,
    nn.LSTMCell: dynamic.LSTMCell,
    nn.GRUCell: dynamic.GRUCell,
    nn.RNNCell: dynamic.RNNCell,
    nn.Embedding: embedding.Embedding,
    nn.EmbeddingBag: embedding.EmbeddingBag,
}
_QAT: dict[Any, Any] = {
    **dict.fromkeys(_LINEAR, qat.Linear),
    nn.Conv1d: qat.Conv1d,
    nn.Conv2d: qat.Conv2d,
    nn.Conv3d: qat.Conv3d,
    fuse.LinearReLU: qat.LinearReLU,
    fuse.LinearBn1d: qat.LinearBn1d,
    fuse.ConvReLU1d: qat.ConvReLU1d,
    fuse.ConvReLU2d: qat.ConvReLU2d,
    fuse.ConvReLU3d: qat.ConvReLU3d,
    fuse.ConvBn3d: qat.ConvBn3d,
    fuse.ConvBnReLU3d: qat.ConvBnReLU3d,
    fuse.ConvBn1d: qat.ConvBn1d,
    fuse.ConvBn2d: qat.ConvBn2d,
    fuse.ConvBnReLU1d: qat.ConvBnReLU1d,
    fuse.ConvBnReLU2d: qat.ConvBnReLU2d,
}
# Of torch.ao's own classes, which models may hold: by name, so that torch.ao is not imported.
_TORCH_NAMES = {
    "QuantStub": QuantStub,
    "DeQuantStub": DeQuantStub,
    "FloatFunctional": FloatFunctional,
}


def get_default_static_quant_module_mappings() -> dict[Any, Any]:
    """From float and QAT modules to integer ones."""
    return dict(_STATIC)


def get_default_dynamic_quant_module_mappings() -> dict[Any, Any]:
    """From float modules to those of :func:`quantize_dynamic`."""
    return dict(_DYNAMIC)


def get_default_qat_module_mappings() -> dict[Any, Any]:
    """From float modules to those of :func:`prepare_qat`."""
    return dict(_QAT)


def _kind(module: nn.Module) -> Any:
    kind = type(module)
    if kind.__module__.startswith("torch.ao."):
        return _TORCH_NAMES.get(kind.__name__, kind)
    return kind


def propagate_qconfig_(
    module: nn.Module, qconfig_dict: Mapping_ | None = None, _name: str = "", _parent: Any = None
) -> None:
    """Gives each module the qconfig of its name, its type, itself, or its parent."""
    given = qconfig_dict or {}
    own = getattr(module, "qconfig", _parent)
    own = given.get(type(module), given.get(_kind(module), own))
    own = given.get(_name, own)
    if own is None and "" in given:
        own = given[""]
    module.qconfig = own
    for name, child in module.named_children():
        if not isinstance(child, (ObserverBase, FakeQuantizeBase)):
            propagate_qconfig_(child, given, f"{_name}.{name}" if _name else name, own)


def _observe(module: Any) -> None:
    observer = module.qconfig.activation()
    for parameter in module.parameters():
        observer.to(parameter.device)
        break
    module.add_module("activation_post_process", observer)
    module.register_forward_hook(_observer_hook, prepend=True)


def _observer_hook(module: Any, _inputs: Any, output: Tensor) -> Tensor:
    result: Tensor = module.activation_post_process(output)
    return result


def _add_observers(module: nn.Module, observed: Iterable[Any]) -> None:
    kind = _kind(module)
    qconfig = getattr(module, "qconfig", None)
    if kind is FloatFunctional:
        if qconfig is not None:
            module.activation_post_process = qconfig.activation()
    elif kind in observed and kind is not nn.Dropout:
        if qconfig is not None and kind is not DeQuantStub:
            _observe(module)
    else:
        for child in list(module.children()):
            if not isinstance(child, (ObserverBase, FakeQuantizeBase)):
                _add_observers(child, observed)


def prepare(
    model: nn.Module,
    inplace: bool = False,
    allow_list: Any = None,
    observer_non_leaf_module_list: Any = None,
    prepare_custom_config_dict: Any = None,
) -> nn.Module:
    """Adds observers, as the modules' ``qconfig`` says; then run data through the model.

    Args:
        model: has ``qconfig`` on itself or on parts.
        inplace: change ``model`` itself.
        allow_list: types to observe; None: all that ``convert`` knows.
        observer_non_leaf_module_list: types to observe although they have children.
        prepare_custom_config_dict: not supported; None.

    Raises:
        UnsupportedError: a module that torch.ao converts and Octavo does not.
    """
    if prepare_custom_config_dict:
        raise UnsupportedError("prepare: prepare_custom_config_dict")
    if not inplace:
        model = copy.deepcopy(model)
    propagate_qconfig_(model)
    if all(getattr(module, "qconfig", None) is None for module in model.modules()):
        warnings.warn(
            "None of the submodule got qconfig applied. Make sure you passed correct "
            "configuration through `qconfig_dict` or by assigning the `.qconfig` attribute "
            "directly on submodules",
            stacklevel=2,
        )
    observed = set(_STATIC) | set(_QAT.values()) if allow_list is None else set(allow_list)
    _add_observers(model, observed | set(observer_non_leaf_module_list or ()))
    return model


def prepare_qat(
    model: nn.Module, mapping: Mapping_ | None = None, inplace: bool = False
) -> nn.Module:
    """Puts modules with fake-quantized weights in place and adds fake quantizers of activations.

    Raises:
        UserError: the model is in evaluation.
    """
    if not model.training:
        raise UserError("prepare_qat: only works on models in training mode; call model.train()")
    if not inplace:
        model = copy.deepcopy(model)
    mapping = _QAT if mapping is None else mapping
    propagate_qconfig_(model)
    convert(model, mapping, inplace=True, remove_qconfig=False)
    _add_observers(model, set(_STATIC) | set(mapping.values()))
    return model


def swap_module(mod: Any, mapping: Mapping_, custom_module_class_mapping: Any = None) -> Any:
    """The module that ``mapping`` has for ``mod`` if it has a qconfig, else ``mod``; hooks stay."""
    kind = _kind(mod)
    if custom_module_class_mapping:
        raise UnsupportedError("swap_module: custom_module_class_mapping")
    if getattr(mod, "qconfig", None) is None or kind not in mapping:
        return mod
    target = mapping[kind]
    keeps_weight_float = (
        kind in (nn.Embedding, nn.EmbeddingBag)
        and getattr(mod.qconfig.weight(), "dtype", None) != torch.quint8
    )
    if keeps_weight_float:
        return mod
    made = target.from_float(mod)
    for before in mod._forward_pre_hooks.values():
        made.register_forward_pre_hook(before)
    for after in mod._forward_hooks.values():
        if after is not _observer_hook:
            made.register_forward_hook(after)
    made.train(mod.training)
    return made


def _convert(module: nn.Module, mapping: Mapping_) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, (ObserverBase, FakeQuantizeBase)):
            continue
        if not isinstance(child, fuse.FusedModule) and _kind(child) not in mapping:
            _convert(child, mapping)
        setattr(module, name, swap_module(child, mapping))


def _strip(module: Any) -> None:
    for child in module.children():
        _strip(child)
    module.__dict__.pop("qconfig", None)
    if isinstance(
        getattr(module, "activation_post_process", None), ObserverBase | FakeQuantizeBase
    ):
        del module.activation_post_process
    for key, after in list(module._forward_hooks.items()):
        if after is _observer_hook:
            del module._forward_hooks[key]


def convert(
    module: nn.Module,
    mapping: Mapping_ | None = None,
    inplace: bool = False,
    remove_qconfig: bool = True,
    is_reference: bool = False,
    convert_custom_config_dict: Any = None,
    use_precomputed_fake_quant: bool = False,
) -> Any:
    """Puts integer modules in place of observed or trained ones.

    Args:
        module: from :func:`prepare` or :func:`prepare_qat`, after data or training.
        mapping: from types to types with ``from_float``; None: the static ones.
        inplace: change ``module`` itself.
        remove_qconfig: take away qconfigs and observers.
        is_reference: not supported; False.
        convert_custom_config_dict: not supported; None.
        use_precomputed_fake_quant: not supported; False.
    """
    if is_reference or convert_custom_config_dict or use_precomputed_fake_quant:
        raise UnsupportedError(
            "convert: is_reference, convert_custom_config_dict, use_precomputed_fake_quant"
        )
    if not inplace:
        module = copy.deepcopy(module)
    mapping = _STATIC if mapping is None else mapping
    if _kind(module) in mapping:
        module = swap_module(module, mapping)
    else:
        _convert(module, mapping)
    if remove_qconfig:
        _strip(module)
    return module


def quantize(
    model: nn.Module,
    run_fn: Callable[..., Any],
    run_args: Iterable[Any],
    mapping: Mapping_ | None = None,
    inplace: bool = False,
) -> Any:
    """:func:`prepare`, ``run_fn(model, *run_args)``, :func:`convert`."""
    model = prepare(model if inplace else copy.deepcopy(model), inplace=True)
    model.eval()
    run_fn(model, *run_args)
    return convert(model, mapping, inplace=True)


def quantize_qat(
    model: nn.Module, run_fn: Callable[..., Any], run_args: Iterable[Any], inplace: bool = False
) -> Any:
    """:func:`prepare_qat`, ``run_fn(model, *run_args)``, :func:`convert`."""
    model = model if inplace else copy.deepcopy(model)
    model.train()
    model = prepare_qat(model, inplace=True)
    run_fn(model, *run_args)
    return convert(model, inplace=True)


_RECURRENT = (nn.Linear, nn.LSTM, nn.GRU, nn.LSTMCell, nn.RNNCell, nn.GRUCell)


def _dynamic_default(dtype: torch.dtype) -> QConfig:
    defaults = {
        torch.qint8: default_dynamic_qconfig,
        torch.float16: float16_dynamic_qconfig,
        torch.quint8: float_qparams_weight_only_qconfig,
    }
    if dtype not in defaults:
        raise UserError(
            f"Don't know how to quantize with default settings for {dtype}. "
            "Provide full qconfig please"
        )
    return defaults[dtype]


def quantize_dynamic(
    model: nn.Module,
    qconfig_spec: Any = None,
    dtype: torch.dtype = torch.qint8,
    mapping: Mapping_ | None = None,
    inplace: bool = False,
) -> Any:
    """INT8 (or float16) weights; inputs are quantized at each call.

    Args:
        model: a float model.
        qconfig_spec: a set of types and names, or a dictionary from them to QConfigs; None: Linear
            and recurrent layers, for ``torch.quint8`` embeddings.
        dtype: of the weights: ``torch.qint8``, ``torch.float16``, ``torch.quint8``.
        mapping: from types to types with ``from_float``.
        inplace: change ``model`` itself.
    """
    if qconfig_spec is None:
        kinds = (nn.Embedding, nn.EmbeddingBag) if dtype == torch.quint8 else _RECURRENT
        qconfig_spec = dict.fromkeys(kinds, _dynamic_default(dtype))
    elif isinstance(qconfig_spec, (set, frozenset)):
        qconfig_spec = dict.fromkeys(qconfig_spec, _dynamic_default(dtype))
    if not inplace:
        model = copy.deepcopy(model)
    model.eval()
    propagate_qconfig_(model, qconfig_spec)
    return convert(model, _DYNAMIC if mapping is None else mapping, inplace=True)


def add_quant_dequant(module: nn.Module) -> nn.Module:
    """Wraps each leaf that has a qconfig into a :class:`QuantWrapper`."""
    if not list(module.children()) and getattr(module, "qconfig", None) is not None:
        return QuantWrapper(module)
    for name, child in list(module.named_children()):
        setattr(module, name, add_quant_dequant(child))
    return module
