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
