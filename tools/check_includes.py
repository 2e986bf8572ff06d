#!/usr/bin/env python3
"""Includes point downwards: each folder of src may include only the folders in its line below."""

from __future__ import annotations

import re
import sys
from pathlib import Path

# folder: the folders below it that it may include (itself always; "a/b" is a folder of its own).
ALLOWED = {
    "support": "",
    "graph": "support",
    "ops": "support graph",
    "backends/reference": "support graph ops",
    "backends/cpu": "support",
    "runtime": "support graph backends/cpu",
    "frontends/onnx": "support graph ops backends/reference",
    "export": "support graph ops backends/reference",
    "passes": "support graph ops backends/reference",
    "codegen": "support graph ops passes backends/reference backends/cpu runtime",
    "evaluate": "support graph ops backends/reference runtime",
    # Calibration reads every value and rounds every weight: it has kernels too.
    "quantize": "support graph ops backends/reference backends/cpu runtime passes codegen evaluate",
    "api": "support graph ops backends/reference backends/cpu runtime frontends/onnx export passes"
    " codegen evaluate quantize",
    "cli": "support graph api",
}
# What a served program must not pull in.
COMPILER = {"passes", "codegen", "frontends/onnx", "quantize", "export"}
# The library knows neither Python nor torch.
FORBIDDEN = re.compile(r"^(Python\.h|pybind11/|nanobind/|torch/|ATen/|c10/)")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def folder_of(path: str) -> str | None:
    """The longest folder of the table that path lies in."""
    names = [name for name in ALLOWED if path.startswith(name + "/")]
    return max(names, key=len, default=None)


def table_errors() -> list[str]:
    """The table itself must have no cycle, and the runtime must stay clear of the compiler."""
    errors = []
    reach: dict[str, set[str]] = {}

    def visit(name: str, path: tuple[str, ...]) -> set[str]:
        if name in path:
            errors.append(f"ALLOWED has a cycle: {' -> '.join((*path, name))}")
            return set()
        if name not in reach:
            below = ALLOWED[name].split()
            reach[name] = set(below).union(*(visit(b, (*path, name)) for b in below))
        return reach[name]

    for name in ALLOWED:
        visit(name, ())
    errors += [f"runtime reaches {name}" for name in sorted(reach["runtime"] & COMPILER)]
    return errors


def check(root: Path) -> list[str]:
    """One line for each include that is not allowed."""
    errors = []
    for file in sorted((root / "src").rglob("*")):
        if file.suffix not in (".h", ".cpp", ".def"):
            continue
        name = file.relative_to(root / "src").as_posix()
        folder = folder_of(name)
        if folder is None:
            errors.append(
                f"src/{name}: its folder has no line in ALLOWED (tools/check_includes.py)"
            )
            continue
        text = file.read_text()
        for match in INCLUDE.finditer(text):
            kind, header = match.groups()
            where = f"src/{name}:{text.count(chr(10), 0, match.start()) + 1}"
            if FORBIDDEN.match(header):
                errors.append(f"{where}: {header} has no place in liboctavo")
            if kind != '"' or not (root / "src" / header).exists():
                continue
            target = folder_of(header)
            if target != folder and target not in ALLOWED[folder].split():
                errors.append(f"{where}: {folder} must not include {header}")
    return errors


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd()
    errors = table_errors() + check(root)
    for error in errors:
        print(error)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
