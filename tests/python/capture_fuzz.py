"""Differential fuzzer of capture: random programs, captured beside eager.

    tools/run.sh python tests/python/capture_fuzz.py --first 0 --count 1000

Each program runs on several calls, whose inputs change, eager and captured. Results, arguments,
globals and aliasing after each call, printed text, exceptions with their lines, the grad mode and
the random state must be the same. A failure is printed with its seed and its program, with
--minimise without what the failure does not need. The programs run in processes of 300, so that a
crash or a hang is one program's and not the end.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import importlib
import io
import json
import logging
import os
import re
import signal
import sys
import tempfile
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from capture_prelude import ARGUMENTS, PRELUDE
from capture_programs import Program
from capture_snapshot import Snapshot, difference

GLOBALS = (
    *("G_INT", "G_T", "G_LIST", "G_DICT", "G_GONE", "W", "A", "MOD", "NET", "DEEP"),
    *("COUNTER", "LOG"),
)
OPTIONS = {"numpy": "exact"}  # bit for bit
CRASHED = "crashed"
SHARED = "<shared by all programs>"


@contextlib.contextmanager
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


# What is around a call.
MODES: dict[str, Callable[[], Any]] = {
    "": contextlib.nullcontext,
    "no grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": _double,
}


class Timeout(BaseException):
    pass


@dataclass
class Failure:
    kind: str  # the part that differs, or "crashed", "hangs"
    text: str


def _raised(error: BaseException, name: str) -> Any:
    lines = [
        (frame.f_code.co_name, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename in (name, SHARED)
    ]
    if isinstance(error, UnboundLocalError):
        lines.pop()  # CPython 3.11 gives the line before, once it has joined two instructions
    chain = [type(error).__name__, type(error.__cause__).__name__, type(error.__context__).__name__]
    text = str(error).partition("\nException raised from")[0]  # then follows C++'s stack
    return {"chain": chain, "message": re.sub(r"0x[0-9a-f]+", "0x", text), "lines": lines}


@functools.cache
def _shared() -> list[types.CodeType]:
    return [compile(text, SHARED, "exec") for text in (PRELUDE, ARGUMENTS)]


@functools.lru_cache(1)
def _compiled(source: str, name: str) -> list[types.CodeType]:
    """The program's code; what all programs share is compiled once."""
    if source.startswith(PRELUDE) and source.endswith(ARGUMENTS + "\n"):
        own = source[len(PRELUDE) : -len(ARGUMENTS) - 1]
        return [_shared()[0], compile(own, name, "exec"), _shared()[1]]
    return [compile(source, name, "exec")]


def observe(
    source: str,
    name: str,
    wrap: Callable[[Any], Any],
    only: list[int] | None = None,
    exact: bool = True,
) -> list[dict[str, Any]]:
    """What each call of the program's `f`, wrapped, does."""
    module = sys.modules["program"] = types.ModuleType("program")  # dataclasses look for it
    space = module.__dict__
    for code in _compiled(source, name):
        exec(code, space)
    function = wrap(space["f"])
    seen = []
    for number, call in enumerate(space["calls"]):
        if only is not None and number not in only:
            continue
        mode = call.get("mode", "")
        args, named = space["arguments"](**{k: v for k, v in call.items() if k != "mode"})
        torch.default_generator.manual_seed(1)  # torch.manual_seed goes through Dynamo, slowly
        record: dict[str, Any] = {"exception": None}
        result: Any = None
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed), MODES[mode]():
                result = function(*args, **named)
                if callable(result) and getattr(result, "__name__", "") == "<lambda>":
                    result = (result, result())
        except Exception as error:
            record["exception"] = _raised(error, name)
            error.__traceback__ = None
        record["grad mode"] = torch.is_grad_enabled()
        torch.set_grad_enabled(True)
        record["random state"] = hash(torch.get_rng_state().numpy().tobytes())
        record["stdout"] = re.sub(
            r"0x[0-9a-f]+|\\nException raised from[^\n]*", "", printed.getvalue()
        )
        snapshot = Snapshot(exact)
        record["result"] = snapshot.of(result)
        record["arguments"] = snapshot.of([args, named])
        record["globals"] = snapshot.of([space.get(g, "not there") for g in GLOBALS])
        record["classes"] = snapshot.of([space["Box"].kind, vars(space["helper"]).get("mark")])
        record["default dtype"] = str(torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        seen.append(record)
    return seen


def run(source: str, number: int, seconds: int = 20, backend: str = "eager") -> Failure | None:
    """The first difference between the program eager and captured.

    Octavo's own arithmetic is compared within the error that its kernels may make; torch's, which
    the backend "eager" runs, bit for bit.
    """
    from octavo import capture

    def late(*_: Any) -> None:
        raise Timeout

    name = f"<program {number}>"
    exact = backend == "eager"
    # Seconds of this process, not of a machine that does other things too.
    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        expected = observe(source, name, lambda f: f, exact=exact)
        got = observe(
            source,
            name,
            lambda f: capture.compile(f, backend=backend, options=OPTIONS),
            exact=exact,
        )
    except Timeout:
        return Failure("hangs", f"more than {seconds} seconds")
    except Exception as error:
        return Failure(f"error {type(error).__name__}", traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        torch.set_grad_enabled(True)
        capture.reset()
    if not exact:  # another history is printed by another name
        for record in (*expected, *got):
            record["stdout"] = re.sub(r"grad_fn=<\w+>", "grad_fn", record["stdout"])
    for call, (a, b) in enumerate(zip(expected, got, strict=True)):
        for part in a:
            found = a[part] != b[part] and difference(a[part], b[part], exact=exact)
            if found:
                return Failure(part, f"call {call}, {part} {found}")
    return None


def apart(work: Callable[[], Any], seconds: int) -> tuple[Any, str]:
    """What `work` gives, from a forked process, as JSON; or None and how the process died."""
    sys.stdout.flush()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        child = os.fork()
        if child == 0:
            try:
                signal.setitimer(signal.ITIMER_PROF, 0)
                out.write_text(json.dumps(work()))
            except BaseException:
                traceback.print_exc()
                os._exit(3)
            os._exit(0)
        end = time.monotonic() + seconds
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return None, "hangs"
            time.sleep(0.001)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            return json.loads(out.read_text()), ""
        return None, f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def run_apart(
    source: str, number: int, seconds: int = 20, backend: str = "eager"
) -> Failure | None:
    """`run` in a process of its own."""

    def work() -> list[str] | None:
        failure = run(source, number, seconds, backend)
        return [failure.kind, failure.text] if failure else None

    found, died = apart(work, 10 * seconds)
    if died:
        return Failure("hangs" if died == "hangs" else CRASHED, died)
    return Failure(*found) if found else None


# --- minimising --------------------------------------------------------------------------------
def _changeable(tree: ast.Module) -> list[ast.AST]:
    """What is `f`'s and the calls; what the programs share stays."""
    found: list[ast.AST] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "f":
            found += ast.walk(node)
    return found


def _bodies(tree: ast.Module) -> list[tuple[ast.AST, str]]:
    found = []
    for node in _changeable(tree):
        for field in ("body", "orelse", "finalbody", "handlers"):
            if isinstance(getattr(node, field, None), list):
                found.append((node, field))
    return found


def _smaller(source: str) -> Any:
    """Programs with something left out, larger cuts first within a body."""
    tree = ast.parse(source)
    for at, statement in enumerate(tree.body):
        if isinstance(statement, ast.Expr) and ast.unparse(statement).startswith("calls.append"):
            changed = ast.parse(source)
            del changed.body[at]
            yield changed
    for which in range(len(_bodies(tree))):
        node, field = _bodies(tree)[which]
        statements = getattr(node, field)
        size = len(statements)
        step = max(size // 2, 1)
        while step >= 1:
            for at in range(0, size, step):
                changed = ast.parse(source)
                body = getattr(_bodies(changed)[which][0], field)
                removed = body[at : at + step]
                del body[at : at + step]
                if not body and field == "body":
                    if len(removed) == 1 and isinstance(removed[0], ast.Pass):
                        continue
                    body.append(ast.Pass())
                yield changed
            step //= 2
        for at, statement in enumerate(statements):
            inner = getattr(statement, "body", None)
            if isinstance(inner, list) and not isinstance(
                statement, (ast.FunctionDef, ast.ClassDef, ast.ExceptHandler)
            ):
                changed = ast.parse(source)
                body = getattr(_bodies(changed)[which][0], field)
                body[at : at + 1] = body[at].body
                yield changed
    # An expression by one of its parts.
    for at, expression in enumerate(_changeable(tree)):
        if not isinstance(expression, (ast.Call, ast.BinOp, ast.Subscript, ast.IfExp, ast.BoolOp)):
            continue
        parts = [n for n in ast.iter_child_nodes(expression) if isinstance(n, ast.expr)]
        for k in range(len(parts)):
            changed = ast.parse(source)
            target = _changeable(changed)[at]
            part = [n for n in ast.iter_child_nodes(target) if isinstance(n, ast.expr)][k]

            class Replace(ast.NodeTransformer):
                def __init__(self, old: ast.AST, new: ast.AST) -> None:
                    self.old, self.new = old, new

                def visit(self, node: ast.AST) -> Any:
                    return self.new if node is self.old else self.generic_visit(node)

            yield Replace(target, part).visit(changed)


def minimise(
    source: str, number: int, failure: Failure, backend: str, tries: int = 600
) -> tuple[str, Failure]:
    """The program with what the failure does not need left out."""
    source = ast.unparse(ast.parse(source))
    smaller = True
    while smaller and tries > 0:
        smaller = False
        for tree in _smaller(source):
            tries -= 1
            if tries <= 0:
                break
            try:
                candidate = ast.unparse(ast.fix_missing_locations(tree))
                if candidate == source:
                    continue
                compile(candidate, "candidate", "exec")
            except (SyntaxError, ValueError, AttributeError, TypeError):
                continue
            found = run_apart(candidate, number, 5, backend)
            if found and found.kind == failure.kind:
                source, failure, smaller = candidate, found, True
                break
    return source, failure


# --- driving -----------------------------------------------------------------------------------
def quiet() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    # What symbols need of torch is imported once, not in each process, nor within a program's time.
    importlib.import_module("octavo.capture.symbolic")
    importlib.import_module("torch._dynamo.guards")


def fuzz(
    first: int, count: int, at: Path | None = None, backend: str = "eager"
) -> list[tuple[int, str, str]]:
    """Runs the programs in this process; gives the seeds, kinds and texts of what went wrong."""
    wrong = []
    for seed in range(first, first + count):
        if at:
            at.write_text(str(seed))
        failure = run(Program(seed).source, seed, backend=backend)
        if failure:
            wrong.append((seed, failure.kind, failure.text))
    return wrong


def fuzz_apart(
    first: int, count: int, backend: str = "eager", batch: int = 300
) -> Iterator[tuple[int, Failure]]:
    """Runs them in processes of `batch` programs; a process that dies is its program's failure."""
    seed, last = first, first + count
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder) / "at"
        while seed < last:
            end = min(seed + batch, last)
            at.write_text(str(seed))
            work = functools.partial(fuzz, seed, end - seed, at, backend)
            wrong, died = apart(work, batch * 10)
            if not died:
                for number, kind, text in wrong:
                    yield number, Failure(kind, text)
                seed = end
                continue
            dead = int(at.read_text())
            if dead > seed:  # what the process found before it died
                yield from fuzz_apart(seed, dead - seed, backend, batch)
            alone = run_apart(Program(dead).source, dead, backend=backend)
            yield dead, alone or Failure(CRASHED, f"{died}, after the programs from {seed} on")
            seed = dead + 1


def show(seed: int, failure: Failure, minimised: bool, backend: str) -> str:
    source = Program(seed).source
    title = f"seed {seed}, {failure.kind}: {failure.text}"
    if minimised:
        source, failure = minimise(source, seed, failure, backend)
        title += f"\nminimised: {failure.text}"
    own = source[source.index("def f(") : source.index("\ndef arguments")]  # --print shows the rest
    return f"{title}\n{own}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--backend", default="eager", choices=("eager", "octavo"))
    parser.add_argument("--minimise", action="store_true")
    parser.add_argument("--print", action="store_true", help="the programs, and run nothing")
    options = parser.parse_args()
    quiet()
    seeds = range(options.first, options.first + options.count)
    if options.print:
        for seed in seeds:
            print(Program(seed).source)
        return 0

    wrong = 0
    for seed, failure in fuzz_apart(options.first, options.count, options.backend):
        wrong += 1
        print(show(seed, failure, options.minimise, options.backend), flush=True)
    print(f"{options.count} programs from seed {options.first}: {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
