"""What capture costs, beside stock torch._dynamo and eager torch in the same run.

    tools/run.sh python benchmarks/capture.py --json capture.json

Answers are checked first, then all are timed in turns; medians, and ratios of medians. Captures are
timed from a reset to the end of the first call (of backend octavo: and of its backward), less a
plain one. With --check, fails where a gate is missed.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch._dynamo as dynamo
from torch import nn

import captured_programs as programs
from captured_programs import Make
from octavo import _aten, capture

EPSILON = 2.0**-24  # half a unit in the last place of float32, relative


@dataclasses.dataclass(frozen=True)
class Row:
    """Seconds, or counts where `unit` is empty; medians."""

    name: str
    ours: float
    peer: str
    theirs: float
    gate: str
    held: bool
    unit: str = "s"
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.theirs / max(self.ours, 1e-9)


def shown(value: float, unit: str) -> str:
    if not unit:
        return f"{value:g}"
    return f"{value * 1e3:.1f} ms" if value >= 1e-3 else f"{value * 1e6:.2f} us"


# --- answers -----------------------------------------------------------------------------------
def leaves(value: Any) -> Iterable[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)


def check(name: str, make: Make) -> int:
    """Answers equal eager's on the first calls of capture and stock; gives how many ops it has."""
    stats: list[dict[str, Any]] = []
    first: list[dict[str, Any]] = []
    answers = []
    ways: list[Callable[[Any], Any]] = [
        lambda f: f,
        lambda f: capture.compile(f, backend="eager", stats=stats),
        lambda f: torch.compile(f, backend="eager"),
    ]
    for way in ways:
        torch.manual_seed(0)
        function, args = make()
        wrapped = way(function)
        # Clones: what is given back may change at the next call.
        seen = [t.clone() for t in leaves(wrapped(*args))]
        first = first or list(stats)
        answers.append(seen + [t.clone() for _ in range(2) for t in leaves(wrapped(*args))])
    for a, b in zip(answers[0], answers[1], strict=True):
        same = torch.equal(a, b)
        if name == "Adam":  # its one graph uses the capturable arithmetic, as stock's does
            same = bool((a - b).abs().max() <= 4 * torch.finfo(a.dtype).eps * a.abs().max())
        if not same:
            raise SystemExit(f"{name}: capture's answer is not eager's")
    breaks = [f"{p['reason']} at {p['break_at']} ({p['detail']})" for p in first if "reason" in p]
    graphs = sum(p["graph"] is not None for p in first)
    if breaks or graphs != 1:
        print(f"{name}: {graphs} graphs, breaks {breaks[:3]}", file=sys.stderr)
    capture.reset()
    dynamo.reset()
    return sum(p["ops"] for p in first)


def gradients(function: Callable[..., Any], module: nn.Module, x: torch.Tensor) -> list[Any]:
    """The answer, and the gradients of its sum of squares for the input and the parameters."""
    for leaf in (x, *module.parameters()):
        leaf.grad = None
    y = function(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in module.parameters())]


def check_gradients(name: str, make: Make, backend: str) -> None:
    """In float32 nobody is exact: ours is as near to eager's float64 as eager's float32 is."""
    torch.manual_seed(0)
    module, (x,) = make()
    assert isinstance(module, nn.Module)
    stats: list[dict[str, Any]] = []
    wide = copy.deepcopy(module).double()
    exact = gradients(wide, wide, x.detach().double().requires_grad_())
    eager = gradients(module, module, x)
    ours = gradients(capture.compile(module, backend=backend, stats=stats), module, x)
    for a, b, c in zip(ours, eager, exact, strict=True):
        bar = 4 * (b - c).abs().max() + 8 * EPSILON * c.abs().max()
        if not bool((a - c).abs().max() <= bar):
            raise SystemExit(f"{name}: backend {backend}'s answer or gradient is not eager's")
    if [p["graph"] is not None for p in stats] != [True]:
        raise SystemExit(f"{name}: {len(stats)} pieces, 1 is wanted")
    capture.reset()


# --- timing ------------------------------------------------------------------------------------
def once(function: Callable[..., Any], args: tuple[Any, ...]) -> float:
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def capture_times(make: Make, turns: int) -> tuple[float, float]:
    """Median seconds of a capture: ours, stock's. Stock is slow: a third of the turns."""
    ours, stock = [], []
    for turn in range(turns):
        torch.manual_seed(0)
        function, args = make()
        plain = statistics.median(once(function, args) for _ in range(3))
        capture.reset()
        ours.append(once(capture.compile(function, backend="eager"), args) - plain)
        if turn % 3 == 0:
            function, args = make()
            dynamo.reset()
            stock.append(once(torch.compile(function, backend="eager"), args) - plain)
    dynamo.reset()
    return statistics.median(ours), statistics.median(stock)


def joint_times(make: Make, turns: int) -> tuple[float, float, str]:
    """Median seconds of a capture with its joint lowering: ours, stock aot_eager's; our phases."""
    ours, stock = [], []
    phases: list[tuple[float, float]] = []
    for turn in range(turns):
        function, (x,) = make()
        assert isinstance(function, nn.Module)

        def step(f: Callable[..., Any], x: torch.Tensor = x, m: nn.Module = function) -> float:
            return once(gradients, (f, m, x))

        plain = statistics.median(step(function) for _ in range(3))
        stats: list[dict[str, Any]] = []
        capture.reset()
        ours.append(step(capture.compile(function, backend="octavo", stats=stats)) - plain)
        phases.append((sum(p["trace_ms"] for p in stats), sum(p["backend_ms"] for p in stats)))
        if turn % 3 == 0:
            dynamo.reset()
            stock.append(step(torch.compile(function, backend="aot_eager")) - plain)
    capture.reset()
    dynamo.reset()
    trace, backend = (statistics.median(p) for p in zip(*phases, strict=True))
    note = f"capture {trace:.1f} ms, lowering {backend:.1f} ms"
    return statistics.median(ours), statistics.median(stock), note


def in_turns(
    ways: list[Callable[..., Any]], args: tuple[Any, ...], turns: int, calls: int
) -> list[float]:
    """Median seconds of a call of each."""
    times: list[list[float]] = [[] for _ in ways]
    for way in ways:
        for _ in range(3):
            way(*args)
    for _ in range(turns):
        for way, seen in zip(ways, times, strict=True):
            start = time.perf_counter()
            for _ in range(calls):
                way(*args)
            seen.append((time.perf_counter() - start) / calls)
    return [statistics.median(t) for t in times]


def call_times(make: Make, turns: int, calls: int) -> list[float]:
    """Median seconds of a call: plain, ours, stock's."""
    function, args = make()
    ways = [
        function,
        capture.compile(function, backend="eager"),
        torch.compile(function, backend="eager"),
    ]
    times = in_turns(ways, args, turns, calls)
    capture.reset()
    dynamo.reset()
    return times


def dispatch_times(make: Make, turns: int, calls: int) -> list[float]:
    """Median seconds of a call whose graph's work is left out: dispatch and guards."""

    def hollow(gm: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        outputs: list[Any] = []

        def run(*args: Any) -> Any:
            if not outputs:
                outputs.append(gm.forward(*args))
            return outputs[0]

        return run

    function, args = make()
    other, _ = make()
    ways = [capture.compile(function, backend=hollow), torch.compile(other, backend=hollow)]
    with torch.no_grad():
        times = in_turns(ways, args, turns, calls)
    capture.reset()
    dynamo.reset()
    return times


# --- optimizers --------------------------------------------------------------------------------
Optimizer = Callable[..., torch.optim.Optimizer]


def optimizer_steps(make: Optimizer, ways: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    """A step for each way, checked against the first; all have the same gradients."""
    given = programs.resnet_parameters()
    steps, held = [], []
    for way, options in ways:
        own = [nn.Parameter(p.detach().clone()) for p in given]
        for mine, p in zip(own, given, strict=True):
            mine.grad = p.grad
        step: Callable[[], Any] = make(own, **options).step
        if way == "octavo":
            step = capture.compile(step, backend="octavo")
        elif way != "eager":
            step = torch.compile(step, backend=way)
        for _ in range(3):
            step()
        steps.append(step)
        held.append(own)
    # Eager's 1 - beta ** t is double, the captured (capturable) one float32: two roundings of a
    # power near 1, divided by 1 - beta, of three steps of at most the learning rate or so.
    for (way, _), own in zip(ways[1:], held[1:], strict=True):
        for a, b in zip(own, held[0], strict=True):
            bar = EPSILON * (4.0 / (1 - 0.999) * 3 * 1e-2 + 3 * 4 * float(b.detach().abs().max()))
            if not bool((a - b).abs().max() <= bar):
                raise SystemExit(f"{make}: {way}'s step is not eager's")
    return steps


def optimizer_rows(turns: int) -> list[Row]:
    rows = []
    makes: dict[str, tuple[Optimizer, dict[str, Any]]] = {
        "Adam": (torch.optim.Adam, {"lr": 1e-3}),
        "AdamW": (torch.optim.AdamW, {"lr": 1e-3}),
        "SGD with momentum": (torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9}),
    }
    for name, (make, options) in makes.items():
        for threads in (1, 2) if (os.cpu_count() or 1) > 1 else (1,):
            torch.set_num_threads(threads)
            ways = [("eager", options | {"foreach": True}), ("octavo", options)]
            ways.append(("eager", options | {"fused": True}))
            if name == "Adam" and threads == 1:
                ways.append(("aot_eager", options | {"foreach": True}))
            foreach, ours, *others = in_turns(optimizer_steps(make, ways), (), turns, 1)
            title = f"{name} step, 25.6M numbers, {threads} thread{'s'[: threads - 1]}"
            gate = "not slower than eager's foreach"
            rows.append(Row(title, ours, "foreach", foreach, gate, ours <= foreach))
            for peer, theirs in zip(("fused", "aot_eager"), others, strict=False):
                rows.append(Row(title, ours, peer, theirs, "none", True))
            capture.reset()
            dynamo.reset()
    torch.set_num_threads(1)
    return rows


# --- sizes -------------------------------------------------------------------------------------
def over_sizes(wrapped: Callable[..., Any], module: nn.Module, rounding: float) -> None:
    """Calls with 20 batch sizes; checks every answer."""
    with torch.no_grad():
        for size in range(2, 22):
            x = torch.randn(size, 16)
            ours, exact = wrapped(x), module(x)
            if not bool((ours - exact).abs().max() <= rounding * exact.abs().max()):
                raise SystemExit(f"batch size {size}: the answer is wrong")


def our_compiles(backend: str) -> int:
    """How often the backend compiles; of octavo how many programs it makes."""
    module = programs.Blocks(4, 16)
    if backend == "octavo":
        with mock.patch.object(_aten, "Captured", side_effect=_aten.Captured) as compiled:
            # Octavo's sums have another order than eager's: some roundings in each of 4 blocks.
            over_sizes(capture.compile(module, backend=backend), module, 64 * EPSILON)
            count = compiled.call_count
    else:
        stats: list[dict[str, Any]] = []
        over_sizes(capture.compile(module, backend=backend, stats=stats), module, 0.0)
        count = len(stats)
    capture.reset()
    return count


def stock_compiles() -> int:
    graphs = []

    def counted(gm: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        graphs.append(gm)
        return gm.forward

    module = programs.Blocks(4, 16)
    over_sizes(torch.compile(module, backend=counted), module, 0.0)
    dynamo.reset()
    return len(graphs)


# --- the table ---------------------------------------------------------------------------------
def capture_rows(turns: int) -> list[Row]:
    rows = []
    makes: dict[str, Make] = {
        "chain of 800 adds": programs.chain_of_adds,
        "MLP of 48 blocks": programs.mlp,
        "ResNet-50": programs.resnet,
        "BERT-base": programs.bert,
        "Adam": programs.adam,
    }
    ops = {name: check(name, make) for name, make in makes.items()}
    for name, make in makes.items():
        ours, stock = capture_times(make, turns)
        title = f"capture, {name}" + (" over 161 parameters" if name == "Adam" else "")
        per_op = ours / max(ops[name], 1)
        if name in ("chain of 800 adds", "MLP of 48 blocks"):
            gate, held = "<= 0.3 ms an op", per_op <= 0.3e-3
        elif name == "Adam":
            gate, held = "<= 250 ms", ours <= 0.25
        else:
            gate, held = ">= 20 times as fast", stock / ours >= 20
        note = f"{shown(per_op, 's')} an op"
        rows.append(Row(title, ours, "stock eager", stock, gate, held, note=note))
    return rows


def joint_rows(turns: int) -> list[Row]:
    rows = []
    for name, make, bar in (
        ("MLP", programs.small_mlp, 5e-3),
        ("6-block encoder", programs.encoder, 60e-3),
    ):
        check_gradients(name, make, "octavo")
        ours, stock, note = joint_times(make, turns)
        title = f"capture and joint lowering, {name}"
        gate = f"<= {bar * 1e3:.0f} ms"
        rows.append(Row(title, ours, "stock aot_eager", stock, gate, ours <= bar, note=note))
    return rows


def call_rows(turns: int) -> list[Row]:
    plain, ours, stock = call_times(programs.add_one, turns, 2000)
    title, added = "added to a call of f(x) = x + 1", ours - plain
    rows = [Row(title, added, "stock eager", stock - plain, "<= 2 us", added <= 2e-6)]
    for name, make, bar in (
        ("MLP of 48 blocks", programs.mlp, 15e-6),
        ("ResNet-50", programs.resnet, 20e-6),
    ):
        ours, stock = dispatch_times(make, turns, 300)
        title, gate = f"dispatch and guards, {name}", f"<= {bar * 1e6:.0f} us"
        rows.append(Row(title, ours, "stock", stock, gate, ours <= bar))
    return rows


def size_rows() -> list[Row]:
    rows = []
    for backend in ("eager", "octavo"):
        ours, stock = our_compiles(backend), stock_compiles()
        title = f"compiles over 20 batch sizes, backend {backend}"
        rows.append(Row(title, ours, "stock eager", stock, "<= 2", ours <= 2, unit=""))
    return rows


def machine() -> dict[str, Any]:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where a gate is missed")
    parser.add_argument("--json", type=Path, help="writes the rows to this file")
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    made: dict[str, Any] = {"machine": machine(), "turns": options.turns}
    rows = capture_rows(options.turns) + joint_rows(options.turns)
    rows += call_rows(options.turns * 3) + size_rows() + optimizer_rows(options.turns)
    print(f"{'':46} {'octavo':>10} {'peer':>10} {'ratio':>7}  whose; gate")
    for row in rows:
        mark = "" if row.gate == "none" else ": held" if row.held else ": MISSED"
        print(
            f"{row.name:46} {shown(row.ours, row.unit):>10} {shown(row.theirs, row.unit):>10} "
            f"{row.ratio:7.1f}  {row.peer}; {row.gate}{mark}" + (row.note and f" ({row.note})")
        )
    if options.json:
        made["rows"] = [dataclasses.asdict(row) | {"ratio": row.ratio} for row in rows]
        options.json.write_text(json.dumps(made, indent=1) + "\n")
    return 1 if options.check and not all(row.held for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
