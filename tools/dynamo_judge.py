"""Runs TorchDynamo's own tests against octavo.capture.

    git clone --depth 1 --branch v2.13.0 --filter=blob:none --sparse \\
        https://github.com/pytorch/pytorch
    git -C pytorch sparse-checkout set test/dynamo
    tools/run.sh python tools/dynamo_judge.py pytorch/test/dynamo --files functions misc --out DIR

Needs torch and expecttest.

Three engines take turns. "none" captures nothing: what passes with it says nothing of an engine, so
only what fails with it "needs capture". "stock" is torch's own: what fails with it too is left out,
since it asks for another torch or machine than this one; it takes long and runs once, its results
stay in DIR. "octavo" is ours, and a test passes only when a backend was called. Each file runs in
processes of its own; one that crashes or hangs is one failure. Results are JSON lines in DIR.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib.util
import io
import json
import re
import select
import subprocess
import sys
import types
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FILES = ("functions", "misc", "repros", "ctx_manager", "subclasses")
ENGINES = ("none", "stock", "octavo")


class Calls:
    """How often a backend was called."""

    count = 0


def _captured(target: Any, backend: Any, fullgraph: bool, dynamic: bool | None) -> Any:
    import octavo.capture

    function = octavo.capture.backends.lookup(backend)

    def counted(graph: Any, inputs: Any, **options: Any) -> Any:
        Calls.count += 1
        return function(graph, inputs, **options)

    return octavo.capture.compile(
        target,
        backend=counted,
        fullgraph=fullgraph,
        dynamic=dynamic,
        options={"inline_modules": True},
    )


def replace_engine(engine: str) -> None:
    """torch.compile, torch._dynamo.optimize, optimize_assert and reset become the engine's."""
    import torch
    import torch._dynamo.test_case
    import torch._dynamo.testing

    if engine == "stock":
        return
    dynamo: Any = torch._dynamo
    stock_reset = dynamo.reset

    def compile_with(
        backend: Any, fullgraph: bool, dynamic: bool | None = None, **_rest: Any
    ) -> Callable[[Any], Any]:
        if engine == "none":
            return lambda target: target
        return lambda target: _captured(target, backend, fullgraph, dynamic)

    def optimize(backend: Any = "eager", *, nopython: bool = False, **options: Any) -> Any:
        return compile_with(backend, nopython, **options)

    def optimize_assert(backend: Any, **options: Any) -> Any:
        return compile_with(backend, True, **options)

    def compile(
        model: Any = None, *, backend: Any = "eager", fullgraph: bool = False, **options: Any
    ) -> Any:
        made = compile_with(backend, fullgraph, **options)
        return made if model is None else made(model)

    def reset() -> None:
        stock_reset()
        if engine == "octavo":
            octavo.capture.reset()

    if engine == "octavo":
        import octavo.capture

        # A break with fullgraph is raised under torch's name.
        octavo.capture.errors.GraphBreakError = dynamo.exc.Unsupported  # type: ignore[misc]
    originals = {
        dynamo.optimize: optimize,
        dynamo.optimize_assert: optimize_assert,
        stock_reset: reset,
        torch.compile: compile,
    }
    # Modules that took the names with "from … import" have them replaced too; where they are
    # defined they stay, for torch's own export.
    for name in ("torch", "torch._dynamo", "torch._dynamo.testing", "torch._dynamo.test_case"):
        module = sys.modules[name]
        for attribute, value in list(vars(module).items()):
            if isinstance(value, types.FunctionType) and value in originals:
                setattr(module, attribute, originals[value])


def load_tests(path: Path) -> types.ModuleType:
    """The test file as a module. A name that this torch has not decorates nothing."""
    sys.path.insert(0, str(path.parent))
    while True:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        try:
            spec.loader.exec_module(module)
        except ImportError as error:
            missing = re.match(r"cannot import name '(\w+)' from '([\w.]+)'", str(error))
            if missing is None:
                raise
            setattr(sys.modules[missing[2]], missing[1], lambda target: target)
        else:
            return module


def stand_in_for(device: str) -> None:
    """A module torch_DEVICE whose device is not there, for editions of the tests that import it."""
    import torch

    module: Any = types.ModuleType(device)
    module.is_available = lambda: False
    module.device_count = lambda: 0
    sys.modules[f"torch_{device}"] = module
    setattr(torch, device, module)


def _cases(suite: Any) -> Iterator[unittest.TestCase]:
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from _cases(item)
        else:
            yield item


def work(engine: str, path: Path) -> None:
    """Runs in a process of its own: a test's name comes in, a result goes out, line by line."""
    answers = sys.stdout
    sys.stdout = io.StringIO()
    stand_in_for("npu")
    replace_engine(engine)
    module = load_tests(path)
    suite = unittest.defaultTestLoader.loadTestsFromModule(module)
    cases = {f"{type(case).__name__}.{case._testMethodName}": case for case in _cases(suite)}
    print(json.dumps(list(cases)), file=answers, flush=True)
    for line in sys.stdin:
        name = line.strip()
        Calls.count = 0
        result = unittest.TestResult()
        with contextlib.redirect_stdout(io.StringIO()):
            cases[name].run(result)
        wrong = result.failures + result.errors
        state = "failed" if wrong else "skipped" if result.skipped else "passed"
        if result.unexpectedSuccesses:
            state = "failed"
        text = wrong[0][1] if wrong else ""
        record = {"test": name, "state": state, "calls": Calls.count, "why": text[-4000:]}
        print(json.dumps(record), file=answers, flush=True)


class Worker:
    """The process that runs one file's tests."""

    def __init__(self, engine: str, path: Path) -> None:
        self._command = [sys.executable, __file__, "--work", engine, str(path)]
        self._process: subprocess.Popen[str] | None = None
        self.tests: list[str] = []
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        first = self._read(300)
        if first is None:
            sys.exit(f"cannot load: {' '.join(self._command)}")
        self.tests = json.loads(first)

    def _read(self, seconds: float) -> str | None:
        assert self._process is not None and self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline() if ready else ""
        return line or None

    def run(self, test: str, seconds: float) -> dict[str, Any]:
        """The result of one test; a process that crashes or hangs is replaced."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(test + "\n")
        self._process.stdin.flush()
        line = self._read(seconds)
        if line is not None:
            found: dict[str, Any] = json.loads(line)
            return found
        code = self._process.poll()
        self._process.kill()
        self._process.wait()
        why = "hangs" if code is None else f"crashes with {code}"
        self._start()
        return {"test": test, "state": "failed", "calls": 0, "why": why}

    def close(self) -> None:
        """Ends the process."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()


def run_file(
    engine: str, path: Path, only: set[str] | None, out: Path, seconds: float
) -> dict[str, dict[str, Any]]:
    """Results of a file's tests by name; of ``only`` those when given."""
    results = {}
    worker = Worker(engine, path)
    with out.open("w") as file:
        for test in worker.tests:
            if only is None or test in only:
                results[test] = worker.run(test, seconds)
                file.write(json.dumps(results[test]) + "\n")
                file.flush()
    worker.close()
    return results


def stored(out: Path) -> dict[str, dict[str, Any]] | None:
    """Results of an earlier run."""
    if not out.exists():
        return None
    records = [json.loads(line) for line in out.read_text().splitlines()]
    return {record["test"]: record for record in records}


def reason(record: dict[str, Any]) -> str:
    """Why a test failed, short enough to be counted."""
    if record["state"] == "passed":
        return "the backend was not called"
    lines = [line for line in record["why"].strip().splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Unsupported|Exception)\b", line)]
    text = errors[-1] if errors else lines[-1] if lines else "?"
    if "graph break" in text or "Unsupported" in text:
        code = re.search(r"\b([a-z]+(?:_[a-z]+)+)\b", text)
        return code[1] if code else text[:100]
    return re.sub(r"0x[0-9a-f]+", "0x…", text)[:100]


def main() -> int:
    """Judges the files and prints what passes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", nargs="+", choices=FILES, default=list(FILES))
    parser.add_argument("--out", type=Path, default=Path("judge"), help="where results are kept")
    parser.add_argument("--seconds", type=float, default=60, help="limit of one test")
    parser.add_argument("--only", help="run only tests whose name has this; prints their failures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    why: collections.Counter[str] = collections.Counter()
    total_passed = total_needed = 0
    for name in options.files:
        path = options.folder / f"test_{name}.py"
        results = {}
        needed = None
        for engine in ENGINES:
            out = options.out / f"{name}.{engine}.jsonl"
            known = None if engine == "octavo" else stored(out)
            if engine == "octavo" and options.only:
                assert needed is not None
                needed = {test for test in needed if options.only in test}
                out = out.with_suffix(".only")
            results[engine] = known or run_file(engine, path, needed, out, options.seconds)
            if engine == "none":
                states = results[engine].items()
                needed = {test for test, record in states if record["state"] == "failed"}
            elif engine == "stock":
                needed = {t for t, r in results[engine].items() if r["state"] == "passed"}
        passed = 0
        for record in results["octavo"].values():
            if record["state"] == "passed" and record["calls"]:
                passed += 1
            else:
                why[reason(record)] += 1
                if options.only:
                    print(record["test"], record["why"], sep="\n")
        total_passed += passed
        total_needed += len(results["octavo"])
        print(
            f"{name}: {passed} of {len(results['octavo'])} that need capture "
            f"({len(results['none'])} tests, {len(results['stock'])} fail without capture)",
            flush=True,
        )
    print(f"all: {total_passed} of {total_needed}")
    for text, count in why.most_common(25):
        print(f"{count:5d}  {text}")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main())
