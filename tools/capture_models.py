#!/usr/bin/env python3
"""Writes docs/capture_models.md: real networks under Octavo's capture and under stock Dynamo.

Each engine captures each network in a process of its own, twice from nothing: the second time is
without torch's imports. What stock Dynamo does is asked of ``torch._dynamo.explain``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs/capture_models.md"
HEAD = """# Networks under capture

Written by `tools/capture_models.py` on the networks of `tools/networks/captured.py`, in eval, batch
2; `tests/python/test_capture_networks.py` runs them with `fullgraph=True` and compares with eager.
For both engines: graphs, breaks, operators, and milliseconds of the call that captures, with a
backend that compiles nothing, the second time in a process and from nothing (`reset()`), so that
imports do not count; single runs, on a shared machine. Stock Dynamo is asked by
`torch._dynamo.explain`; where that raises, its error stands there.
"""


def measure(name: str, engine: str) -> dict[str, Any]:
    """One engine on one network, in this process."""
    import importlib
    import logging
    import time

    logging.disable(logging.WARNING)
    import torch

    from networks.captured import NETWORKS

    network = NETWORKS[name]
    model, inputs = network.make(), network.inputs(2)
    with torch.no_grad():
        model(**inputs)
        engines = {"octavo": "octavo.capture", "dynamo": "torch._dynamo"}
        module = importlib.import_module(engines[engine])
        for _ in range(2):
            module.reset()
            start = time.perf_counter()
            said = module.explain(model)(**inputs)
            ms = 1000 * (time.perf_counter() - start)
    if engine == "octavo":
        counts = {"graphs": len(said.graphs), "breaks": len(said.breaks), "ops": said.ops}
    else:
        counts = {"graphs": said.graph_count, "breaks": max(0, said.graph_break_count)}
        counts["ops"] = said.op_count
    return counts | {"ms": ms}


def run(name: str, engine: str, times: int) -> dict[str, Any]:
    """The quickest of some processes."""
    best: dict[str, Any] = {}
    for _ in range(times):
        command = [sys.executable, __file__, "--one", name, engine]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 and engine == "dynamo":
            errors = re.findall(
                r"^(?:\w+\.)*(\w+(?:Error|Unsupported|Exception))\b", done.stderr, re.M
            )
            return {"failed": errors[-1] if errors else "an error"}
        if done.returncode != 0:
            raise SystemExit(f"{name} under {engine}:\n{done.stderr[-2000:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        if not best or found["ms"] < best["ms"]:
            best = found
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "ENGINE"))
    parser.add_argument("--times", type=int, default=1)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tools"))
    if options.one:
        print(json.dumps(measure(*options.one)))
        return 0
    from networks.captured import NETWORKS

    lines = [
        HEAD,
        "| network | Octavo graphs | breaks | ops | ms | Dynamo graphs | breaks | ops | ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in NETWORKS:
        rows = [run(name, engine, options.times) for engine in ("octavo", "dynamo")]
        cells = [
            f"{r['failed']} | | |"
            if "failed" in r
            else f"{r['graphs']} | {r['breaks']} | {r['ops']} | {r['ms']:.0f}"
            for r in rows
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    TABLE.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
