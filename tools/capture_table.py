#!/usr/bin/env python3
"""Writes docs/capture.md from the engine's own tables; with ``--check`` compares it instead."""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs/capture.md"
HEAD = """# Capture

Written by `tools/capture_table.py` from the engine's tables and the tests' names, checked by
`tests/python/test_capture_tables.py`.
[decisions/0030](decisions/0030-capture-in-the-frame.md) says how it works.

```python
import octavo.capture as capture

fast = capture.compile(f, backend="inductor")
print(capture.explain(f)(*args))  # graphs, ops, breaks with file:line, guards, times
```

A function is captured piece by piece while Python runs it. What can be traced becomes a
`torch.fx.GraphModule`; what cannot runs as it is, and capture goes on behind it. `fullgraph=True`
makes a break an error. Sizes that differ between calls become symbols; other values that a graph
depends on are guarded, and a call that no version fits is captured anew, up to 8 versions at one
place; then the function runs uncaptured there, with one warning.

`OCTAVO_CAPTURE_LOG=breaks,recompiles` in the environment (or `capture.set_logs`) logs why graphs
end and which guards fail; `pieces`, `guards`, `graphs`, `bytecode`, `times` and `all` are there
too.

CPython 3.11 and torch 2.13.
"""


def tests_by_topic() -> dict[str, list[str]]:
    """The tests of capture, by file, without the ``test_``."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests/python").glob("test_capture*.py")):
        tree = ast.parse(path.read_text())
        names = [
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        ]
        found[path.name] = sorted({name.removeprefix("test_") for name in names})
    return found


def text() -> str:
    from octavo import _capture

    lines = [HEAD, "## Opcodes", ""]
    groups: dict[str, list[str]] = defaultdict(list)
    for name, _, handling in _capture.opcodes():
        groups[handling].append(f"`{name}`")
    says = {
        "traced": "Traced",
        "breaks": "Not traced: the piece ends before them, and Python runs the instruction",
    }
    for handling, names in groups.items():
        lines += [f"{says[handling]} ({len(names)}): {', '.join(sorted(names))}.", ""]
    lines += ["## Why a piece ends", "", "| reason | what happened | what to do |", "|---|---|---|"]
    lines += [f"| `{n}` | {what} | {hint} |" for n, what, hint in _capture.break_reasons()]
    lines += ["", "## What the tests show", "", "| file | cases |", "|---|---|"]
    for file, names in tests_by_topic().items():
        lines.append(f"| `{file}` | {', '.join(re.sub('_', ' ', n) for n in names)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if not options.check:
        TABLE.write_text(text())
        return 0
    if TABLE.read_text() == text():
        return 0
    print(f"{TABLE} is not what tools/capture_table.py writes; run it", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
