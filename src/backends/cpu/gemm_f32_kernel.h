// The inner loop of the FP32 products, over a `Vec` of vec_*.h, which must come first.
#pragma once
#include "backends/cpu/conv_f32_data.h"
#include "backends/cpu/vec_math.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

// Sums so far, or bias.
template <int R, int B>
inline __attribute__((always_inline)) void start_tile(const GemmF32Tile& t, Vec::F (&acc)[R][B]) {
  const float* start = t.start;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r, start += t.start_step)
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) acc[r][b] = Vec::load(start + b * Vec::width);
}

inline __attribute__((always_inline)) Vec::F rounded(HalfType half, Vec::F v) {
  return half == HalfType::f16 ? Vec::round_f16(v) : Vec::round_bf16(v);
}

template <int R, int B>
inline __attribute__((always_inline)) void finish_tile(const GemmF32Tile& t, Vec::F (&acc)[R][B]) {
  constexpr int W = Vec::width;
  if (!t.last) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) Vec::store(t.y + r * t.y_step + b * W, acc[r][b]);
    return;
  }
  if (t.round != HalfType::none) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) acc[r][b] = rounded(t.round, acc[r][b]);
  }
  const Vec::F lo = Vec::set(t.lo), hi = Vec::set(t.hi), slope = Vec::set(t.slope);
  const int tail = t.channels - (B - 1) * W;  // in the last vector
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    float* y = t.y + r * t.y_step;
    const float* residual = t.residual ? t.residual + r * t.y_step : nullptr;
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) {
      const bool whole = b + 1 < B || tail == W;
      Vec::F v = acc[r][b];
      if (residual)
        v = Vec::add(v, whole ? Vec::load(residual + b * W) : Vec::load_n(residual + b * W, tail));
      v = Vec::max(v, Vec::mul(v, slope));
      v = clamp(v, lo, hi);
      if (whole)
        Vec::store(y + b * W, v);
      else
        Vec::store_n(y + b * W, v, tail);
    }
  }
}

constexpr int64_t prefetched = 16;  // floats in a cache line

template <int R, int B>
void gemm_f32(const GemmF32Tile& t) {
  constexpr int W = Vec::width;
  Vec::F acc[R][B];
  start_tile<R, B>(t, acc);
  const float* w = t.weights;
  const float* ahead = t.ahead;
  for (int64_t s = 0; s < t.segments; ++s) {
    const float* a[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) a[r] = t.a[s * t.a_step + r] + t.offset;
    for (int64_t k = 0; k < t.length; ++k, w += B * W) {
      __builtin_prefetch(ahead, 0, 2);
      ahead += prefetched;
      Vec::F column[B];
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) column[b] = Vec::load(w + b * W);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Vec::F x = Vec::set(a[r][k]);
#pragma GCC unroll 4
        for (int b = 0; b < B; ++b) acc[r][b] = Vec::fma(x, column[b], acc[r][b]);
      }
    }
  }
  finish_tile<R, B>(t, acc);
}

}  // namespace
}  // namespace octavo::cpu
