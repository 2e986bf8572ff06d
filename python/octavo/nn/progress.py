"""How far work on a model is, with an estimate of what is left."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm

__all__ = ["Progress", "Show"]

# True: a tqdm bar on stderr if that is a terminal; a function: called with phase, done, total
# (0: not known), and what it raises ends the work.
Show = bool | Callable[[str, int, int], None]


class Progress:
    """Counts steps of a phase.

    Args:
        show: who is told.
        phase: what the steps do.
        total: how many there are; 0: not known.
        unit: what a step is.
    """

    def __init__(self, show: Show, phase: str, total: int, unit: str = "batch") -> None:
        self._phase = phase
        self._total = total
        self._done = 0
        self._call = show if callable(show) else None
        self._bar: Any = None
        if show is True:
            self._bar = tqdm(desc=phase, total=total or None, unit=unit, disable=None)

    def step(self, count: int = 1) -> None:
        """So many more are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        if self._call is not None:
            self._call(self._phase, self._done, self._total)

    def skip(self, count: int) -> None:
        """So many were done by an earlier run: they do not count for the estimate."""
        self._done += count
        if self._bar is not None:
            self._bar.initial = self._done
            self._bar.reset(self._total or None)
        if self._call is not None and count:
            self._call(self._phase, self._done, self._total)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
