"""The registry of backends, and what a ``backend=`` with its options means.

A backend is ``(gm: torch.fx.GraphModule, example_inputs) -> callable``. The callable takes the
graph's inputs and returns a tuple of its outputs. ``example_inputs`` are those of the call that was
captured. runtimes.py has Octavo's own backends.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast, overload

import torch

from octavo.capture.errors import BackendError

Backend = Callable[[torch.fx.GraphModule, list[Any]], Callable[..., Any]]
B = TypeVar("B", bound=Backend)

OWN_OPTIONS = frozenset({"inline_modules", "numpy"})
_registered: dict[str, Backend] = {}
# Their graphs take parameters as inputs, so that gradients can be given for them.
_parameters_as_inputs: set[str] = set()
_one_size: set[str] = set()


@overload
def register_backend(name: B, /) -> B: ...
@overload
def register_backend(
    name: str | None = None, *, parameters_as_inputs: bool = ..., one_size: bool = ...
) -> Callable[[B], B]: ...
def register_backend(
    name: str | Backend | None = None,
    *,
    parameters_as_inputs: bool = False,
    one_size: bool = False,
) -> Any:
    """Decorator: makes ``backend=name`` mean the function; without a name, its own.

    Args:
        name: what ``backend=`` takes. It may replace an earlier one, or one of torch's.
        parameters_as_inputs: graphs hold no modules; their parameters are inputs.
        one_size: it is called for each set of sizes, and its graphs have no symbols.

    Raises:
        TypeError: what is registered cannot be called, or has no name.
    """

    def register(backend: Backend) -> Backend:
        if not callable(backend):
            raise TypeError(f"a backend is a function, not {type(backend).__name__}")
        called = name if isinstance(name, str) else getattr(backend, "__name__", None)
        if called is None:
            raise TypeError("a backend that has no __name__ needs one: register_backend(name)")
        _registered[called] = backend
        for names, wanted in ((_parameters_as_inputs, parameters_as_inputs), (_one_size, one_size)):
            names.discard(called)
            if wanted:
                names.add(called)
        return backend

    return register(name) if name is not None and not isinstance(name, str) else register


def list_backends() -> list[str]:
    """The names that ``backend=`` takes: Octavo's own, then those of torch's registry."""
    own = sorted(_registered)
    # Torch finds "octavo" too, by the entry point that is for torch.compile.
    return own + [n for n in torch._dynamo.list_backends(()) if n not in own and n != "octavo"]


def lookup(backend: str | Backend) -> Backend:
    """The function behind a name.

    Raises:
        BackendError: no backend of that name.
    """
    if callable(backend):
        return backend
    if backend in _registered:
        return _registered[backend]
    try:
        return cast(Backend, torch._dynamo.lookup_backend(backend))
    except Exception as error:
        known = ", ".join(list_backends())
        raise BackendError(f"no backend is named {backend!r}; there are {known}") from error


def takes_parameters(backend: str | Backend) -> bool:
    """Whether the backend wants parameters as inputs of the graph."""
    return isinstance(backend, str) and backend in _parameters_as_inputs


def takes_one_size(backend: str | Backend) -> bool:
    """Whether the backend compiles for one size, as those of torch's registry do here."""
    return isinstance(backend, str) and (backend in _one_size or backend not in _registered)


def with_options(
    backend: str | Backend,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    dynamic: bool | None = None,
) -> Backend:
    """The function behind a name, with its mode and options given, as ``torch.compile`` does.

    Raises:
        BackendError: no backend of that name.
        TypeError: the backend takes no such mode or options.
    """
    theirs = {k: v for k, v in (options or {}).items() if k not in OWN_OPTIONS}
    if mode == "default":
        mode = None
    if backend == "inductor" and backend not in _registered:
        if mode is None and not theirs:
            return lookup(backend)
        if mode is not None and theirs:
            raise TypeError("inductor takes a mode or options, not both")
        try:
            return cast(Backend, torch._TorchCompileInductorWrapper(mode, theirs, dynamic))
        except (RuntimeError, AttributeError) as error:
            raise TypeError(f"inductor refuses its mode or options: {error}") from error
    function = lookup(backend)
    given: dict[str, Any] = {"mode": mode} if mode is not None else {}
    if theirs:
        given["options"] = theirs
    if not given:
        return function
    name = backend if isinstance(backend, str) else getattr(backend, "__name__", repr(backend))
    try:
        inspect.signature(function).bind(None, None, **given)
    except TypeError as error:
        unknown = sorted(theirs) if theirs else [mode]
        raise TypeError(
            f"the backend {name!r} takes no {' and no '.join(given)} ({unknown}); "
            f"octavo's own options are {sorted(OWN_OPTIONS)}"
        ) from error
    except ValueError:  # no signature to be read
        pass
    return functools.partial(function, **given)
