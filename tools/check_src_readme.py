#!/usr/bin/env python3
"""src/README.md names every folder under src, once, and no folder that is not there."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def check(root: Path) -> list[str]:
    """One line for each folder that is missing on either side, or named twice."""
    src = root / "src"
    folders = {
        parent.relative_to(src).as_posix()
        for file in src.rglob("*")
        if file.is_file()
        for parent in file.parents
        if parent != src and parent.is_relative_to(src)
    }
    rows = re.findall(r"^\| `([^`]+)/` \|", (src / "README.md").read_text(), re.MULTILINE)
    named = set(rows)
    twice = sorted({f for f in rows if rows.count(f) > 1})
    return (
        [f"src/README.md names {f}/ twice" for f in twice]
        + [f"src/README.md does not name {f}/" for f in sorted(folders - named)]
        + [f"src/README.md names {f}/, which is not there" for f in sorted(named - folders)]
    )


def main() -> int:
    errors = check(Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd())
    for error in errors:
        print(error)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
