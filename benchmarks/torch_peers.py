"""torch as it is and through inductor, as peers of the whole-model benchmarks."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch

from peers import Array, Inputs, Runner

# What inductor is asked for, by the runner's name.
INDUCTOR: dict[str, dict[str, Any]] = {
    "inductor FP32": {},
    "inductor freezing FP32": {"freezing": True},
    "inductor freezing bf16": {"freezing": True},
}


def _first(result: Any) -> Array:
    tensor = result if isinstance(result, torch.Tensor) else result[0]
    logits: Array = tensor.float().numpy()
    return logits


def _given(inputs: Inputs) -> list[torch.Tensor]:
    return [torch.from_numpy(x) for x in inputs.values()]


def eager(net: torch.nn.Module) -> Runner:
    def run(inputs: Inputs) -> Array:
        with torch.inference_mode():
            return _first(net(*_given(inputs)))

    return Runner("torch eager FP32", run)


def inductor(name: str, net: torch.nn.Module) -> Runner:
    """Compiled at the first call, for the shapes of that call."""
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(net), dynamic=False, options=INDUCTOR[name])
    half = name.endswith("bf16")

    def run(inputs: Inputs) -> Array:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            return _first(compiled(*_given(inputs)))

    return Runner(name, run)


def makers(module: Callable[[], Any], threads: int, with_inductor: bool) -> dict[str, Any]:
    torch.set_num_threads(threads)
    with contextlib.suppress(RuntimeError):  # it can be said only once
        torch.set_num_interop_threads(1)
    net = module().eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    made: dict[str, Callable[[], Runner]] = {"torch eager FP32": lambda: eager(net)}
    if with_inductor:
        for name in INDUCTOR:
            made[name] = lambda n=name: inductor(n, net)  # type: ignore[misc]
    return made
