"""Calibrators from Python: each against a NumPy float64 oracle; merging, saving, damaged bytes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import octavo
from octavo import _core

F = NDArray[np.float32]
BINS = 4096
ISAS = ["portable", "avx2", "avx512"]


def collected(*batches: F) -> octavo.Statistics:
    s = octavo.Statistics()
    for batch in batches:
        s.collect(batch)
    return s


def oracle_counts(x: F, limit: float) -> NDArray[np.int64]:
    bins = np.floor(x.astype(np.float64) / (2 * limit / BINS)).astype(np.int64) + BINS // 2
    return np.bincount(bins.reshape(-1), minlength=BINS)


def distributions(rng: np.random.Generator) -> dict[str, F]:
    n = int(rng.integers(1, 70000))
    values = {
        "normal": rng.standard_normal(n),
        "uniform": rng.uniform(-3, 1, n),
        "relu6": np.clip(rng.standard_normal(n) * 4, 0, 6),
        "negative": -np.abs(rng.standard_normal(n)),
        "equal": np.full(n, 3.7),
        "zeros": np.zeros(n),
        "minus zero": np.full(n, -0.0),
        "powers of two": 2.0 ** rng.integers(-20, 20, n) * rng.choice([-1, 1], n),
        "denormal": rng.standard_normal(n) * 1e-41,
        "huge": rng.uniform(-3.4e38, 3.4e38, n),
        "mixed": rng.choice([0, -1e-42, 1e-30, -1e-5, 1.0, 3e38], n),
        "one": rng.standard_normal(1),
        "odd": rng.standard_normal(67),
    }
    return {name: x.astype(np.float32) for name, x in values.items()}


def test_counts_are_numpys(rng: np.random.Generator) -> None:
    best = _core.best_isa()
    try:
        for name, x in distributions(rng).items():
            first = None
            for isa in ISAS:
                _core.set_isa_limit(isa)
                for offset in (0, 1):  # unaligned
                    memory = np.empty(len(x) + 1, np.float32)
                    memory[offset : offset + len(x)] = x
                    s = collected(memory[offset : offset + len(x)])
                    assert s.count == len(x)
                    assert (s.min, s.max) == (x.min(), x.max())
                    amax = np.abs(x.astype(np.float64)).max()
                    if amax:
                        assert s.limit == max(2.0 ** np.floor(np.log2(amax) + 1), 2.0**-100), name
                        assert np.array_equal(s.counts, oracle_counts(x, s.limit)), (name, isa)
                    else:
                        assert s.counts[BINS // 2] == len(x)
                    assert first is None or s == first
                    first = s
    finally:
        _core.set_isa_limit(best)


def test_split_merge_and_order_do_not_show(rng: np.random.Generator) -> None:
    for name, x in distributions(rng).items():
        whole = collected(x)
        for order in (x, np.sort(x), np.sort(x)[::-1].copy()):
            cut = int(rng.integers(0, len(x) + 1))
            a, b = collected(order[:cut]), collected(order[cut:])
            a.merge(b)
            both = collected(order[:cut], order[cut:])
            for s in (a, both):
                assert np.array_equal(s.counts, whole.counts), name
                assert (s.count, s.min, s.max, s.limit) == (
                    whole.count,
                    whole.min,
                    whole.max,
                    whole.limit,
                )
                for calibrator in ("max", "percentile", "entropy", "mse"):
                    assert s.range(calibrator) == whole.range(calibrator)


def test_saved_state_goes_on_as_if_never_saved(rng: np.random.Generator) -> None:
    for x in distributions(rng).values():
        never = collected(x)
        saved = octavo.Statistics.from_bytes(never.to_bytes())
        assert saved == never
        more = (rng.standard_normal(1000) * 10.0 ** rng.integers(-10, 10)).astype(np.float32)
        never.collect(more)
        saved.collect(more)
        assert saved == never


def test_damaged_bytes_are_an_error_or_sound(rng: np.random.Generator) -> None:
    good = collected(rng.standard_normal(1000).astype(np.float32)).to_bytes()
    for length in (0, 1, 8, 50, len(good) - 1):
        with pytest.raises(octavo.FileError):
            octavo.Statistics.from_bytes(good[:length])
    with pytest.raises(octavo.FileError):
        octavo.Statistics.from_bytes(good + b"\0")
    refused = 0
    for _ in range(2000):
        bad = bytearray(good)
        for at in rng.integers(0, 72 if rng.integers(2) else len(bad), 2):
            bad[at] ^= int(rng.integers(1, 256))
        try:
            s = octavo.Statistics.from_bytes(bytes(bad))
        except octavo.FileError:
            refused += 1
        else:  # a sound state: everything works
            for calibrator in octavo.calibrator_names():
                low, high = s.range(calibrator)
                assert low <= 0 <= high
            s.merge(collected(np.ones(3, np.float32)))
    assert refused > 1000


def test_bad_data_leave_the_state_alone() -> None:
    s = collected(np.ones(10, np.float32))
    before = s.to_bytes()
    for bad in (np.nan, np.inf, -np.inf):
        for place in (0, 3, 50_000):
            x = np.zeros(70_000, np.float32)
            x[place] = bad
            with pytest.raises(octavo.UserError, match="NaN or infinity"):
                s.collect(x)
    assert s.to_bytes() == before
    s.collect(np.empty(0, np.float32))
    assert s.to_bytes() == before
    with pytest.raises(octavo.UserError, match="nothing was collected"):
        octavo.Statistics().range()
    with pytest.raises(octavo.UserError, match="not known"):
        s.range("other")


# The calibrators' oracles, in float64 on the histogram ----------------------------------------


def test_max_and_moving_average(rng: np.random.Generator) -> None:
    batches = [(rng.standard_normal(500) * k).astype(np.float32) for k in (1, 5, 2, 0.1)]
    s = collected(*batches)
    everything = np.concatenate(batches)
    assert s.range("max") == (everything.min(), everything.max())
    low, high = float(batches[0].min()), float(batches[0].max())
    for batch in batches[1:]:
        low = 0.9 * low + 0.1 * float(batch.min())
        high = 0.9 * high + 0.1 * float(batch.max())
    # Three steps of three float64 roundings each.
    assert s.range("moving_average") == pytest.approx((low, high), rel=1e-14)
    positive = collected(np.full(5, 2, np.float32))
    assert positive.range("max") == (0, 2)


def test_percentile(rng: np.random.Generator) -> None:
    samples = (rng.standard_normal(200_000), rng.laplace(size=200_000), rng.uniform(-1, 3, 50_000))
    for values in samples:
        x = values.astype(np.float32)
        s = collected(x)
        low, high = s.range("percentile")
        width = 2 * s.limit / BINS
        # The exact quantile lies in the bin at whose outer edge the range ends.
        ordered = np.sort(x.astype(np.float64))
        out = int(0.00005 * len(x))
        assert low <= ordered[out] <= low + width
        assert high - width <= ordered[-1 - out] <= high


def mse_cost(s: octavo.Statistics, low: float, high: float, levels: int) -> float:
    """The documented cost: clipping by bin centres, step^2 / 12 inside."""
    width = 2 * s.limit / BINS
    centre = -s.limit + width * (np.arange(BINS) + 0.5)
    n = s.counts.astype(np.float64)
    below, above = centre < low, centre >= high
    step = (high - low) / (levels - 1)
    inside = n[~below & ~above].sum() * step * step / 12
    return float(
        (n[below] * (centre[below] - low) ** 2).sum()
        + (n[above] * (centre[above] - high) ** 2).sum()
        + inside
    )


def entropy_cost(s: octavo.Statistics, low: float, high: float, levels: int) -> float:
    """The rule of calibrators.h, level by level, without prefix sums."""
    width = 2 * s.limit / BINS
    zero = BINS // 2
    first = int(np.floor((s.min + s.limit) / width))
    last = min(BINS, int(np.floor((s.max + s.limit) / width)) + 1)
    n = s.counts.astype(np.float64)
    spikes = [0.0, 0.0]
    for k, (at, beside, there) in enumerate(
        ((first, first + 1, first < zero), (last - 1, last - 2, last - 1 > zero))
    ):
        if there:
            usual = min(n[at], n[beside])
            spikes[k], n[at] = n[at] - usual, usual
    n[zero] = min(n[zero], n[zero + 1 if last - 1 > zero else zero - 1])
    total = n.sum() + sum(spikes)

    def bin_of(x: float) -> int:
        return min(max(int(np.floor((x + s.limit) / width)), 0), BINS - 1)

    start, end = max(bin_of(low), first), min(bin_of(high) + (high > 0), last)
    if end - start < levels:
        return float("inf")
    p, q = n[start:end].copy(), np.zeros(end - start)
    cuts = [int(k * (end - start) / levels) for k in range(levels)] + [end - start]
    for a, b in itertools.pairwise(cuts):
        full = p[a:b] > 0
        q[a:b][full] = p[a:b].sum() / max(full.sum(), 1)
    inside = p.sum()
    divergence = (p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum()
    below = n[:start].sum() + spikes[0] if start > first else 0.0
    above = n[end:].sum() + spikes[1] if end < last else 0.0
    for edge, extra in ((0, below), (-1, above)):
        if extra:
            c = p[edge]
            least = max(c, 1e-3)
            divergence += (c + extra) * np.log((c + extra) / least)
            divergence -= c * np.log(c / least) if c else 0
    inside = total - below - above
    return float(divergence / total + np.log(inside / total))


@pytest.mark.parametrize(
    ("calibrator", "cost"), [("mse", mse_cost), ("entropy", entropy_cost)], ids=["mse", "entropy"]
)
def test_searched_ranges_are_the_best_on_a_grid(
    calibrator: str, cost: Callable[..., float], rng: np.random.Generator
) -> None:
    """No point of a coarse grid over both ends beats the choice by the oracle's cost.

    The search goes one end after the other, so between them it may miss a little: 2% of the least
    cost's distance to the whole range's is granted.
    """
    samples: dict[str, Any] = {
        "normal": rng.standard_normal(300_000),
        "laplace": rng.laplace(size=300_000),
        "relu6": np.clip(rng.standard_normal(300_000) * 3, 0, 6),
        "skewed": rng.gamma(2, 1, 300_000) - 1,
    }
    for name, values in samples.items():
        s = collected(values.astype(np.float32))
        full = s.range("max")
        chosen = s.range(calibrator)
        ours = cost(s, *chosen, 256)
        whole = cost(s, *full, 256)
        assert ours <= whole + 1e-12 * abs(whole), name
        parts = np.arange(0.2, 1.001, 0.1)
        lows = full[0] * parts if full[0] else np.zeros(1)
        least = min(cost(s, low, high, 256) for low in lows for high in full[1] * parts)
        assert ours <= least + 0.02 * abs(whole - least) + 1e-9, (name, chosen, full)


def test_relu6_is_kept_and_outliers_are_clipped(rng: np.random.Generator) -> None:
    relu6 = collected(np.clip(rng.standard_normal(300_000) * 2, 0, 6).astype(np.float32))
    for calibrator in octavo.calibrator_names():
        assert 4.5 < relu6.range(calibrator)[1] <= 6
    outliers = rng.standard_normal(300_000).astype(np.float32)
    outliers[:2] = 60, -60
    for calibrator in ("entropy", "percentile"):
        low, high = collected(outliers).range(calibrator)
        assert -20 < low < -3
        assert 3 < high < 20
