"""Magnitude histograms: bins against torch.histc's formula, choices against NumPy re-statements of
pytorch-quantization's rules, memory, saving, damaged bytes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import octavo
from octavo import _core

F = NDArray[np.float32]
Histogram = _core.MagnitudeHistogram


def collected(*batches: F, bins: int = 2048, skip_zeros: bool = False) -> Any:
    h = Histogram(bins)
    for batch in batches:
        h.collect(batch, skip_zeros)
    return h


def bin_of(x: F, n: int, last: np.float32) -> NDArray[np.int64]:
    """Each operation rounded to float32; the last edge is the last bin's."""
    return np.minimum((np.abs(x) * np.float32(n) / last).astype(np.int64), n - 1)


# ---- bins


@pytest.mark.parametrize("bins", [1, 19, 2048])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 3e38])
def test_one_batch(rng: np.random.Generator, bins: int, scale: float) -> None:
    x = (rng.uniform(-1, 1, 100_003) * scale).astype(np.float32)
    h = collected(x, bins=bins)
    last = np.abs(x).max()
    n = np.float32(bins)
    shrunk = x * np.float32(2**-40) if scale > 1e30 else x  # |x| * n would overflow
    of = np.float32(last * np.float32(2**-40)) if scale > 1e30 else last
    expected = np.bincount(bin_of(shrunk, int(n), of), minlength=bins)
    np.testing.assert_array_equal(h.counts, expected)
    assert h.total == x.size
    # linspace in float32: a product and, in the upper half, a difference, half an ulp of the end
    # for each of the three roundings (the width's is multiplied by up to bins / 2).
    exact = np.linspace(0, float(last), bins + 1)
    bound = np.spacing(last) * (1 + bins / 4)
    assert np.abs(h.edges - exact).max() <= bound
    assert h.edges[0] == 0
    assert h.edges[-1] == last


def test_bins_are_histc_s(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    x = rng.normal(size=200_000).astype(np.float32)
    most = float(np.abs(x).max())
    h = collected(x)
    expected = torch.histc(torch.from_numpy(np.abs(x)), bins=2048, min=0, max=most)
    np.testing.assert_array_equal(h.counts, expected.numpy())
    # torch.linspace contracts product and difference on some processors: one ulp of the end.
    error = np.abs(h.edges - torch.linspace(0, most, 2049).numpy())
    assert error.max() <= np.spacing(np.float32(most))


def test_larger_values_append_bins_of_the_same_width(rng: np.random.Generator) -> None:
    first = rng.uniform(0, 1, 10_000).astype(np.float32)
    second = rng.uniform(0, 3, 10_000).astype(np.float32)
    h = collected(first, second, bins=64)
    width = float(first.max()) / 64
    n = int(np.ceil(second.max() / width))
    assert len(h.counts) == n
    np.testing.assert_allclose(h.edges, np.arange(n + 1) * width, rtol=3e-7)
    expected = np.bincount(bin_of(first, 64, first.max()), minlength=n)
    expected += np.bincount(bin_of(second, n, h.edges[-1]), minlength=n)
    np.testing.assert_array_equal(h.counts, expected)


def test_memory_is_bounded() -> None:
    """The peer makes 204,802,112 bins of this; pairs of ours merge instead, losing no count."""
    h = collected(np.linspace(0, 1e-3, 4096, dtype=np.float32), np.float32([100.0]))
    assert 8 * 1024 < len(h.counts) <= 8 * 2048
    assert h.counts.sum() == h.total == 4097
    assert h.counts[0] == 4096  # 1e-3 is less than a bin now
    assert h.counts[-1] == 1
    width = h.edges[1]
    ratio = np.log2(float(width) / (float(np.float32(1e-3)) / 2048))
    assert abs(ratio - round(ratio)) < 1e-6  # the width doubled, whole times
    assert h.edges[-2] < 100 <= h.edges[-1]


def test_zeros() -> None:
    zeros = np.zeros(10, np.float32)
    h = collected(zeros)
    assert h.total == 10
    assert h.counts[0] == 10
    assert not h.edges.any()
    assert h.entropy_amax() == h.mse_amax() == h.percentile_amax() == 0
    h.collect(np.float32([2.0]))
    assert h.counts[0] == 10
    assert h.counts[-1] == 1
    assert h.edges[-1] == 2
    skipped = collected(zeros, np.float32([0, 2, -0.0, 1]), skip_zeros=True)
    assert skipped.total == 2
    assert skipped.counts[0] == 0


def test_threads_and_order_do_not_show(rng: np.random.Generator) -> None:
    x = rng.normal(size=300_000).astype(np.float32)
    x[0] = 9  # the first batch has the extreme
    whole = collected(x)
    parts = collected(*np.array_split(x, 7))
    assert whole == parts


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(bad: float) -> None:
    h = collected(np.float32([1, 2]))
    before = h.to_bytes()
    with pytest.raises(octavo.UserError, match="NaN or infinity"):
        h.collect(np.float32([5, bad]))
    assert h.to_bytes() == before


# ---- the largest only


def relu(rng: np.random.Generator, size: int, scale: float = 1.0) -> F:
    return np.maximum(rng.normal(size=size) * scale, 0).astype(np.float32)


def top_of(*batches: F, top: float = 0.01) -> Any:
    h = Histogram()
    for batch in batches:
        h.collect(batch, top=top)
    return h


@pytest.mark.parametrize("scales", [(1, 1, 1), (1, 1.5, 0.7, 40), (3, 1, 1e-3), (1e-3, 1, 1)])
def test_the_largest_are_counted_one_by_one(
    rng: np.random.Generator, scales: tuple[float, ...]
) -> None:
    """Every bin from exact_from on as if all had been counted, where bins appear and merge too.

    Data that reach further are counted before bins are added, so what lies on an edge but for the
    rounding of float32 may be in the other bin.
    """
    batches = [relu(rng, 400_003, s) for s in scales]
    h = top_of(*batches)
    whole = collected(*batches)
    assert h.total == whole.total == h.counts.sum()
    np.testing.assert_array_equal(h.edges, whole.edges)
    exact = h.exact_from
    assert 0 < exact < len(h.counts)
    at = np.concatenate(batches).astype(np.float64) * len(h.counts) / float(h.edges[-1])
    on_an_edge = np.abs(at - np.round(at)) <= at * 2.0**-22
    moved = np.abs(h.counts[exact:] - whole.counts[exact:]).sum()
    assert moved <= 2 * np.count_nonzero(on_an_edge & (at >= exact - 1))
    assert (h.counts[:exact] != whole.counts[:exact]).any()  # else nothing was left out
    for percent in (99.9, 99.99, 99.999):
        if whole.percentile_amax(percent) >= h.edges[exact]:
            difference = h.percentile_amax(percent) - whole.percentile_amax(percent)
            assert abs(difference) <= (1.01 * h.edges[1] if moved else 0)
    if scales == (1, 1, 1):
        assert whole.percentile_amax(99.9) >= h.edges[exact]
        share = whole.counts[exact:].sum() / whole.total
        # 31 of the first data's 3125 samples say where a hundredth begins: give or take a fifth.
        assert 0.003 < share < 0.03


def test_what_is_not_counted_is_sampled(rng: np.random.Generator) -> None:
    """The first data are ten times as large, so the range lies where only samples were taken."""
    batches = [relu(rng, 300_000, s) for s in (10, *[1] * 300)]
    h = top_of(*batches)
    whole = collected(*batches)
    wanted = whole.percentile_amax(99)
    assert wanted < h.edges[h.exact_from]
    # Of a share p of n values in 128 the standard error is sqrt(p * 128 / n) here, 6 of them in
    # each direction; the width of a bin besides.
    n, p = h.total, 0.01
    slack = 6 * np.sqrt(p * 128 / n)
    width = h.edges[1]
    low = whole.percentile_amax(100 * (1 - p - slack)) - width
    high = whole.percentile_amax(100 * (1 - p + slack)) + width
    assert low <= h.percentile_amax(99) <= high
    assert high - low < 0.1 * wanted


def test_a_period_of_the_sample_s_length_is_no_blind_spot() -> None:
    """Channels that lie innermost: each stretch of 2048 values is the same."""
    channels = np.repeat(np.arange(1, 129, dtype=np.float32), 16)
    h = top_of(np.tile(channels, 1000), top=0.02)
    wanted = collected(np.tile(channels, 1000))
    assert h.exact_from > 1900
    low = h.counts[: h.exact_from]
    occupied = wanted.counts[: h.exact_from] > 0
    assert (low[occupied] > 0).all()
    # 1000 stretches, 128 places, each drawn with a chance of 1 / 128: 7.8, the rest is 128 fold.
    assert np.abs(low[occupied] / wanted.counts[: h.exact_from][occupied] - 1).max() < 0.5


def test_few_or_low_are_counted_all(rng: np.random.Generator) -> None:
    small = [relu(rng, 1000) for _ in range(500)]
    assert top_of(*small) == collected(*small)
    large = [relu(rng, 300_000) for _ in range(2)]
    assert top_of(*large, top=0.5) == collected(*large)
    zeros = np.zeros(300_000, np.float32)
    assert top_of(zeros, zeros) == collected(zeros, zeros)
    ones = zeros + 1
    assert top_of(ones, ones) == collected(ones, ones)
    assert top_of(zeros, ones).counts[-1] == ones.size


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("first", [True, False])
def test_not_finite_among_the_largest(rng: np.random.Generator, bad: float, first: bool) -> None:
    x = relu(rng, 300_000)
    h = top_of(x[:0] if first else x)
    before = h.to_bytes()
    x[12_345] = bad
    with pytest.raises(octavo.UserError, match="NaN or infinity"):
        h.collect(x, top=0.01)
    assert h.to_bytes() == before


def test_the_largest_are_saved(rng: np.random.Generator) -> None:
    h = top_of(*[relu(rng, 300_000) for _ in range(2)])
    other = Histogram.from_bytes(h.to_bytes())
    assert other == h
    assert other.exact_from == h.exact_from > 0
    more = relu(rng, 300_000, 20)
    h.collect(more, top=0.01)
    other.collect(more, top=0.01)
    assert other == h


# ---- choices; the oracles are written from the definitions, over all bins, one candidate at a time


def kl_divergences(counts: NDArray[np.int64], levels: int, start: int) -> NDArray[np.float64]:
    bins = counts.astype(np.float64)
    bins[0] = bins[1]
    result = []
    for i in range(start, len(bins) + 1):
        level = np.digitize(np.arange(i), np.linspace(0, i, levels + 1)) - 1
        occupied = bins[:i] > 0
        mass = np.bincount(level, bins[:i], levels)
        places = np.bincount(level, occupied, levels)
        q = np.where(occupied, (mass / np.maximum(places, 1))[level], 0)
        p = bins[:i].copy()
        p[-1] += bins[i:].sum()
        if q.sum() == 0 or np.any((p > 0) & (q == 0)):
            result.append(np.inf)
            continue
        p, q = p / p.sum(), q / q.sum()
        some = p > 0
        result.append(float((p[some] * np.log(p[some] / q[some])).sum()))
    return np.array(result)


def distributions(rng: np.random.Generator) -> dict[str, F]:
    normal = rng.normal(size=20_000)
    outlier = rng.uniform(0, 1, 3000)
    outlier[0] = 10
    return {
        "normal": normal.astype(np.float32),
        "relu": np.maximum(normal, 0).astype(np.float32),
        "heavy": rng.standard_t(3, 20_000).astype(np.float32),
        "outlier": outlier.astype(np.float32),
        "few": rng.integers(0, 50, 3000).astype(np.float32),
    }


@pytest.mark.parametrize("name", ["normal", "relu", "heavy", "outlier", "few"])
@pytest.mark.parametrize(("bits", "unsigned"), [(8, False), (8, True), (4, False)])
def test_entropy(rng: np.random.Generator, name: str, bits: int, unsigned: bool) -> None:
    h = collected(distributions(rng)[name], bins=512)
    divergences = kl_divergences(h.counts, 2 ** (bits - 1 + unsigned), 128)
    chosen = int(np.flatnonzero(h.edges == np.float32(h.entropy_amax(bits, unsigned)))[0])
    # Both sum up to 512 terms of at most 1 in float64: 512 * 2^-53 * a few.
    slack = 1e-12
    least = divergences.min()
    assert divergences[chosen - 128] <= least + slack
    last = np.flatnonzero(divergences <= least)[-1] + 128
    assert chosen >= last or divergences[chosen - 128] > least - slack
    rest = divergences[chosen - 128 + 1 :]
    assert not np.any(rest < divergences[chosen - 128] - slack)  # nothing better comes later


def fake_quantized(x: F, amax: np.float32, bound: int) -> F:
    """tensor_quant's arithmetic: each operation rounded to float32."""
    if amax <= 2**-24:
        return np.zeros_like(x)
    scale = np.float32(bound) / amax
    return np.clip(np.round(x * scale), -bound, bound) / scale


def e4m3(x: F, amax: np.float32) -> F:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    scale = np.float32(448) / amax
    clipped = np.minimum(x * scale, np.float32(448))
    return clipped.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) / scale


def mse_costs(h: Any, quantized: Any, start: int) -> tuple[F, NDArray[np.float64]]:
    edges = h.edges
    centres = (edges[1:] + edges[:-1]) / np.float32(2)
    counts = h.counts.astype(np.float32).astype(np.float64)
    costs = []
    for amax in centres[start:]:
        error = quantized(centres, amax).astype(np.float64) - centres
        costs.append(float((error**2 * counts).sum()))
    return centres, np.array(costs)


def check_mse(h: Any, amax: float, quantized: Any, start: int = 128) -> None:
    centres, costs = mse_costs(h, quantized, start)
    chosen = int(np.flatnonzero(centres == np.float32(amax))[0]) - start
    # Ours sums in another order, and takes a centre halfway between two levels to either: each has
    # a relative effect of some float32 epsilons on its own term.
    assert chosen >= 0
    assert costs[chosen] <= costs.min() * (1 + 1e-5) + 1e-12 * h.total * float(centres[-1]) ** 2
    assert not np.any(costs[:chosen] < costs[chosen] * (1 - 1e-5))  # nothing better came before


@pytest.mark.parametrize("name", ["normal", "relu", "heavy", "outlier", "few"])
@pytest.mark.parametrize(("bits", "unsigned"), [(8, False), (8, True), (4, False), (12, False)])
def test_mse(rng: np.random.Generator, name: str, bits: int, unsigned: bool) -> None:
    h = collected(distributions(rng)[name], bins=512)
    bound = 2 ** (bits - 1 + unsigned) - 1
    check_mse(h, h.mse_amax(bits, unsigned), lambda x, a: fake_quantized(x, a, bound))


@pytest.mark.parametrize("name", ["normal", "heavy", "few"])
def test_mse_e4m3(rng: np.random.Generator, name: str) -> None:
    h = collected(distributions(rng)[name], bins=512)
    check_mse(h, h.mse_amax_e4m3(), e4m3)


def test_mse_of_a_spike_is_its_centre() -> None:
    x = np.full(2541, 255, np.float32)
    x[7] = 256
    h = collected(x)
    width = 256 / 2048
    assert h.mse_amax() == 255 + width / 2  # the bin [255, 255.125) is hit exactly there first


@pytest.mark.parametrize("percent", [0, 0.3, 50, 99.99, 100])
def test_percentile(rng: np.random.Generator, percent: float) -> None:
    x = rng.normal(size=5000).astype(np.float32)
    h = collected(x)
    share = np.cumsum(h.counts / h.counts.sum())
    expected = h.edges[np.searchsorted(share, percent / 100)]
    assert h.percentile_amax(percent) == expected


def test_candidates(rng: np.random.Generator) -> None:
    h = collected(np.abs(rng.normal(size=5000)).astype(np.float32), bins=256)
    edges = [float(e) for e in h.edges]
    centres = [float(c) for c in (h.edges[1:] + h.edges[:-1]) / np.float32(2)]
    assert edges.index(h.entropy_amax(stride=7, start_bin=100)) % 7 == 100 % 7
    assert centres.index(h.mse_amax(stride=7, start_bin=250)) in (250,)
    for call in (h.entropy_amax, h.mse_amax):
        for options in ({"stride": 0}, {"start_bin": 0}, {"start_bin": 257}, {"bits": 17}):
            with pytest.raises(octavo.UserError):
                call(**options)
    with pytest.raises(octavo.UserError):
        h.mse_amax(start_bin=256)
    assert h.entropy_amax(start_bin=256) == edges[256]
    for percent in (-1, 100.5, np.nan):
        with pytest.raises(octavo.UserError, match="percentile"):
            h.percentile_amax(percent)


def test_empty() -> None:
    h = Histogram()
    for call in (h.entropy_amax, h.mse_amax, h.mse_amax_e4m3, h.percentile_amax):
        with pytest.raises(octavo.UserError, match="nothing was collected"):
            call()
    for bins in (0, -3, 2**21):
        with pytest.raises(octavo.UserError, match="bins"):
            Histogram(bins)


# ---- saving


def test_saving(rng: np.random.Generator) -> None:
    h = collected(rng.normal(size=999).astype(np.float32), rng.normal(size=99).astype(np.float32))
    for other in (
        Histogram.from_bytes(h.to_bytes()),
        pickle.loads(pickle.dumps(h)),
        copy.deepcopy(h),
    ):
        assert other == h
        more = np.float32([7, 8])
        other.collect(more)
        assert other != h


def test_damaged_bytes(rng: np.random.Generator) -> None:
    good = collected(rng.normal(size=999).astype(np.float32), bins=8).to_bytes()
    for size in range(len(good)):
        with pytest.raises(octavo.FileError):
            Histogram.from_bytes(good[:size])
    for i in range(len(good)):
        for flip in (0x80, 0x01):
            damaged = bytearray(good)
            damaged[i] ^= flip
            try:
                h = Histogram.from_bytes(bytes(damaged))
            except octavo.FileError:
                continue
            # What passes can be used.
            h.collect(np.float32([1, 2]))
            h.entropy_amax(start_bin=1)
            h.mse_amax(start_bin=1)
