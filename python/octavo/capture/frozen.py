"""Running a captured graph in another runtime: when that is sound, with which constants, and how
gradients come about.

A runtime gets tensors and gives new ones. A graph whose outputs share memory with what it was
given, that writes, or that draws random numbers is none for it: it runs as it is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from octavo.capture.errors import BackendError

Inputs = Sequence[Any]  # tensors, and ints where sizes are symbols
Outputs = tuple[torch.Tensor, ...]
Run = Callable[[Sequence[torch.Tensor]], Outputs]
# Of a module and example tensors, what runs it.
Build = Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], Run]

_MOST_PROGRAMS = 8


class _Watch(TorchDispatchMode):
    """Whether an operator writes into a tensor or draws random numbers."""

    pure = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable or torch.Tag.nondeterministic_seeded in func.tags:
            self.pure = False
        return func(*args, **(kwargs or {}))


def outputs_like(gm: torch.fx.GraphModule, inputs: Inputs) -> list[torch.Tensor] | None:
    """Fake outputs, in sizes and strides as the graph gives them; None: no graph for a runtime."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    given = [mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in inputs]
    watch = _Watch()
    try:
        with mode, watch, torch.no_grad():
            outputs = gm(*given)
    except Exception:  # what cannot be known without values
        return None
    seen = {x.untyped_storage()._cdata for x in given if isinstance(x, torch.Tensor)}
    for y in outputs:
        if not isinstance(y, torch.Tensor) or y.untyped_storage()._cdata in seen:
            return None
        seen.add(y.untyped_storage()._cdata)
    return list(outputs) if watch.pure else None


class _Differentiable(torch.autograd.Function):
    """Forward by a program without gradients, backward by torch on the graph."""

    @staticmethod
    def forward(
        ctx: Any, gm: torch.fx.GraphModule, run: Callable[[Inputs], Outputs], *inputs: Any
    ) -> Outputs:
        ctx.gm = gm
        ctx.numbers = [None if isinstance(x, torch.Tensor) else x for x in inputs]
        ctx.save_for_backward(*(x for x in inputs if isinstance(x, torch.Tensor)))
        return run(inputs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> Any:
        saved = iter(ctx.saved_tensors)
        inputs = [
            next(saved).detach().requires_grad_(wanted) if number is None else number
            for number, wanted in zip(ctx.numbers, ctx.needs_input_grad[2:], strict=True)
        ]
        with torch.enable_grad():
            outputs = ctx.gm(*inputs)
        pairs = [
            (y, g) for y, g in zip(outputs, grads, strict=True) if g is not None and y.requires_grad
        ]
        wanted = [x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad]
        given = iter(
            torch.autograd.grad(
                [y for y, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True
            )
        )
        return (None, None, *(next(given) if w else None for w in ctx.needs_input_grad[2:]))


class _WithConstants(torch.nn.Module):
    """The graph with its parameters and numbers held, a module of the other inputs."""

    def __init__(self, gm: torch.fx.GraphModule, inputs: Inputs) -> None:
        super().__init__()
        self.gm = gm
        self.numbers: dict[int, Any] = {}
        self.held: list[int] = []
        self.count = len(inputs)
        for n, x in enumerate(inputs):
            if isinstance(x, torch.nn.Parameter):
                self.register_buffer(f"held{n}", x.detach())
                self.held.append(n)
            elif not isinstance(x, torch.Tensor):
                self.numbers[n] = x

    def forward(self, *inputs: torch.Tensor) -> Any:
        given = iter(inputs)
        return self.gm(
            *(
                getattr(self, f"held{n}")
                if n in self.held
                else self.numbers[n]
                if n in self.numbers
                else next(given)
                for n in range(self.count)
            )
        )


class _Frozen:
    """Programs with the parameters as constants, one for each choice of sizes; built again when a
    parameter has changed.
    """

    def __init__(self, gm: torch.fx.GraphModule, build: Build) -> None:
        self._gm = gm
        self._build = build
        self._state: list[tuple[int, int]] | None = None
        self._programs: OrderedDict[Any, tuple[Run, list[torch.Tensor]]] = OrderedDict()

    def __call__(self, inputs: Inputs) -> Outputs:
        held = [x for x in inputs if isinstance(x, torch.nn.Parameter)]
        others = tuple(
            x.detach()
            for x in inputs
            if isinstance(x, torch.Tensor) and not isinstance(x, torch.nn.Parameter)
        )
        state = [(x.data_ptr(), x._version) for x in held]
        if state != self._state:
            self._state = state
            self._programs.clear()
        key = tuple(x.shape if isinstance(x, torch.Tensor) else x for x in inputs)
        if key not in self._programs:
            if len(self._programs) == _MOST_PROGRAMS:
                self._programs.popitem(last=False)
            like = outputs_like(self._gm, inputs)
            if like is None:
                raise ValueError("the graph shares memory or writes at these sizes")
            with torch.no_grad():
                module = _WithConstants(self._gm, inputs).eval()
                self._programs[key] = (self._build(module, others), like)
        run, like = self._programs[key]
        return tuple(_as(y, one) for y, one in zip(run(others), like, strict=True))


def _as(y: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """In the dtype, shape and strides that PyTorch's own operators give."""
    if y.dtype == like.dtype and y.shape == like.shape and y.stride() == like.stride():
        return y
    made = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)
    return made.copy_(y.reshape(like.shape))


def frozen(
    name: str, gm: torch.fx.GraphModule, example_inputs: Inputs, build: Build
) -> Callable[..., Any]:
    """What a backend gives: the graph in a runtime, or as it is where a runtime cannot have it.

    Raises:
        BackendError: the runtime refuses the graph.
    """
    if outputs_like(gm, example_inputs) is None:
        forward: Callable[..., Any] = gm.forward
        return forward
    programs = _Frozen(gm, build)
    try:
        programs(example_inputs)
    except Exception as error:
        raise BackendError(
            f"the backend {name!r} cannot take this graph: {type(error).__name__}: {error}; "
            "keep what it lacks out with octavo.disable, or choose another backend"
        ) from error

    def call(*inputs: Any) -> Any:
        if torch.is_grad_enabled() and any(
            isinstance(x, torch.Tensor) and x.requires_grad for x in inputs
        ):
            apply: Callable[..., Any] = _Differentiable.apply
            return apply(gm, programs, *inputs)
        return programs(inputs)

    return call
