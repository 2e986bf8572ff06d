"""Runs a function eager and captured, and compares all that can be seen; what the tests share."""

from __future__ import annotations

import contextlib
import copy
import io
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from capture_snapshot import Snapshot, difference
from octavo import capture
from octavo.capture.backends import lookup


class Programs:
    """The backend octavo, which keeps what it made."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def __call__(self, gm: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        self.made.append(lookup("octavo")(gm, inputs))
        return self.made[-1]


def near(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Sums of hundreds of products of numbers of order 1: 2**-24 * sqrt(hundreds), a few layers."""
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)


@dataclass
class Seen:
    """What a call did."""

    result: Any = None
    error: BaseException | None = None
    parts: dict[str, Any] = field(default_factory=dict)


def call_and_see(
    fn: Callable[..., Any], args: Sequence[Any], watch: Callable[[], Any] | None = None
) -> Seen:
    """Calls it; result, arguments, `watch()`, printed text, exception and modes afterwards."""
    seen = Seen()
    printed = io.StringIO()
    torch.manual_seed(3)
    grad = torch.is_grad_enabled()
    try:
        with contextlib.redirect_stdout(printed):
            seen.result = fn(*args)
    except Exception as error:
        seen.error = error
        lines = [
            (frame.f_code.co_name, line)
            for frame, line in traceback.walk_tb(error.__traceback__)
            if "test_capture" in frame.f_code.co_filename
        ]
        chain = [type(error.__cause__).__name__, type(error.__context__).__name__]
        seen.parts["exception"] = [type(error).__name__, str(error), lines, chain]
    seen.parts["grad mode"] = torch.is_grad_enabled()
    torch.set_grad_enabled(grad)
    seen.parts["random state"] = torch.get_rng_state().sum().item()
    seen.parts["stdout"] = printed.getvalue()
    snapshot = Snapshot()
    seen.parts["result"] = snapshot.of(seen.result)
    seen.parts["arguments"] = snapshot.of(list(args))
    seen.parts["watched"] = snapshot.of(watch() if watch else None)
    return seen


def compare(eager: Seen, captured: Seen, title: str = "") -> None:
    assert eager.parts.keys() == captured.parts.keys(), (title, eager.error, captured.error)
    for part, value in eager.parts.items():
        found = difference(value, captured.parts[part])
        assert found is None, f"{title} {part} {found}"


def tensors(*shapes: Any) -> list[torch.Tensor]:
    """Of the same values at each call."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def graphs_of(stats: list[dict[str, Any]]) -> int:
    return sum(piece["graph"] is not None for piece in stats)


def breaks_of(stats: list[dict[str, Any]]) -> list[str]:
    return [piece["reason"] for piece in stats if "reason" in piece]


def assert_capture(
    fn: Callable[..., Any],
    args: Sequence[Any],
    *later: Sequence[Any],
    graphs: int | None = None,
    ops: int | None = None,
    breaks: list[str] | None = None,
    later_graphs: int | None = None,
    made: bool = False,
    watch: Callable[[], Any] | None = None,
    steady: bool = True,
) -> list[dict[str, Any]]:
    """`fn` does the same captured as eager: on `args`, on `args` again, and on each of `later`.

    Args:
        fn: the function, or with `made` what makes it anew, for state of its own.
        graphs, ops, breaks: what the first call gives; breaks are names of break_reasons.def.
        later_graphs: graphs that the calls with `later` add: guards that failed.
        watch: gives what the function changes besides its arguments.
        steady: the second call with `args` captures nothing more.
    """
    calls = [args, args, *later]

    def run(wrap: Callable[[Any], Any], after: Callable[[], None]) -> list[Seen]:
        target = fn() if made else fn
        before = copy.deepcopy(watch()) if watch else None
        seen = []
        function = wrap(target)
        # A call's arguments are its own, but modules live on: they are guarded by identity.
        modules = {id(m): m for call in calls for m in call if isinstance(m, torch.nn.Module)}
        copies = {at: copy.deepcopy(module) for at, module in modules.items()}
        for call in calls:
            seen.append(call_and_see(function, copy.deepcopy(call, dict(copies)), watch))
            after()
        if watch and before is not None:
            restore(watch(), before)
        return seen

    stats: list[dict[str, Any]] = []
    sizes: list[int] = []
    eager = run(lambda f: f, lambda: None)
    captured = run(
        lambda f: capture.compile(f, backend="eager", stats=stats), lambda: sizes.append(len(stats))
    )
    for number, (a, b) in enumerate(zip(eager, captured, strict=True)):
        compare(a, b, f"call {number}:")
    first = stats[: sizes[0]]
    if graphs is not None:
        assert graphs_of(first) == graphs, breaks_text(first)
    if ops is not None:
        assert sum(piece["ops"] for piece in first) == ops, breaks_text(first)
    if breaks is not None:
        assert breaks_of(first) == breaks, breaks_text(first)
    if steady:
        assert sizes[1] == sizes[0], breaks_text(stats[sizes[0] : sizes[1]])
    if later_graphs is not None:
        assert graphs_of(stats[sizes[1] :]) == later_graphs, breaks_text(stats[sizes[1] :])
    return stats


def restore(value: Any, before: Any) -> None:
    """Puts back what a watched container held, so that the other run begins alike."""
    if isinstance(value, (list, dict, set)):
        value.clear()
        value.extend(before) if isinstance(value, list) else value.update(before)
    elif hasattr(value, "__dict__"):
        value.__dict__.clear()
        value.__dict__.update(before.__dict__)


def breaks_text(stats: list[dict[str, Any]]) -> str:
    lines = [f"{len(stats)} pieces"]
    for piece in stats:
        lines.append(f"{piece['function']} {piece['where']}: {piece['ops']} ops")
        if "reason" in piece:
            lines.append(f"  {piece['reason']} at {piece['break_at']}: {piece['detail']}")
    return "\n".join(lines)


def whole(fn: Callable[..., Any], args: Sequence[Any], *later: Any, ops: int, **more: Any) -> Any:
    """One graph and no break."""
    return assert_capture(fn, args, *later, graphs=1, ops=ops, breaks=[], **more)
