"""``octavo.compile``: of graphs and files a program, of PyTorch code captured code."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from octavo import _core
from octavo._core import Graph, Program
from octavo.api import Path, load

F = TypeVar("F", bound=Callable[..., Any])
Backend = Callable[[Any, list[Any]], Callable[..., Any]]

_FOR_GRAPHS = {"threads": 0, "optimize": True, "keep_denormals": False}
_FOR_CODE = {
    "backend": "octavo",
    "fullgraph": False,
    "dynamic": None,
    "mode": None,
    "options": None,
}


@overload
def compile(
    model: Graph | Path,
    *,
    threads: int = ...,
    optimize: bool = ...,
    keep_denormals: bool = ...,
) -> Program: ...
@overload
def compile(
    model: F,
    *,
    backend: str | Backend = ...,
    fullgraph: bool = ...,
    dynamic: bool | None = ...,
    mode: str | None = ...,
    options: Mapping[str, Any] | None = ...,
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
) -> Callable[[F], F]: ...
def compile(
    model: Any = None,
    *,
    threads: int = 0,
    optimize: bool = True,
    keep_denormals: bool = False,
    backend: str | Backend = "octavo",
    fullgraph: bool = False,
    dynamic: bool | None = None,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Makes a program of a graph or a model file; captures a function or a torch module.

    Of a graph or a file, with ``threads``, ``optimize`` and ``keep_denormals``, it gives a program:
    call it with arrays (NumPy, DLPack) or with ``{name: array}``. Dense inputs are not copied.
    Symbolic dimensions are bound at each call; a new binding is planned once.

    Of Python code, with the other arguments, it gives the same function or module, which is
    captured when it is called (docs/capture.md): what can be traced becomes graphs for the backend,
    what cannot runs as it is. Without ``model`` it is a decorator:
    ``@octavo.compile(backend="inductor")``.

    Args:
        model: a float or quantized graph, or the path of a file that holds one; or a function, a
            method, or a ``torch.nn.Module``.
        threads: of a program: how many to use; 0 follows CPU affinity and cgroup quota.
        optimize: of a program: False runs each node by itself, without fusion (to look for faults).
        keep_denormals: of a program: by default float numbers below 1.2e-38 count as zero in
            arithmetic, which they would slow down a hundredfold. Of code torch decides:
            ``torch.set_flush_denormal``.
        backend: of code: a name of :func:`octavo.list_backends`, or a function ``(gm,
            example_inputs) -> callable``.
        fullgraph: of code: what would break the graph is an error.
        dynamic: of code: whether sizes are symbols; None: from the second size on.
        mode: of code: inductor's mode, as of ``torch.compile``.
        options: of code: ``{"inline_modules": True}`` makes parameters inputs of the graph; others
            are the backend's own.

    Raises:
        TypeError: ``model`` is none of these, or an argument is not for it.
        BackendError: no such backend, or its package is missing (an ``octavo.UserError``).
        GraphBreakError: when the code is called, with ``fullgraph``.
        ImportError: code, and torch is missing or not one that capture supports.
    """
    of_graph = isinstance(model, (Graph, str, os.PathLike))
    given = locals()
    wrong = _FOR_CODE if of_graph else _FOR_GRAPHS
    for name, default in wrong.items():
        if given[name] is not default and given[name] != default:
            kinds = ("graphs", "Python code") if of_graph else ("Python code", "graphs")
            raise TypeError(f"octavo.compile of {kinds[0]}: {name} is for {kinds[1]}")
    if of_graph:
        graph = model if isinstance(model, Graph) else load(model)
        return _core.compile_graph(
            graph, threads=threads, optimize=optimize, keep_denormals=keep_denormals
        )
    if model is not None and not callable(model):
        raise TypeError(
            "octavo.compile takes a Graph, a path, a function or a torch module, not "
            f"{type(model).__name__}"
        )
    capture = importlib.import_module("octavo.capture")  # which imports torch
    return capture.compile(
        model, backend=backend, fullgraph=fullgraph, dynamic=dynamic, mode=mode, options=options
    )
