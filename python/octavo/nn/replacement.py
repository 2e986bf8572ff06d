"""Quantized modules in the place of a built model's float ones."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from octavo.compat.pytorch_quantization import nn as quant_nn
from octavo.compat.pytorch_quantization.nn.modules import _utils
from octavo.errors import UserError
from octavo.nn.folding import fold_batch_norm, set_module

__all__ = ["Replacement", "replace"]

# What a rule looks at: a class (and its subclasses), a glob over qualified names, or a function of
# name and module.
Selector = type | str | Callable[[str, torch.nn.Module], bool]
# What becomes of it: None: stays float; keywords for the quantized class (descriptors); a quantized
# class; a function that makes the new module.
Target = Mapping[str, Any] | type | Callable[[torch.nn.Module], torch.nn.Module] | None

_NAMES = (
    *[
        f"{kind}{dims}d"
        for kind in ("Conv", "ConvTranspose", "AvgPool", "AdaptiveAvgPool")
        for dims in (1, 2, 3)
    ],
    "Linear",
    "LSTM",
    "LSTMCell",
)


def _float_class(quantized: Any) -> type:
    """The class of torch.nn that a quantized one inherits from, whatever torch.nn holds now."""
    found: type = next(c for c in quantized.__mro__ if c.__module__.startswith("torch.nn."))
    return found


_QUANTIZED = {
    _float_class(cls): cls for cls in (getattr(quant_nn, f"Quant{name}") for name in _NAMES)
}


class Replacement:
    """What :func:`replace` did, and the way back.

    Attributes:
        model: the model; another object only if the whole model was one replaced module.
        names: of the modules that were replaced.
        folded: pairs (layer, batch normalization) that were folded.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.names: list[str] = []
        self.folded: list[tuple[str, str]] = []
        self._undo: list[Callable[[], None]] = []

    def undo(self) -> torch.nn.Module:
        """Puts the float modules back; gives the model.

        Parameters are shared, so what training changed stays changed; but a layer into which batch
        normalization was folded gets back the weights it had before.
        """
        while self._undo:
            self._undo.pop()()
        return self.model

    def __enter__(self) -> torch.nn.Module:
        return self.model

    def __exit__(self, *_error: object) -> None:
        self.undo()


def _matches(selector: Selector, name: str, module: torch.nn.Module) -> bool:
    if isinstance(selector, str):
        return fnmatch.fnmatchcase(name, selector)
    if isinstance(selector, type):
        return isinstance(module, selector)
    return bool(selector(name, module))


def _make(target: Any, quantized: Any, name: str, module: torch.nn.Module) -> torch.nn.Module:
    options: dict[str, Any] = {}
    if isinstance(target, Mapping):
        options = dict(target)
        target = quantized
        if target is None:
            raise UserError(
                f"{name}: there is no quantized class for {type(module).__name__}; give one in "
                "custom_quant_modules, or a function that makes the module"
            )
    if isinstance(target, type):
        if not hasattr(target, "from_float"):
            raise UserError(
                f"{name}: {target.__name__} cannot be made of a float module; derive it from "
                f"{type(module).__name__} and QuantMixin, or give it from_float(module)"
            )
        target = target.from_float
    result = target(module, **options)
    if not isinstance(result, torch.nn.Module):
        raise UserError(f"{name}: the rule made {type(result).__name__}, not a module")
    return result.train(module.training)


def replace(
    model: torch.nn.Module,
    rules: Mapping[Selector, Target] | Iterable[tuple[Selector, Target]] = (),
    *,
    float_list: Sequence[str] = (),
    custom_quant_modules: Iterable[tuple[Any, str, type]] = (),
    args: tuple[Any, ...] | None = None,
    fold: bool = True,
) -> Replacement:
    """Replaces the modules of a built model by quantized ones, in place.

    Weights, buffers, hooks, training mode and device are kept: parameters are the same objects, so
    optimizers go on. First, batch normalization is folded. A module that is used in several places
    stays one module.

    Args:
        model: what to change.
        rules: (selector, target) pairs; the first that matches decides. A selector is a class, a
            glob over qualified names (``"layer4.*"``), or a function of name and module. A target
            is None (stays float), keywords such as ``{"quant_desc_weight": descriptor}``, a
            quantized class, or a function that makes the new module. What no rule matches is
            replaced if it is exactly a Conv, ConvTranspose, Linear, LSTM, LSTMCell, AvgPool or
            AdaptiveAvgPool of torch.nn.
        float_list: names of classes, or globs over qualified names, that stay float; goes before
            ``rules``.
        custom_quant_modules: further classes, as for ``quant_modules.initialize``: (module that
            holds the float class, its name, quantized class).
        args: example inputs, by which torch.export finds what to fold; None: torch.fx does.
        fold: whether to fold batch normalization.

    Raises:
        UserError: a rule that cannot be carried out; the model is then as before.
    """
    pairs = list(rules.items() if isinstance(rules, Mapping) else rules)
    table: dict[type, Any] = dict(_QUANTIZED)
    for holder, class_name, quantized in custom_quant_modules:
        table[_unpatched(getattr(holder, class_name))] = quantized
    result = Replacement(model)
    try:
        if fold:
            result.folded, undo = fold_batch_norm(model, args)
            result._undo.append(undo)
        made: dict[torch.nn.Module, torch.nn.Module] = {}
        for name, module in list(model.named_modules(remove_duplicate=False)):
            if isinstance(module, _utils.QuantMixin | _utils.QuantInputMixin):
                continue
            if any(name.startswith(f"{parent}.") or not parent for parent in result.names):
                continue  # inside of what was replaced
            if module not in made:
                present: Any = table.get(type(module))
                target: Any = None
                if not any(
                    fnmatch.fnmatchcase(name, f) or type(module).__name__ == f for f in float_list
                ):
                    target = next((t for s, t in pairs if _matches(s, name, module)), present)
                if target is None:
                    continue
                made[module] = _make(target, present, name, module)
            _put(result, name, module, made[module])
    except BaseException:
        result.undo()
        raise
    return result


def _unpatched(cls: Any) -> type:
    """The float class where quant_modules.initialize has put a quantized one."""
    return _float_class(cls) if cls in _QUANTIZED.values() else cls


def _put(result: Replacement, name: str, old: torch.nn.Module, new: torch.nn.Module) -> None:
    root = result.model
    result.names.append(name)
    if name:
        set_module(root, name, new)
    else:
        result.model = new

    def undo() -> None:
        old.train(new.training)
        if name:
            set_module(root, name, old)
        else:
            result.model = old

    result._undo.append(undo)
