"""What capture made of a call: pieces, graphs, breaks, guards, times."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Break:
    """Where a graph ended before its function did."""

    where: str  # "file:line"
    reason: str  # its name in break_reasons.def
    detail: str
    explanation: str
    hint: str


@dataclasses.dataclass(frozen=True)
class Recompile:
    """A piece that was captured although there were versions at its place."""

    where: str  # "file:line"
    misfits: list[str]  # of each version the first guard that did not hold, most recent first


@dataclasses.dataclass(frozen=True)
class Explanation:
    """``print`` it, or read the fields. Times are in milliseconds."""

    graphs: list[Any]
    ops: int
    breaks: list[Break]
    guards: list[str]
    recompiles: list[Recompile]
    python_rules: int  # operators whose shape rule ran in Python
    instructions: int  # bytecode instructions that were traced
    trace_ms: float
    backend_ms: float

    @property
    def coverage(self) -> float:
        """Traced bytecode instructions, in percent of those and the ones that broke."""
        total = self.instructions + len(self.breaks)
        return 100.0 * self.instructions / total if total else 100.0

    def __str__(self) -> str:
        lines = [
            f"graphs {len(self.graphs)}, ops {self.ops}, breaks {len(self.breaks)}, "
            f"guards {len(self.guards)}, coverage {self.coverage:.1f}%",
            f"tracing {self.trace_ms:.2f} ms, backend {self.backend_ms:.2f} ms, "
            f"shape rules in Python {self.python_rules} of {self.ops} ops",
        ]
        for one in self.breaks:
            lines.append(f"break at {one.where}: {one.explanation} ({one.detail})")
            lines.append(f"  {one.hint}")
        for again in self.recompiles:
            lines.append(f"captured again at {again.where}: {'; '.join(again.misfits)}")
        return "\n".join(lines)


def explain(model: Callable[..., Any], **options: Any) -> Callable[..., Explanation]:
    """``explain(f)(*args)`` calls ``f`` captured and says what became of it.

    Args:
        model: what ``compile`` takes.
        options: those of ``compile``; the backend is eager if none is named.

    Raises:
        what ``compile`` and the call itself raise.
    """
    capture = importlib.import_module("octavo.capture")  # which imports this module
    compile = capture.compile
    # What is compiled already would keep its own pieces to itself.
    if isinstance(model, capture.CapturedModule):
        model = model._orig_mod
    elif type(model).__module__ == "octavo._capture":
        model = getattr(model, "__wrapped__")  # noqa: B009 (mypy knows no such callable)

    def call(*args: Any, **kwargs: Any) -> Explanation:
        stats: list[dict[str, Any]] = []
        compile(model, stats=stats, **({"backend": "eager"} | options))(*args, **kwargs)
        return Explanation(
            graphs=[piece["graph"] for piece in stats if piece["graph"] is not None],
            ops=sum(piece["ops"] for piece in stats),
            breaks=[
                Break(
                    piece["break_at"],
                    piece["reason"],
                    piece["detail"],
                    piece["explanation"],
                    piece["hint"],
                )
                for piece in stats
                if "reason" in piece
            ],
            guards=[line for piece in stats for line in piece["guards"].splitlines()],
            recompiles=[
                Recompile(piece["where"], piece["misfits"]) for piece in stats if piece["misfits"]
            ],
            python_rules=sum(piece["python_rules"] for piece in stats),
            instructions=sum(piece["instructions"] for piece in stats),
            trace_ms=sum(piece["trace_ms"] for piece in stats),
            backend_ms=sum(piece["backend_ms"] for piece in stats),
        )

    return call
