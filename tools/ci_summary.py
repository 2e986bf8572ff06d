#!/usr/bin/env python3
"""The closing line of a CI run, summed over ctest's and pytest's own closing lines in its log."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

CTEST = re.compile(r"tests passed, (\d+) tests? failed out of (\d+)")
PYTEST = re.compile(r"^=*\s*((?:\d+ \w+(?:, )?)+) in [\d.]+s")
LINT = re.compile(r"^lint: (\d+) checks passed")


def count(log: str) -> Counter[str]:
    """How many tests and checks passed, failed, were skipped."""
    total: Counter[str] = Counter()
    for line in log.splitlines():
        if match := CTEST.search(line):
            failed, all_tests = map(int, match.groups())
            total.update(failed=failed, passed=all_tests - failed)
        elif match := PYTEST.match(line):
            for number, what in re.findall(r"(\d+) (\w+)", match[1]):
                if what.startswith("error"):
                    total["failed"] += int(number)
                elif what in ("passed", "failed", "skipped"):
                    total[what] += int(number)
        elif match := LINT.match(line):
            total["passed"] += int(match[1])
    return total


def closing_line(log: str, status: int, seconds: float) -> str:
    """In pytest's form; a run that failed outside a test counts as one failure."""
    total = count(log)
    if status != 0 and total["failed"] == 0:
        total["failed"] = 1
    parts = [f"{total[w]} {w}" for w in ("failed", "passed", "skipped") if total[w]]
    return f" {', '.join(parts) or 'no tests ran'} in {seconds:.2f}s ".center(80, "=")


if __name__ == "__main__":
    print(closing_line(Path(sys.argv[1]).read_text(), int(sys.argv[2]), float(sys.argv[3])))
