"""What capture does, as log lines: the logger ``octavo.capture``, ``OCTAVO_CAPTURE_LOG`` for all.

OCTAVO_CAPTURE_LOG=breaks,recompiles python train.py
"""

from __future__ import annotations

import dis
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from octavo import _capture

logger = logging.getLogger("octavo.capture")


def _piece(piece: dict[str, Any]) -> str:
    return (
        f"{piece['function']}: captured at {piece['where']}, {piece['ops']} ops, "
        f"{piece['guard_count']} guards"
    )


def _break(piece: dict[str, Any]) -> str | None:
    if "reason" not in piece:
        return None
    return (
        f"{piece['function']}: break at {piece['break_at']}: {piece['reason']}: "
        f"{piece['explanation']} ({piece['detail']}); {piece['hint']}"
    )


def _recompile(piece: dict[str, Any]) -> str | None:
    if not piece["misfits"]:
        return None
    versions = "".join(f"\n  {n}: {line}" for n, line in enumerate(piece["misfits"]))
    return (
        f"{piece['function']}: captured again at {piece['where']}; "
        f"what did not hold of the versions there:{versions}"
    )


def _guards(piece: dict[str, Any]) -> str:
    lines = "".join(f"\n  {line}" for line in piece["guards"].splitlines())
    return f"{piece['function']}: guards of {piece['where']}:{lines}"


def _graph(piece: dict[str, Any]) -> str | None:
    if piece["graph"] is None:
        return None
    return f"{piece['function']}: graph of {piece['where']}:\n{piece['graph'].graph}"


def _bytecode(piece: dict[str, Any]) -> str:
    end = piece["end"]
    lines = [
        f"  {one.offset:5} {one.opname} {one.argrepr}"
        for one in dis.get_instructions(piece["code"])
        if one.offset >= piece["begin"] and (end is None or one.offset < end)
    ]
    return f"{piece['function']}: bytecode of {piece['where']}:\n" + "\n".join(lines)


def _times(piece: dict[str, Any]) -> str:
    return (
        f"{piece['function']}: {piece['where']}: tracing {piece['trace_ms']:.2f} ms, "
        f"backend {piece['backend_ms']:.2f} ms, shape rules in Python {piece['python_rules']}"
    )


_LINES: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "pieces": _piece,
    "breaks": _break,
    "recompiles": _recompile,
    "guards": _guards,
    "graphs": _graph,
    "bytecode": _bytecode,
    "times": _times,
}


def set_logs(*names: str) -> None:
    """Log what is named of each piece that is captured from now on, at level INFO.

    Args:
        names: of ``pieces``, ``breaks`` (reason, hint), ``recompiles`` (the guards that did not
            hold), ``guards``, ``graphs``, ``bytecode`` (from a piece's begin to its end, as it
            lies; loops are unrolled), ``times``; ``all``. None: nothing more is logged.

    Raises:
        ValueError: a name that is not among these.
    """
    if unknown := [name for name in names if name != "all" and name not in _LINES]:
        raise ValueError(
            f"no log is called {', '.join(unknown)}; there are {', '.join(_LINES)} and all"
        )
    chosen = [line for name, line in _LINES.items() if name in names or "all" in names]

    def tell(piece: dict[str, Any]) -> None:
        for line in chosen:
            if text := line(piece):
                logger.info("%s", text)

    _capture.listen(tell if chosen else None)


def from_environment() -> None:
    """What ``OCTAVO_CAPTURE_LOG`` names goes to standard error."""
    names = [name.strip() for name in os.environ.get("OCTAVO_CAPTURE_LOG", "").split(",")]
    names = [name for name in names if name]
    if not names:
        return
    try:
        set_logs(*names)
    except ValueError as error:
        print(f"octavo: OCTAVO_CAPTURE_LOG: {error}", file=sys.stderr)
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
