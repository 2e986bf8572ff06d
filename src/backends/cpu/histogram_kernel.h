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
                                   uint16_t* tables) {
  const auto n = static_cast<float>(bins.bins);
  const Vec::F factor = Vec::set(bins.factor), scale = Vec::set(n), last = Vec::set(n - 1);
  const Vec::F divisor = Vec::set(bins.divisor), inverse = Vec::set(1 / bins.divisor);
  // Multiplying by the inverse is off by less than 4 * 2^-24 of the quotient. Where no whole number
  // is so near, the floor is the same; elsewhere, seldom, it takes the division.
  const Vec::F tolerance = Vec::set(0x1p-22f), least = Vec::set(1e-30f), one = Vec::set(1),
               zero = Vec::set(0);
  const auto place = [&](Vec::F v, int32_t* to) {
    const Vec::F t = Vec::mul(Vec::mul(Vec::abs(v), factor), scale);
    Vec::F q = Vec::min(Vec::mul(t, inverse), scale);
    Vec::F near = Vec::to_float(Vec::round(q));
    const Vec::F distance = Vec::add(Vec::abs(Vec::sub(q, near)), least);
    if (!Vec::all(Vec::less(Vec::mul(q, tolerance), distance))) {
      q = Vec::div(t, divisor);
      near = Vec::to_float(Vec::round(q));
    }
    const Vec::F floor = Vec::sub(near, Vec::select(Vec::less(q, near), one, zero));
    return Vec::store_nonzero(to, Vec::round(Vec::min(floor, last)));
  };
  return histogram_blocks(x, count, tables, bins.bins, place);
}

}  // namespace
}  // namespace octavo::cpu
