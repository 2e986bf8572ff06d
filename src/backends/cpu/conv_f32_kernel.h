// The inner loops of the FP32 convolutions, over a `Vec` of vec_*.h, which must come first.
#pragma once
#include "backends/cpu/gemm_f32_kernel.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

// T pixels from `pixel` on, taps kx in [kx_begin, kx_end).
template <int T>
void depthwise_pixels(const DepthwiseF32Row& t, int64_t pixel, int64_t kx_begin, int64_t kx_end) {
  constexpr int W = Vec::width;
  const Vec::F lo = Vec::set(t.lo), hi = Vec::set(t.hi), slope = Vec::set(t.slope);
  const float* x_pixel = t.x + pixel * t.pixel_step;
  for (int64_t c = 0; c < t.channels; c += W) {
    const bool whole = c + W <= t.channels;
    const int n = whole ? W : static_cast<int>(t.channels - c);
    Vec::F acc[T];
#pragma GCC unroll 8
    for (int i = 0; i < T; ++i) acc[i] = Vec::load(t.bias + c);
    for (int64_t ky = t.ky_begin; ky < t.ky_end; ++ky) {
      const float* w = t.weights + (ky * t.kw + kx_begin) * t.padded_channels + c;
      const float* x = x_pixel + ky * t.row_step + kx_begin * t.column_step + c;
      for (int64_t kx = kx_begin; kx < kx_end; ++kx) {
        const Vec::F tap = Vec::load(w);
        if (whole) {
#pragma GCC unroll 8
          for (int i = 0; i < T; ++i)
            acc[i] = Vec::fma(Vec::load(x + i * t.pixel_step), tap, acc[i]);
        } else {
#pragma GCC unroll 8
          for (int i = 0; i < T; ++i)
            acc[i] = Vec::fma(Vec::load_n(x + i * t.pixel_step, n), tap, acc[i]);
        }
        w += t.padded_channels;
        x += t.column_step;
      }
    }
    const int64_t at = pixel * t.channels + c;
#pragma GCC unroll 8
    for (int i = 0; i < T; ++i) {
      Vec::F v = acc[i];
      if (t.round != HalfType::none) v = rounded(t.round, v);
      if (t.residual) {
        const float* r = t.residual + at + i * t.channels;
        v = Vec::add(v, whole ? Vec::load(r) : Vec::load_n(r, n));
      }
      v = Vec::max(v, Vec::mul(v, slope));
      v = clamp(v, lo, hi);
      if (whole)
        Vec::store(t.y + at + i * t.channels, v);
      else
        Vec::store_n(t.y + at + i * t.channels, v, n);
    }
  }
}

void depthwise_f32(const DepthwiseF32Row& t) {
  const auto edge = [&](int64_t begin, int64_t end) {
    for (int64_t pixel = begin; pixel < end; ++pixel) {
      int64_t kx_begin = 0, kx_end = t.kw;
      const int64_t column = t.x_first + pixel * t.stride;
      while (kx_begin < kx_end && column + kx_begin * t.dilation < 0) ++kx_begin;
      while (kx_end > kx_begin && column + (kx_end - 1) * t.dilation >= t.w) --kx_end;
      depthwise_pixels<1>(t, pixel, kx_begin, kx_end);
    }
  };
  edge(0, t.inner_begin);
  int64_t pixel = t.inner_begin;
  for (; pixel + 8 <= t.inner_end; pixel += 8) depthwise_pixels<8>(t, pixel, 0, t.kw);
  switch (t.inner_end - pixel) {
    case 7:
      depthwise_pixels<7>(t, pixel, 0, t.kw);
      break;
    case 6:
      depthwise_pixels<6>(t, pixel, 0, t.kw);
      break;
    case 5:
      depthwise_pixels<5>(t, pixel, 0, t.kw);
      break;
    case 4:
      depthwise_pixels<4>(t, pixel, 0, t.kw);
      break;
    case 3:
      depthwise_pixels<3>(t, pixel, 0, t.kw);
      break;
    case 2:
      depthwise_pixels<2>(t, pixel, 0, t.kw);
      break;
    case 1:
      depthwise_pixels<1>(t, pixel, 0, t.kw);
      break;
    default:
      break;
  }
  edge(t.inner_end, t.pixels);
}

}  // namespace
}  // namespace octavo::cpu
