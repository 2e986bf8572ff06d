"""Fusion of neighbours before quantization: torch.ao's fuse_modules and the modules it makes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from octavo.errors import UnsupportedError, UserError


class FusedModule(nn.Sequential):
    """Float modules that become one integer module."""


class ConvReLU1d(FusedModule):
    """Conv1d, ReLU."""


class ConvReLU2d(FusedModule):
    """Conv2d, ReLU."""


class ConvReLU3d(FusedModule):
    """Conv3d, ReLU."""


class ConvBn1d(FusedModule):
    """Conv1d, BatchNorm1d, for training."""


class ConvBn2d(FusedModule):
    """Conv2d, BatchNorm2d, for training."""


class ConvBn3d(FusedModule):
    """Conv3d, BatchNorm3d, for training."""


class ConvBnReLU1d(FusedModule):
    """Conv1d, BatchNorm1d, ReLU, for training."""


class ConvBnReLU2d(FusedModule):
    """Conv2d, BatchNorm2d, ReLU, for training."""


class ConvBnReLU3d(FusedModule):
    """Conv3d, BatchNorm3d, ReLU, for training."""


class LinearReLU(FusedModule):
    """Linear, ReLU."""


class LinearBn1d(FusedModule):
    """Linear, BatchNorm1d, for training."""


def batch_norm_factors(bn: Any) -> tuple[Tensor, Tensor]:
    """What a batch normalisation in evaluation multiplies by and adds."""
    scale = torch.rsqrt(bn.running_var + bn.eps)
    if bn.weight is not None:
        scale = scale * bn.weight
    shift = -bn.running_mean * scale
    return scale, shift if bn.bias is None else shift + bn.bias


def folded(layer: Any, bn: Any, axis: int = 0) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias of a layer with the batch normalisation behind it."""
    scale, shift = batch_norm_factors(bn)
    shape = [1] * layer.weight.dim()
    shape[axis] = -1
    bias = shift if layer.bias is None else layer.bias * scale + shift
    trained = layer.weight.requires_grad
    return (
        nn.Parameter((layer.weight * scale.reshape(shape)).detach(), trained),
        nn.Parameter(bias.detach(), trained),
    )


def _fold(layer: Any, bn: Any) -> nn.Module:
    result: nn.Module = copy.deepcopy(layer)
    axis = 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0
    if axis == 1 and layer.groups != 1:
        raise UnsupportedError("fuse_modules: ConvTranspose with groups and BatchNorm")
    result.weight, result.bias = folded(layer, bn, axis)
    return result


# What becomes of a sequence in evaluation, and in training.
_AFTER_FOLD: dict[Any, Any] = {
    nn.Conv1d: ConvReLU1d,
    nn.Conv2d: ConvReLU2d,
    nn.Conv3d: ConvReLU3d,
    nn.Linear: LinearReLU,
}
_TRAINED: dict[Any, Any] = {
    (nn.Conv1d, nn.BatchNorm1d): ConvBn1d,
    (nn.Conv2d, nn.BatchNorm2d): ConvBn2d,
    (nn.Conv3d, nn.BatchNorm3d): ConvBn3d,
    (nn.Conv1d, nn.BatchNorm1d, nn.ReLU): ConvBnReLU1d,
    (nn.Conv2d, nn.BatchNorm2d, nn.ReLU): ConvBnReLU2d,
    (nn.Conv3d, nn.BatchNorm3d, nn.ReLU): ConvBnReLU3d,
    (nn.Linear, nn.BatchNorm1d): LinearBn1d,
}
_FOLDED = {
    (nn.Conv1d, nn.BatchNorm1d),
    (nn.Conv2d, nn.BatchNorm2d),
    (nn.Conv3d, nn.BatchNorm3d),
    (nn.Linear, nn.BatchNorm1d),
    (nn.ConvTranspose1d, nn.BatchNorm1d),
    (nn.ConvTranspose2d, nn.BatchNorm2d),
    (nn.ConvTranspose3d, nn.BatchNorm3d),
}


def _fuse_known(modules: Sequence[nn.Module], is_qat: bool) -> Any:
    kinds = tuple(type(module) for module in modules)
    if len({module.training for module in modules}) > 1:
        raise UserError("fuse_modules: some are in training and some in evaluation")
    if is_qat and kinds in _TRAINED:
        if not modules[0].training:
            raise UserError("fuse_modules_qat: the model is in evaluation; call model.train()")
        return _TRAINED[kinds](*modules)
    with_relu = kinds[-1] is nn.ReLU
    head = kinds[:-1] if with_relu else kinds
    if head in _FOLDED and (not with_relu or head[0] in _AFTER_FOLD):
        if modules[0].training:
            raise UserError("fuse_modules: BatchNorm is folded in evaluation; call model.eval()")
        layer = _fold(modules[0], modules[1])
        return _AFTER_FOLD[head[0]](layer, modules[-1]) if with_relu else layer
    if with_relu and len(head) == 1 and head[0] in _AFTER_FOLD:
        return _AFTER_FOLD[head[0]](*modules)
    raise UnsupportedError(f"Cannot fuse modules: {', '.join(kind.__name__ for kind in kinds)}")


def fuse_known_modules(mod_list: Sequence[nn.Module], is_qat: bool = False) -> list[nn.Module]:
    """The fused module, then an Identity for each of the others; hooks of the ends stay."""
    fused = _fuse_known(mod_list, is_qat)
    for hook in mod_list[0]._forward_pre_hooks.values():
        fused.register_forward_pre_hook(hook)
    mod_list[0]._forward_pre_hooks.clear()
    for after in mod_list[-1]._forward_hooks.values():
        fused.register_forward_hook(after)
    mod_list[-1]._forward_hooks.clear()
    rest: list[nn.Module] = []
    for _ in mod_list[1:]:
        identity = nn.Identity()
        identity.train(mod_list[0].training)
        rest.append(identity)
    return [fused, *rest]


def _fuse_modules(
    model: nn.Module,
    modules_to_fuse: Sequence[str] | Sequence[Sequence[str]],
    is_qat: bool,
    inplace: bool,
    fuser_func: Any,
) -> nn.Module:
    if not inplace:
        model = copy.deepcopy(model)
    groups: list[list[str]] = []
    for entry in modules_to_fuse:
        if isinstance(entry, str):
            groups = [[str(name) for name in modules_to_fuse]]
            break
        groups.append(list(entry))
    for names in groups:
        found = [model.get_submodule(name) for name in names]
        for name, new in zip(names, fuser_func(found, is_qat), strict=True):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, new)
    return model


def fuse_modules(
    model: nn.Module,
    modules_to_fuse: Any,
    inplace: bool = False,
    fuser_func: Any = fuse_known_modules,
    fuse_custom_config_dict: Any = None,
) -> nn.Module:
    """Fuses Conv or Linear with the BatchNorm and ReLU that follow, in evaluation.

    Args:
        model: what holds them.
        modules_to_fuse: a list of names, or a list of such lists.
        inplace: change ``model`` itself.
        fuser_func: takes the modules of a list, gives as many.
        fuse_custom_config_dict: not supported; None.

    Raises:
        UserError: BatchNorm in training.
        UnsupportedError: a sequence that is not known.
    """
    if fuse_custom_config_dict:
        raise UnsupportedError("fuse_modules: fuse_custom_config_dict; give a fuser_func")
    return _fuse_modules(model, modules_to_fuse, False, inplace, fuser_func)


def fuse_modules_qat(
    model: nn.Module,
    modules_to_fuse: Any,
    inplace: bool = False,
    fuser_func: Any = fuse_known_modules,
    fuse_custom_config_dict: Any = None,
) -> nn.Module:
    """As :func:`fuse_modules`, for training: BatchNorm stays and is folded by ``convert``."""
    if fuse_custom_config_dict:
        raise UnsupportedError("fuse_modules: fuse_custom_config_dict; give a fuser_func")
    return _fuse_modules(model, modules_to_fuse, True, inplace, fuser_func)
