#!/usr/bin/env python3
"""Writes docs/performance.md from docs/performance.json; with ``--check`` compares it instead.

benchmarks/models.py --json docs/performance.json    measures
tools/performance_page.py                            writes the page
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs/performance.json"
PAGE = ROOT / "docs/performance.md"
sys.path.append(str(ROOT / "benchmarks"))

from model_results import precision, ratio, roofline_ms  # noqa: E402

Row = dict[str, Any]
KINDS = ("INT8", "bf16", "FP32")
TARGETS = {"INT8": (1.5, 1.1), "bf16": (1.25, 1.05), "FP32": (1.1, 0.97)}  # mean, least
HEAD = """# Performance

Written by `tools/performance_page.py` from `docs/performance.json`, which `benchmarks/models.py`
measured; checked by `tests/python/test_performance_page.py`. Medians in milliseconds of one
interleaved run per network, batch and thread count. A ratio is the best peer's median over
Octavo's: above 1, Octavo is faster. The share of the roofline is the least time that the machine's
dot products and memory allow, measured in the same process, over Octavo's median.
"""


def ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def title(result: Row) -> str:
    return f"{result['network']} | {result['batch']} | {result['threads']}"


def summary(results: list[Row]) -> list[str]:
    lines = ["", "## Ratios to the best peer, 2 threads", ""]
    lines += ["| precision | geometric mean | wanted | least | wanted | measured |"]
    lines += ["|---|---|---|---|---|---|"]
    for kind in KINDS:
        found = {
            title(r): value[0]
            for r in results
            if r["threads"] == 2 and (value := ratio(r["rows"], kind))
        }
        wanted_mean, wanted_least = TARGETS[kind]
        if not found:
            lines.append(f"| {kind} | Octavo has none | {wanted_mean} | | {wanted_least} | 0 |")
            continue
        worst = min(found, key=lambda name: found[name])
        network, batch, _ = worst.split(" | ")
        lines.append(
            f"| {kind} | {mean(list(found.values())):.2f} | {wanted_mean} "
            f"| {found[worst]:.2f} ({network}, batch {batch}) | {wanted_least} | {len(found)} |"
        )
    return lines


def table(results: list[Row], kind: str) -> list[str]:
    lines = ["", f"## {kind}", ""]
    lines += ["| network | batch | threads | Octavo | best peer | ratio | roofline |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for result in results:
        rows = result["rows"]
        found = ratio(rows, kind)
        if found is None:
            continue
        value, peer = found
        ours = f"Octavo {kind}"
        share = 100 * roofline_ms(result, ours) / rows[ours]["median_ms"]
        lines.append(
            f"| {title(result)} | {ms(rows[ours]['median_ms'])} "
            f"| {ms(rows[peer]['median_ms'])} ({peer.removesuffix(' ' + kind)}) "
            f"| {'**' if value < 1 else ''}{value:.2f}{'**' if value < 1 else ''} | {share:.0f}% |"
        )
    return lines


def everyone(results: list[Row]) -> list[str]:
    lines = ["", "## Every contestant", ""]
    lines += [
        "First answer: from the file or module to the first output, compiled anew (of inductor's "
    ]
    lines[-1] += "variants the first only; the others find its kernels)."
    lines += [""]
    lines += ["| network | batch | threads | contestant | median | best | first answer, s |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for result in results:
        for name, row in sorted(
            result["rows"].items(), key=lambda item: (KINDS.index(precision(item[0])), item[0])
        ):
            if "failed" in row:
                lines.append(f"| {title(result)} | {name} | failed | | {row['failed'][:60]} |")
            else:
                lines.append(
                    f"| {title(result)} | {name} | {ms(row['median_ms'])} "
                    f"| {ms(row['best_ms'])} | {row['first_s']:.2g} |"
                )
    return lines


def page(results: list[Row]) -> str:
    order = list(dict.fromkeys(r["network"] for r in results))
    results = sorted(results, key=lambda r: (order.index(r["network"]), r["batch"], r["threads"]))
    lines = summary(results)
    for kind in KINDS:
        if any(ratio(r["rows"], kind) for r in results):
            lines += table(results, kind)
    lines += everyone(results)
    return HEAD + "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args()
    text = page(json.loads(RESULTS.read_text()))
    if not options.check:
        PAGE.write_text(text)
        return 0
    if PAGE.read_text() != text:
        print(f"{PAGE} is not what {Path(__file__).name} writes: run it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
