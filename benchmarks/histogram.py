"""Histogram ingest: Octavo, numpy.histogram and torch.histc on the same arrays, taking turns.

    tools/run.sh python benchmarks/histogram.py

Octavo's counts are checked against NumPy's before any is timed. Figures are the best of the rounds,
GB/s of float32 on 2 threads (NumPy has one): by the clock, and by the CPU time that was spent (what
2 cores of one's own would give). Then milliseconds for each calibrator's choice.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

import octavo

ROUNDS = 9


def main() -> None:
    torch.set_num_threads(2)
    rng = np.random.default_rng(1)
    for name, count in (("4 MB", 1 << 20), ("64 MB", 1 << 24)):
        for kind in ("normal", "relu6"):
            x = (rng.standard_normal(count) * 2).astype(np.float32)
            if kind == "relu6":
                x = np.clip(x, 0, 6)
            s = octavo.Statistics()
            s.collect(x)
            limit, bins = s.limit, len(s.counts)
            tensor = torch.from_numpy(x)
            edges = np.linspace(-limit, limit, bins + 1)
            assert np.array_equal(np.histogram(x, edges)[0], s.counts)
            runs: dict[str, Callable[[], object]] = {
                "octavo": lambda s=s, x=x: s.collect(x),
                "octavo, fresh": lambda x=x: octavo.Statistics().collect(x),
                "numpy.histogram": lambda x=x, n=bins, e=limit: np.histogram(x, n, (-e, e)),
                "torch.histc": lambda t=tensor, n=bins, e=limit: torch.histc(t, n, -e, e),
            }
            times: dict[str, list[float]] = {run: [] for run in runs}
            spent: dict[str, list[float]] = {run: [] for run in runs}
            for _ in range(ROUNDS):
                for run, call in runs.items():
                    start, cpu = time.perf_counter(), time.process_time()
                    call()
                    times[run].append(time.perf_counter() - start)
                    spent[run].append(time.process_time() - cpu)
            for run in runs:
                rate = x.nbytes / min(times[run]) / 1e9
                threads = 1 if run.startswith("numpy") else 2
                by_cpu = x.nbytes / min(spent[run]) * threads / 1e9
                print(f"{name:6} {kind:7} {run:16} {rate:7.2f} GB/s, {by_cpu:7.2f} by CPU time")
            for calibrator in octavo.calibrator_names():
                start = time.perf_counter()
                s.range(calibrator)
                taken_ms = 1e3 * (time.perf_counter() - start)
                print(f"{name:6} {kind:7} {calibrator:16} {taken_ms:7.2f} ms")


if __name__ == "__main__":
    main()
