"""Torch's symbolic sizes, for operators whose shape rule is torch's own.

The tracer keeps its sizes as expressions of its own (expression.h). A call that its own rules do
not know comes here: the operator runs on tensors of ``torch.SymInt`` sizes, and what it gives and
asks of the sizes goes back as nested tuples: an int, ``("s", n)``, ``(op, a, b)``.
"""

from __future__ import annotations

import logging
from functools import reduce
from typing import Any, cast

import sympy
import torch
from torch._guards import Source
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.utils._sympy.functions import FloorDiv, Max, Min, Mod, PythonMod

Terms = Any

_COMPARISONS = {
    sympy.StrictLessThan: 0,
    sympy.LessThan: 1,
    sympy.Equality: 2,
    sympy.Unequality: 3,
    sympy.StrictGreaterThan: 4,
    sympy.GreaterThan: 5,
}


class _Input(Source):  # type: ignore[misc]
    """Where a symbol comes from; the tracer knows more."""

    def __init__(self, label: str) -> None:
        self._label = label

    @property
    def name(self) -> str:
        return self._label


class _Rules:
    """The mode in which torch's rules run. What they refuse they also log, which is of no use: the
    tracer goes another way."""

    _log = logging.getLogger("torch._subclasses.fake_tensor")

    def __init__(self, mode: FakeTensorMode) -> None:
        self._mode = mode
        self._was_disabled = False

    def __enter__(self) -> None:
        self._was_disabled = self._log.disabled
        self._log.disabled = True
        self._mode.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._mode.__exit__(*error)
        self._log.disabled = self._was_disabled


class Symbols:
    """The symbols of one trace.

    Every method raises ``ValueError`` for what the tracer's expressions cannot say; the piece is
    then traced with the sizes that it has.
    """

    def __init__(self) -> None:
        self._env = ShapeEnv(duck_shape=False)
        # Torch's rules for symbolic sizes are those of its fake tensors.
        self.mode = _Rules(FakeTensorMode(shape_env=self._env, allow_non_fake_inputs=True))
        self._numbers: dict[sympy.Symbol, int] = {}
        self._taken = 0

    def symbol(self, number: int, hint: int) -> torch.SymInt:
        """Symbol ``number``, at least 2, which is ``hint`` in this call."""
        source = _Input(f"s{number}")
        made = self._env.create_symbol(hint, source, dynamic_dim=DimDynamic.DYNAMIC)
        self._numbers[made] = number
        return cast(torch.SymInt, self._env.create_symintnode(made, hint=hint, source=source))

    def tensor(
        self, like: torch.Tensor, sizes: tuple[Any, ...], strides: tuple[Any, ...]
    ) -> torch.Tensor:
        """A fake tensor of ``like``'s type, on the meta device."""
        with self.mode:
            return torch.empty_strided(sizes, strides, dtype=like.dtype, device="meta")

    def layout(self, tensor: torch.Tensor) -> tuple[tuple[Any, ...], tuple[int, ...]]:
        """((hint, terms) of each size, hint of each stride)."""
        sizes = tuple(self.number(size) for size in tensor.shape)
        return sizes, tuple(self.number(stride)[0] for stride in tensor.stride())

    def number(self, given: int | torch.SymInt) -> tuple[int, Terms]:
        """(hint, terms) of an int."""
        if isinstance(given, int):
            return given, given
        terms = self._terms(given.node.expr)
        hint = given.node.hint
        if hint is None:
            raise ValueError("a size that depends on data")
        return int(hint), terms

    def conditions(self) -> list[tuple[int, Terms, Terms]]:
        """What has been asked of symbols since the last call, with the answers as they were."""
        made: list[tuple[int, Terms, Terms]] = []
        guards = self._env.guards
        for guard in guards[self._taken :]:
            self._add(guard.expr, made)
        self._taken = len(guards)
        return made

    def _add(self, given: sympy.Basic, made: list[tuple[int, Terms, Terms]]) -> None:
        if given is sympy.true:
            return
        if isinstance(given, sympy.And):
            for one in given.args:
                self._add(one, made)
            return
        comparison = _COMPARISONS.get(type(given))
        if comparison is None:
            raise ValueError(f"a guard on sizes: {given}")
        made.append((comparison, self._terms(given.args[0]), self._terms(given.args[1])))

    def _terms(self, given: sympy.Basic) -> Terms:
        if isinstance(given, sympy.Integer):
            return int(given)
        if isinstance(given, sympy.Symbol):
            if given not in self._numbers:
                raise ValueError(f"a size that depends on data: {given}")
            return ("s", self._numbers[given])
        if isinstance(given, sympy.Pow) and given.args[1].is_Integer and 0 < given.args[1] <= 8:
            base = self._terms(given.args[0])
            return reduce(lambda a, b: ("mul", a, b), [base] * int(given.args[1]))
        for kind, name in (
            (sympy.Add, "add"),
            (sympy.Mul, "mul"),
            (FloorDiv, "floordiv"),
            (Mod, "mod"),
            (PythonMod, "mod"),
            (Max, "max"),
            (Min, "min"),
        ):
            if isinstance(given, kind):
                parts = [self._terms(part) for part in given.args]
                return reduce(lambda a, b, name=name: (name, a, b), parts)  # type: ignore[misc]
        raise ValueError(f"a size that is {given}")
