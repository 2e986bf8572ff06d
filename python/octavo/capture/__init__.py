"""Capture: PyTorch programs become graphs as they run.

    @octavo.compile(backend="eager")
    def step(x): ...

A function is captured piece by piece while Python runs it: what can be traced becomes a
``torch.fx.GraphModule`` for the backend, what cannot runs as it is, and capture goes on behind it.
``explain`` shows the pieces. docs/capture.md says what is traced.
"""

# ruff: noqa: E402
from __future__ import annotations

from octavo.capture import _supported

_supported.check_environment()

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

import torch

from octavo import _capture
from octavo.capture import runtimes as runtimes
from octavo.capture.backends import (
    Backend,
    list_backends,
    register_backend,
    takes_one_size,
    takes_parameters,
    with_options,
)
from octavo.capture.errors import BackendError, GraphBreakError
from octavo.capture.explanation import Explanation, explain
from octavo.capture.logs import from_environment as _from_environment
from octavo.capture.logs import set_logs
from octavo.capture.marks import (
    allow_in_graph,
    assume_constant_result,
    disable,
    graph_break,
    is_compiling,
    mark_dynamic,
    mark_static,
)
from octavo.capture.sizes import by_size

__all__ = [
    "BackendError",
    "CapturedModule",
    "Explanation",
    "GraphBreakError",
    "allow_in_graph",
    "assume_constant_result",
    "compile",
    "disable",
    "explain",
    "export",
    "graph_break",
    "is_compiling",
    "list_backends",
    "mark_dynamic",
    "mark_static",
    "optimize",
    "register_backend",
    "reset",
    "set_logs",
]

_from_environment()

F = TypeVar("F", bound=Callable[..., Any])


class CapturedModule(torch.nn.Module):
    """A module whose forward is captured. Attributes, parameters and state are the module's."""

    def __init__(self, module: torch.nn.Module, wrap: Callable[[Callable[..., Any]], Any]) -> None:
        super().__init__()
        self._orig_mod = module
        object.__setattr__(self, "_captured_forward", wrap(module.forward))
        object.__setattr__(self, "_captured_call", wrap(module.__call__))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's result."""
        module = self._orig_mod
        hooked = (
            module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
        )
        if hooked:
            return self._captured_call(*args, **kwargs)
        return self._captured_forward(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._orig_mod, name)


@overload
def compile(
    model: F,
    *,
    backend: str | Backend = ...,
    fullgraph: bool = ...,
    dynamic: bool | None = ...,
    mode: str | None = ...,
    options: Mapping[str, Any] | None = ...,
    stats: list[dict[str, Any]] | None = ...,
) -> F: ...
@overload
def compile(
    model: None = None,
    *,
    backend: str | Backend = ...,
    fullgraph: bool = ...,
    dynamic: bool | None = ...,
    mode: str | None = ...,
    options: Mapping[str, Any] | None = ...,
    stats: list[dict[str, Any]] | None = ...,
) -> Callable[[F], F]: ...
def compile(
    model: Callable[..., Any] | None = None,
    *,
    backend: str | Backend = "octavo",
    fullgraph: bool = False,
    dynamic: bool | None = None,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    stats: list[dict[str, Any]] | None = None,
) -> Any:
    """The function or module, captured when it is called; without one, a decorator.

    Args:
        model: a Python function, a method, or a ``torch.nn.Module``.
        backend: a name of ``list_backends()``, or ``(gm, example_inputs) -> callable``.
        fullgraph: a graph break is an error.
        dynamic: which sizes and ints a graph leaves open. None: those that differed between calls;
            True: all from 2 on but those of parameters and buffers; False: none.
        mode: inductor's mode, as of ``torch.compile``; other backends get it as ``mode=``.
        options: ``{"inline_modules": True}`` makes parameters inputs of the graph, as torch 2.13
            does, instead of ``call_module`` and ``get_attr`` nodes. ``"numpy"`` says which of
            NumPy's calls become nodes: True all that torch answers alike, though its sums and
            functions may round otherwise; ``"exact"`` those of the same bits; False none. Others
            are the backend's own: inductor's configuration, or what a function takes as
            ``options=``.
        stats: a list that gets a dict for each piece that is captured; ``explain`` reads it.

    Raises:
        BackendError: no such backend, or its package is missing.
        GraphBreakError: when called, with ``fullgraph``.
        TypeError: ``model`` cannot be called, or the backend takes no such mode or options.
    """
    function = with_options(backend, mode, options, dynamic)
    if takes_one_size(backend):
        function = by_size(function)
    inline = bool((options or {}).get("inline_modules", takes_parameters(backend)))
    numpy = (options or {}).get("numpy", True)
    if numpy not in (True, False, "exact"):
        raise TypeError(f"options['numpy'] is True, False or 'exact', not {numpy!r}")

    def wrap(target: Callable[..., Any]) -> Any:
        return _capture.wrap(
            target,
            function,
            fullgraph=fullgraph,
            inline_modules=inline,
            stats=stats,
            dynamic=dynamic,
            numpy=numpy,
        )

    def captured(target: Callable[..., Any]) -> Any:
        if isinstance(target, torch.nn.Module):
            return CapturedModule(target, wrap)
        if not callable(target):
            raise TypeError(f"a function or a module is compiled, not {type(target).__name__}")
        made = wrap(target)
        for name in ("__name__", "__qualname__", "__doc__", "__module__"):
            if hasattr(target, name):
                made.__dict__[name] = getattr(target, name)
        return made

    return captured if model is None else captured(model)


def _is_backend(given: str | Backend) -> bool:
    """A backend takes a graph and its inputs; a step of training, anything else."""
    if isinstance(given, str):
        return True
    if isinstance(given, torch.nn.Module):
        return False
    try:
        parameters = inspect.signature(given).parameters.values()
    except (TypeError, ValueError):
        return True
    positional = [
        p
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    return len(positional) == 2 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


class _Optimize:
    """What ``optimize`` returns: a decorator, or the captured function itself."""

    def __init__(self, given: str | Backend, options: dict[str, Any]) -> None:
        self._given = given
        self._options = options
        self._captured: Callable[..., Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        one = len(args) == 1 and not kwargs and callable(args[0])
        if one and _is_backend(self._given):
            return compile(args[0], backend=self._given, **self._options)
        if isinstance(self._given, str):
            raise TypeError(f"optimize({self._given!r}) decorates one function or module")
        # optimize(training_step)(data): the function itself was given, not a backend.
        if self._captured is None:
            self._captured = compile(self._given, **({"backend": "eager"} | self._options))
        return self._captured(*args, **kwargs)


def optimize(backend: str | Backend = "octavo", **options: Any) -> _Optimize:
    """torchdynamo's spelling: ``@optimize(my_compiler)`` over a function or a module.

    ``optimize(training_step)`` with the function itself gives it captured, with the eager backend.
    A function of exactly two required arguments that is called with a single function is a
    backend.

    Args:
        backend: a name, ``(gm, example_inputs) -> callable``, or what is to be captured.
        options: those of ``compile``.

    Raises:
        BackendError: no such backend (when the function is decorated).
        TypeError: ``options`` that ``compile`` has not; a name that decorates nothing callable.
    """
    return _Optimize(backend, options)


def export(model: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.fx.GraphModule:
    """The one graph of a call. It is called with the call's tensors and gives a tuple.

    Raises:
        GraphBreakError: the call is not one graph.
        ValueError: the call has no operators.
    """
    stats: list[dict[str, Any]] = []
    compile(model, backend="eager", fullgraph=True, stats=stats)(*args, **kwargs)
    graphs = [piece["graph"] for piece in stats if piece["graph"] is not None]
    if len(graphs) != 1:
        raise ValueError(f"the call gives {len(graphs)} graphs; export needs one")
    return graphs[0]  # type: ignore[no-any-return]


def reset() -> None:
    """Forgets everything captured: the next call captures anew."""
    _capture.reset()
