"""Histogram ingest: Octavo, numpy.histogram and torch.histc on the same arrays, taking turns.

    tools/run.sh python benchmarks/histogram.py

Each one's counts are checked before it is timed. Figures are the median over rounds, GB/s of
float32 on 2 threads (NumPy has one); and milliseconds for each calibrator's choice.
"""

from __future__ import annotations

import statistics
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
            for _ in range(ROUNDS):
                for run, call in runs.items():
                    start = time.perf_counter()
                    call()
                    times[run].append(time.perf_counter() - start)
            for run, taken in times.items():
                rate = x.nbytes / statistics.median(taken) / 1e9
                print(f"{name:6} {kind:7} {run:16} {rate:7.2f} GB/s")
            for calibrator in octavo.calibrator_names():
                start = time.perf_counter()
                s.range(calibrator)
                taken_ms = 1e3 * (time.perf_counter() - start)
                print(f"{name:6} {kind:7} {calibrator:16} {taken_ms:7.2f} ms")


if __name__ == "__main__":
    main()
