// The inner loops over packed weights, over a `Vec` of vec_*.h, which must come first.
#pragma once
#include "backends/cpu/gemm_f32_kernel.h"
#include "backends/cpu/packed_weights_data.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

// Calls f(k, b, w) with the vector b of the floats of depth k, for all of a run; `z` is zero where
// there is none.
template <bool Four, bool Zeros, int B, class F>
inline __attribute__((always_inline)) const uint8_t* for_run(const uint8_t* q, const float* scales,
                                                             const float* zeros, int64_t begin,
                                                             int64_t end, const F& f) {
  constexpr int W = Vec::width;
  const auto scaled = [&](Vec::F v, int b) {
    if constexpr (Zeros) v = Vec::sub(v, Vec::load(zeros + b * W));
    return Vec::mul(v, Vec::load(scales + b * W));
  };
  int64_t k = begin;
  Vec::F w[B];
  if constexpr (Four) {
    for (; k + 2 <= end; k += 2, q += B * W) {
      Vec::I bytes[B];
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) {
        bytes[b] = Vec::load_u8(q + b * W);
        w[b] = scaled(Vec::low_nibble(bytes[b]), b);
      }
      f(k, w);
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) w[b] = scaled(Vec::high_nibble(bytes[b]), b);
      f(k + 1, w);
    }
    if (k < end) {
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) w[b] = scaled(Vec::low_nibble(Vec::load_u8(q + b * W)), b);
      f(k, w);
      q += B * W;
    }
  } else {
    for (; k < end; ++k, q += B * W) {
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b)
        w[b] = scaled(Vec::to_float(Vec::load_s8(reinterpret_cast<const int8_t*>(q) + b * W)), b);
      f(k, w);
    }
  }
  return q;
}

template <bool Four, bool Zeros, int B, class F>
inline __attribute__((always_inline)) void for_block(const PackedBlock& block, const F& f) {
  const uint8_t* q = block.integers;
  const float *scales = block.scales, *zeros = block.zeros;
  for (int64_t k = 0; k < block.length; k += block.run) {
    const int64_t end = k + block.run < block.length ? k + block.run : block.length;
    q = for_run<Four, Zeros, B>(q, scales, zeros, k, end, f);
    scales += B * Vec::width;
    if constexpr (Zeros) zeros += B * Vec::width;
  }
}

template <bool Four, int B>
void unpack_panel(const PackedBlock& block, float* out) {
  const auto store = [&](int64_t k, const Vec::F(&w)[B]) {
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) Vec::store(out + (k * B + b) * Vec::width, w[b]);
  };
  if (block.zeros)
    for_block<Four, true, B>(block, store);
  else
    for_block<Four, false, B>(block, store);
}

template <bool Four>
void unpack(const PackedBlock& block, int vectors, float* out) {
  switch (vectors) {
    case 1:
      return unpack_panel<Four, 1>(block, out);
    case 2:
      return unpack_panel<Four, 2>(block, out);
    case 3:
      return unpack_panel<Four, 3>(block, out);
    default:
      return unpack_panel<Four, 4>(block, out);
  }
}

template <bool Four, int R, int B>
void packed_gemm(const GemmF32Tile& t, const PackedBlock& block) {
  Vec::F acc[R][B];
  start_tile<R, B>(t, acc);
  const float* a[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) a[r] = t.a[r] + t.offset;
  const auto multiply = [&](int64_t k, const Vec::F(&w)[B]) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Vec::F x = Vec::set(a[r][k]);
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) acc[r][b] = Vec::fma(x, w[b], acc[r][b]);
    }
  };
  if (block.zeros)
    for_block<Four, true, B>(block, multiply);
  else
    for_block<Four, false, B>(block, multiply);
  finish_tile<R, B>(t, acc);
}

// Rows 1 to 4 of a panel of B vectors.
#define OCTAVO_PACKED_ROWS(four, B)                                                     \
  {                                                                                     \
    nullptr, packed_gemm<four, 1, B>, packed_gemm<four, 2, B>, packed_gemm<four, 3, B>, \
        packed_gemm<four, 4, B>                                                         \
  }

}  // namespace
}  // namespace octavo::cpu
