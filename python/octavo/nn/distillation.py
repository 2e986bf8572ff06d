"""Training a quantized model towards its float teacher, layer by layer and at the output."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch

from octavo.compat.pytorch_quantization import nn as quant_nn
from octavo.errors import UserError
from octavo.nn.layers import layers_of
from octavo.nn.progress import Progress, Show
from octavo.nn.running import Forward, in_evaluation_mode, run_batch
from octavo.nn.sensitivity import outputs_of

__all__ = ["Distillation", "distill"]


@dataclass(frozen=True)
class Distillation:
    """What :func:`distill` did."""

    losses: list[float]  # of each step
    layers: tuple[str, ...]  # that were compared


class _Outputs:
    """What some modules gave last."""

    def __init__(self, model: torch.nn.Module, names: Sequence[str]) -> None:
        self.values: dict[str, Any] = {}
        self._hooks = [model.get_submodule(n).register_forward_hook(self._keep(n)) for n in names]

    def _keep(self, name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _args: Any, output: Any) -> None:
            self.values[name] = output

        return hook

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def _distance(student: Any, teacher: Any) -> torch.Tensor:
    """Noise over signal, the mean over the tensors."""
    pairs = zip(_tensors(student), outputs_of(teacher), strict=True)
    ratios = [
        (s - t).square().mean() / t.square().mean().clamp_min(2.0**-24)
        for s, t in pairs
        if t.is_floating_point()
    ]
    return torch.stack(ratios).mean()


def _tensors(value: Any) -> list[torch.Tensor]:
    """With their gradients."""
    leaves = torch.utils._pytree.tree_leaves(value)
    return [t for t in leaves if isinstance(t, torch.Tensor)]


def _divergence(student: Any, teacher: Any, temperature: float) -> torch.Tensor:
    """Hinton's loss of class scores."""
    s, t = _tensors(student)[0] / temperature, outputs_of(teacher)[0] / temperature
    loss = torch.nn.functional.kl_div(
        s.log_softmax(-1).flatten(0, -2),
        t.log_softmax(-1).flatten(0, -2),
        reduction="batchmean",
        log_target=True,
    )
    return loss * temperature**2


def distill(
    model: torch.nn.Module,
    data: Iterable[Any],
    *,
    teacher: torch.nn.Module | None = None,
    layers: Sequence[str] | None = None,
    layer_weight: float = 1.0,
    output_weight: float = 1.0,
    output: str = "mse",
    temperature: float = 1.0,
    optimizer: torch.optim.Optimizer | None = None,
    learning_rate: float = 1e-4,
    epochs: int = 1,
    forward: Forward | None = None,
    progress: Show = True,
) -> Distillation:
    """Trains a quantized model so that it gives what its float teacher gives; no labels needed.

    The loss is ``layer_weight`` times the mean over the layers of noise over signal at their
    outputs (layerwise distillation), and ``output_weight`` times that of the model's output, or
    with ``output="kl"`` Hinton's divergence of its class scores (Hinton et al., "Distilling the
    Knowledge in a Neural Network", 2015). With learned ranges (:func:`octavo.nn.learn_ranges`)
    those are trained too.

    Args:
        model: calibrated; trained in place. Whether it is in training mode is the caller's choice:
            evaluation mode leaves batch normalization and dropout alone.
        data: batches, as for :func:`octavo.calibrate`; read once each epoch.
        teacher: gives the targets, in evaluation mode; its layers have the same names. None: the
            model as it is now, its quantizers disabled.
        layers: names, or globs over names, of modules to compare; None: all that are quantized.
        layer_weight: of the layers' loss.
        output_weight: of the output's loss.
        output: ``"mse"`` or ``"kl"``.
        temperature: divides class scores of ``"kl"``.
        optimizer: of the model's parameters; None: Adam.
        learning_rate: of that Adam.
        epochs: how often to go through the data.
        forward: runs a batch, ``forward(model, batch)``.
        progress: as for :func:`octavo.calibrate`.

    Raises:
        UserError: no quantizer, no batch, no layer of such a name, or one that the teacher lacks;
            the loss is not finite.
    """
    found = [layer.name for layer in layers_of(model)]
    if output not in ("mse", "kl"):
        raise UserError(f"output: '{output}' is not known; there are mse and kl")
    if layers is not None:
        every = [name for name, _ in model.named_modules() if name]
        found = [n for n in every if any(fnmatch.fnmatchcase(n, glob) for glob in layers)]
        if not found:
            raise UserError(f"layers: no module is called {', '.join(layers)}")
    if teacher is None:
        teacher = copy.deepcopy(model)
        for module in teacher.modules():
            if isinstance(module, quant_nn.TensorQuantizer):
                module.disable()
    known = {name for name, _ in teacher.named_modules()}
    missing = [name for name in found if name not in known]
    if missing:
        raise UserError(
            f"teacher: has no module {missing[0]}; name the layers= that both have, or leave the "
            "teacher out"
        )
    if optimizer is None:
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=learning_rate)
    run = forward or run_batch
    names = found if layer_weight else []
    theirs, ours = _Outputs(teacher, names), _Outputs(model, names)
    losses: list[float] = []
    total = epochs * len(data) if isinstance(data, Sized) else 0
    try:
        with (
            in_evaluation_mode(teacher),
            Progress(progress, "distillation", total) as shown,
        ):
            for _ in range(epochs):
                for batch in data:
                    theirs.values.clear()
                    ours.values.clear()
                    with torch.no_grad():
                        target = run(teacher, batch)
                    result = run(model, batch)
                    loss = torch.zeros(())
                    if output_weight:
                        part = (
                            _distance(result, target)
                            if output == "mse"
                            else _divergence(result, target, temperature)
                        )
                        loss = loss + output_weight * part
                    both = [n for n in names if n in ours.values and n in theirs.values]
                    if both:
                        parts = [_distance(ours.values[n], theirs.values[n]) for n in both]
                        loss = loss + layer_weight * torch.stack(parts).mean()
                    losses.append(float(loss.detach()))
                    if not torch.isfinite(loss):
                        raise UserError(
                            f"distillation: the loss of step {len(losses)} is {losses[-1]}; lower "
                            "the learning rate, or look for NaN in the data"
                        )
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    shown.step()
    finally:
        theirs.remove()
        ours.remove()
    if not losses:
        raise UserError("distillation: the data hold no batch; an iterator may be used up")
    return Distillation(losses, tuple(found))
