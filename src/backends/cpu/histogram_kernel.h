// histogram.h over a `Vec` of vec_*.h, which must come first.
#pragma once
#include "backends/cpu/histogram.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

Extremes histogram_extremes(const float* x, int64_t count) {
  constexpr int chains = 4;  // independent accumulators hide the latency
  Vec::F low[chains], high[chains], bad[chains];
  for (int k = 0; k < chains; ++k) {
    low[k] = high[k] = Vec::set(*x);
    bad[k] = Vec::set(0);
  }
  const auto take = [&](int k, Vec::F v) {
    low[k] = Vec::min(low[k], v);
    high[k] = Vec::max(high[k], v);
    bad[k] = Vec::add(bad[k], Vec::sub(v, v));  // 0, or NaN from infinity or NaN for good
  };
  int64_t i = 0;
  for (; i + chains * Vec::width <= count; i += chains * Vec::width)
    for (int k = 0; k < chains; ++k) take(k, Vec::load(x + i + k * Vec::width));
  for (; i + Vec::width <= count; i += Vec::width) take(0, Vec::load(x + i));
  Extremes e{*x, *x, true};
  for (; i < count; ++i) {
    const float v = x[i];
    e.min = v < e.min ? v : e.min;
    e.max = v > e.max ? v : e.max;
    e.finite = e.finite && v - v == 0;
  }
  for (int k = 0; k < chains; ++k) {
    float lows[Vec::width], highs[Vec::width], bads[Vec::width];
    Vec::store(lows, low[k]);
    Vec::store(highs, high[k]);
    Vec::store(bads, bad[k]);
    for (int lane = 0; lane < Vec::width; ++lane) {
      e.min = lows[lane] < e.min ? lows[lane] : e.min;
      e.max = highs[lane] > e.max ? highs[lane] : e.max;
      e.finite = e.finite && bads[lane] == 0;
    }
  }
  return e;
}

// place(v, to) writes the bins of a vector and returns how many it wrote, the others left out; they
// are counted in tables[histogram_tables][bins]. Returns how many were left out.
template <class Place>
int64_t histogram_blocks(const float* x, int64_t count, uint16_t* tables, int64_t bins,
                         const Place& place) {
  constexpr int block = 256;
  alignas(64) int32_t index[block + Vec::width];
  int64_t left_out = 0;
  for (int64_t i = 0; i < count; i += block) {
    const int size = static_cast<int>(count - i < block ? count - i : block);
    int n = 0, k = 0;
    for (; k + Vec::width <= size; k += Vec::width) n += place(Vec::load(x + i + k), index + n);
    if (k < size) {  // lanes behind the rest hold 0: left out, or written behind
      const int rest = size - k, written = place(Vec::load_n(x + i + k, rest), index + n);
      n += written < rest ? written : rest;
    }
    left_out += size - n;
    for (k = 0; k + histogram_tables <= n; k += histogram_tables)
      for (int t = 0; t < histogram_tables; ++t) ++tables[t * bins + index[k + t]];
    for (; k < n; ++k) ++tables[k % histogram_tables * bins + index[k]];
  }
  return left_out;
}

void histogram_count(const float* x, int64_t count, float scale,
                     uint16_t (*tables)[histogram_bins]) {
  const Vec::F factor = Vec::set(scale), zero = Vec::set(0), one = Vec::set(1);
  const Vec::F middle = Vec::set(static_cast<float>(histogram_bins) / 2),
               last = Vec::set(histogram_bins - 1);
  // What underflows below zero still belongs to the bin below zero.
  const Vec::F below = Vec::set(-1e-9f);
  const auto place = [&](Vec::F v, int32_t* to) {
    Vec::F t = Vec::mul(v, factor);
    t = Vec::select(Vec::less(v, zero), Vec::min(t, below), t);
    const Vec::F near = Vec::to_float(Vec::round(t));
    const Vec::F floor = Vec::sub(near, Vec::select(Vec::less(t, near), one, zero));
    Vec::store_int(to, Vec::round(Vec::min(Vec::add(floor, middle), last)));
    return Vec::width;
  };
  histogram_blocks(x, count, tables[0], histogram_bins, place);
}

int64_t histogram_count_magnitudes(const float* x, int64_t count, const MagnitudeBins& bins,
                                   uint16_t* tables, int32_t* largest) {
  const auto n = static_cast<float>(bins.bins);
  const Vec::F factor = Vec::set(bins.factor), scale = Vec::set(n), last = Vec::set(n - 1),
               divisor = Vec::set(bins.divisor), one = Vec::set(1), zero = Vec::set(0);
  // One multiplication is off by less than 4 * 2^-24 of the quotient. Where no whole number is so
  // near, the floor is the same; elsewhere, seldom, it takes the division.
  const float per_unit = static_cast<float>(static_cast<double>(n) * bins.factor / bins.divisor);
  const Vec::F low = Vec::set(per_unit * (1 - 0x1p-21f)),
               high = Vec::set(per_unit * (1 + 0x1p-21f));
  // Denormal numbers are less exact.
  const bool multiplies = bins.divisor > 1e-30f && per_unit > 1e-30f;
  Vec::I most = Vec::set_int(*largest);
  const auto place = [&](Vec::F v, int32_t* to) {
    const Vec::F magnitude = Vec::abs(v);
    most = Vec::max_int(most, Vec::float_to_bits(magnitude));
    const Vec::I bin = Vec::truncate(Vec::min(Vec::mul(magnitude, low), last));
    if (multiplies && Vec::same(bin, Vec::truncate(Vec::min(Vec::mul(magnitude, high), last))))
      return Vec::store_nonzero(to, bin);
    const Vec::F t = Vec::mul(Vec::mul(magnitude, factor), scale);
    const Vec::F q = Vec::min(Vec::div(t, divisor), scale);
    const Vec::F near = Vec::to_float(Vec::round(q));
    const Vec::F floor = Vec::sub(near, Vec::select(Vec::less(q, near), one, zero));
    return Vec::store_nonzero(to, Vec::round(Vec::min(floor, last)));
  };
  const int64_t left_out = histogram_blocks(x, count, tables, bins.bins, place);
  int32_t lanes[Vec::width];
  Vec::store_int(lanes, most);
  for (const int32_t bits : lanes) *largest = bits > *largest ? bits : *largest;
  return left_out;
}

int64_t histogram_keep_large(const float* x, int64_t count, float floor, float* kept) {
  constexpr int64_t ahead = 512;  // what lies there is asked for early, across pages too
  const Vec::F least = Vec::set(floor);
  int64_t n = 0, i = 0;
  for (; i + Vec::width <= count; i += Vec::width) {
    __builtin_prefetch(x + i + ahead);
    n += Vec::store_not_less(kept + n, Vec::abs(Vec::load(x + i)), least);
  }
  if (i < count)
    n += Vec::store_not_less(kept + n, Vec::abs(Vec::load_n(x + i, static_cast<int>(count - i))),
                             least);
  return n;
}

}  // namespace
}  // namespace octavo::cpu
