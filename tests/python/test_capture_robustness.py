# Captured functions are written in every way that users write them.
# ruff: noqa: PLW1510
"""Fuzzing, leaks and threads of capture."""

from __future__ import annotations

import gc
import linecache
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from capture_cases import tensors
from octavo import capture

pytestmark = pytest.mark.peers
FUZZER = Path(__file__).parent / "capture_fuzz.py"
X, Y = tensors((2, 4), (2, 4))


def fuzz(first: int, count: int, seconds: int) -> None:
    command = [sys.executable, str(FUZZER), "--first", str(first), "--count", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]


def test_random_programs():
    fuzz(0, 300, 300)


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, 100_000, 10_000))
def test_many_random_programs(first):
    fuzz(first, 10_000, 7200)


def make(n):
    """A function with all that holds references: closures, containers, breaks, exceptions."""

    class Box:
        def __init__(self, t):
            self.t = t
            self.log = []

    def run(x, items, d):
        box = Box(x + n)
        box.log.append(n)
        items.append(box.t * 2)
        d["k"] = items
        try:
            if n % 2:
                raise ValueError(n)
        except ValueError as error:
            d["e"] = str(error)
        len(sys.argv)
        y = [lambda q, i=i: q + i for i in range(2)][1](box.t)
        capture.graph_break()
        return y, box, items[0]

    return run


def cycle(n):
    captured = capture.compile(make(n % 7), backend="eager")
    for shape in ((2,), (3,)):
        captured(torch.ones(shape), [], {})
    capture.reset()


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def settle() -> None:
    """Forgets the source text that torch.fx keeps of each GraphModule."""
    linecache.clearcache()
    torch.fx.graph_module._loader.eval_cache.clear()
    gc.collect()


def grown(cycles: int) -> tuple[int, int, int]:
    """Objects, tracked blocks and bytes that `cycles` cycles leave behind."""
    settle()
    objects, blocks, memory = len(gc.get_objects()), sys.getallocatedblocks(), resident()
    for n in range(cycles):
        cycle(n)
    settle()
    return (
        len(gc.get_objects()) - objects,
        sys.getallocatedblocks() - blocks,
        resident() - memory,
    )


def leaks(cycles: int) -> None:
    for n in range(200):
        cycle(n)
    # Caches settle by a few, and the allocator takes its arenas in steps of megabytes: a leak is
    # what every round adds.
    rounds = [grown(cycles) for _ in range(3)]
    objects, blocks, memory = (min(one) for one in zip(*rounds, strict=True))
    # One object or block a cycle would be a leak.
    assert objects < cycles // 20, (objects, blocks, memory)
    assert blocks < cycles // 20, (objects, blocks, memory)
    assert memory < cycles * 1000, (objects, blocks, memory)


def test_no_leak():
    leaks(1000)


@pytest.mark.long
def test_no_leak_in_ten_thousand_cycles():
    leaks(10_000)


def test_references_of_arguments_balance():
    def run(x, items, box):
        items.append(x)
        box["x"] = x
        print(end="")
        items.pop()
        del box["x"]
        return x + 1

    captured = capture.compile(run, backend="eager")
    x, items, box = torch.ones(2), [None], {"a": 1}
    captured(x, items, box)
    before = [sys.getrefcount(v) for v in (x, items, box)]
    counts = [sys.getrefcount(v) for v in (None, True, run.__code__)]
    for _ in range(1000):
        captured(x, items, box)
    assert [sys.getrefcount(v) for v in (x, items, box)] == before
    after = [sys.getrefcount(v) for v in (None, True, run.__code__)]
    assert all(abs(a - b) < 100 for a, b in zip(after, counts, strict=True)), (counts, after)


def test_exceptions_keep_nothing():
    def run(x):
        y = x + 1
        print(end="")
        raise ValueError(y.sum().item())

    captured = capture.compile(run, backend="eager")
    x = torch.ones(2)

    def once():
        with pytest.raises(ValueError):
            captured(x)

    once()
    gc.collect()
    before = sys.getrefcount(x)
    for _ in range(200):
        once()
    gc.collect()
    assert sys.getrefcount(x) == before


def in_threads(work, count: int = 8) -> None:
    errors: list[BaseException] = []
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            barrier.wait()
            work(number)
        except BaseException as error:
            errors.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), "a thread hangs"
    finally:
        sys.setswitchinterval(before)
    if errors:
        raise errors[0]


def shared(x, n):
    y = x * n
    print(end="")
    for i in range(3):
        y = torch.sin(y) + i
    return y


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_threads_call_one_function():
    captured = capture.compile(shared, backend="eager")

    def work(number):
        for k in range(60):
            x = torch.full((2 + (k + number) % 3,), float(number))
            n = (k * number) % 5
            assert torch.equal(captured(x, n), shared(x, n))

    in_threads(work)


def test_threads_compile_their_own_functions():
    def work(number):
        for k in range(30):
            fn = make((number + k) % 7)
            captured = capture.compile(fn, backend="eager")
            x = torch.full((3,), float(number))
            for _ in range(3):
                a, b = fn(x, [], {}), captured(x, [], {})
                assert torch.equal(a[0], b[0])
                assert torch.equal(a[2], b[2])

    in_threads(work)


def test_threads_reset_meanwhile():
    captured = capture.compile(shared, backend="eager")

    def work(number):
        for k in range(60):
            if number == 0:
                capture.reset()
            x = torch.full((2,), float(number + k))
            assert torch.equal(captured(x, number % 3), shared(x, number % 3))

    in_threads(work)


def test_other_threads_are_not_captured():
    stats: list = []
    inside = threading.Event()
    go_on = threading.Event()

    def waits(x):
        y = x + 1
        inside.set()
        go_on.wait(30)
        return y

    captured = capture.compile(waits, backend="eager", stats=stats)
    thread = threading.Thread(target=captured, args=(X,))
    thread.start()
    assert inside.wait(30)
    shared(Y, 2)
    go_on.set()
    thread.join(30)
    assert not [piece for piece in stats if piece["function"] == "shared"]


def test_grad_mode_is_the_threads_own():
    captured = capture.compile(lambda w: (w * 2, torch.is_grad_enabled()), backend="eager")
    w = X.clone().requires_grad_()

    def work(number):
        for _ in range(50):
            with torch.set_grad_enabled(number % 2 == 0):
                result, enabled = captured(w)
                assert result.requires_grad == enabled == (number % 2 == 0)

    in_threads(work)


def test_imports_within_are_not_captured(tmp_path, monkeypatch):
    """Not the module's functions that run meanwhile, nor import hooks."""
    (tmp_path / "imported_within.py").write_text(
        "import torch\n\ndef made(x):\n    return torch.ones(4) * x\n\nONE = made(1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def f(x):
        from imported_within import ONE

        return x + ONE

    stats: list = []
    assert torch.equal(capture.compile(f, backend="eager", stats=stats)(X), X + torch.ones(4))
    assert {piece["function"].rpartition(".")[2] for piece in stats} == {"f"}
