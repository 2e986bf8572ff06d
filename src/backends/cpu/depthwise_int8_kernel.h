// The depthwise INT8 kernel, written once over a vector type V that holds V::width channels' bytes.
// Include only from depthwise_int8_<isa>.cpp, with V in an anonymous namespace there.
#pragma once
#include "backends/cpu/int8_data.h"

namespace octavo::cpu {

// Where the narrow epilogue does not apply: rare, so a channel at a time.
template <class V>
[[gnu::noinline]] void finish_pixel(const DepthwiseInt8Tile& t, const int32_t* sums, uint8_t* y,
                                    const uint8_t* residual) {
  const Int8Epilogue& e = *t.epilogue;
  for (int c = 0; c < t.channels; ++c) {
    const int at = (c / 4 % 4) * (V::width / 4) + c / 16 * 4 + c % 4;
    float f = static_cast<float>(sums[at]) * t.multiplier[at];
    if (e.residual == Int8Residual::byte) {
      const int byte = residual[c] ^ e.residual_flip;
      f = f + static_cast<float>(byte - e.residual_zero) * e.residual_multiplier;
    } else if (e.residual == Int8Residual::f32) {
      float r;
      __builtin_memcpy(&r, residual + 4 * c, 4);
      f = f + r * e.residual_multiplier;
    }
    f = f > e.lo ? f : e.lo;
    f = f < e.hi ? f : e.hi;
    if (e.y_float) {
      __builtin_memcpy(y + 4 * c, &f, 4);
    } else {
      const float rounded = (f + 12582912.0f) - 12582912.0f;
      y[c] = static_cast<uint8_t>((static_cast<int32_t>(rounded) + e.y_zero) ^ e.y_flip);
    }
  }
}

// A float result, with a float residual or none. Whole blocks in each loop, so that the compiler
// makes vectors of them. Static multipliers lie in the order of the sums, dynamic ones in that of
// the channels.
template <class V>
[[gnu::noinline]] void finish_float_pixel(const DepthwiseInt8Tile& t, const int32_t* sums,
                                          uint8_t* y, const uint8_t* residual) {
  constexpr int width = V::width;
  const Int8Epilogue& e = *t.epilogue;
  alignas(64) float g[width], f[width];
  for (int i = 0; i < width; ++i) g[i] = static_cast<float>(sums[i]);
  if (!t.dynamic)
    for (int i = 0; i < width; ++i) g[i] = g[i] * t.multiplier[i];
  for (int c = 0; c < width; c += 4)
    __builtin_memcpy(f + c, g + (c / 4 % 4) * (width / 4) + c / 16 * 4, 16);
  if (t.dynamic)
    for (int c = 0; c < width; ++c) f[c] = f[c] * t.multiplier[c];
  if (t.float_bias)
    for (int c = 0; c < width; ++c) f[c] = f[c] + t.float_bias[c];
  if (residual) {
    alignas(64) float r[width] = {};
    __builtin_memcpy(r, residual, static_cast<unsigned>(t.channels) * 4U);
    for (int c = 0; c < width; ++c) f[c] = f[c] + r[c] * e.residual_multiplier;
  }
  const float lo = e.lo, hi = e.hi;
  for (int c = 0; c < width; ++c) f[c] = f[c] > lo ? f[c] : lo;
  for (int c = 0; c < width; ++c) f[c] = f[c] < hi ? f[c] : hi;
  __builtin_memcpy(y, f, static_cast<unsigned>(t.channels) * 4U);
}

// The general epilogue of C pixels.
template <class V>
[[gnu::noinline]] void finish_pixels(const DepthwiseInt8Tile& t, const int32_t* sums, int count,
                                     int64_t row, int64_t col) {
  uint8_t* y = static_cast<uint8_t*>(t.y) + row * t.y_row_step + col * t.y_step;
  const auto* residual = static_cast<const uint8_t*>(t.residual);
  if (residual) residual += row * t.residual_row_step + col * t.residual_step;
  const Int8Epilogue& e = *t.epilogue;
  const bool floats = t.dynamic || (e.y_float && e.residual != Int8Residual::byte);
  const auto finish = floats ? finish_float_pixel<V> : finish_pixel<V>;
  for (int j = 0; j < count; ++j)
    finish(t, sums + j * V::width, y + j * t.y_step,
           residual ? residual + j * t.residual_step : nullptr);
}

// Inlined, so that sums stay in registers.
template <class V, int C, bool full>
[[gnu::always_inline]] inline void store_pixels(const DepthwiseInt8Tile& t,
                                                typename V::Int (&acc)[C][4], int64_t row,
                                                int64_t col) {
  if (!t.epilogue->narrow) {
    alignas(64) int32_t sums[C * V::width];
#pragma GCC unroll 16
    for (int j = 0; j < C; ++j)
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) V::store_sums(sums + j * V::width + q * V::width / 4, acc[j][q]);
    return finish_pixels<V>(t, sums, C, row, col);
  }
  const typename V::Narrow narrow(*t.epilogue);
  uint8_t* y = static_cast<uint8_t*>(t.y) + row * t.y_row_step + col * t.y_step;
  typename V::Bytes v[C];
#pragma GCC unroll 16
  for (int j = 0; j < C; ++j) {
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) acc[j][q] = V::scaled(acc[j][q], t.multiplier + q * V::width / 4);
    v[j] = narrow.interleaved(acc[j][0], acc[j][1], acc[j][2], acc[j][3]);
  }
#pragma GCC unroll 16
  for (int j = 0; j < C; ++j, y += t.y_step) {
    if (full)
      V::store(y, v[j]);
    else
      V::store_first(y, v[j], t.channels);
  }
}

// Any window, one output pixel.
template <class V>
[[gnu::noinline]] void any_pixel(const DepthwiseInt8Tile& t, int64_t row, int64_t col) {
  typename V::Int acc[1][4];
  for (int q = 0; q < 4; ++q) acc[0][q] = V::load_sums(t.bias + q * V::width / 4);
  const uint8_t* const* pixels = t.pixels + row * t.stride_h * t.pixels_step + col * t.stride_w;
  const auto* w = static_cast<const typename V::Weight*>(t.weights);
  const typename V::Some some(t.channels, t.x_flip);
  for (int64_t ky = 0; ky < t.kh; ky += 4)
    for (int64_t kx = 0; kx < t.kw; ++kx, w += 4 * V::width) {
      typename V::Bytes rows[4];
      for (int i = 0; i < 4; ++i)
        rows[i] =
            ky + i < t.kh
                ? some.load(t.first_channel +
                            pixels[(ky + i) * t.dilation_h * t.pixels_step + kx * t.dilation_w])
                : V::zero();
      typename V::Acts v[4];
      V::interleave(rows, v);
      for (int q = 0; q < 4; ++q) V::dot(acc[0][q], v[q], w + q * V::width);
    }
  store_pixels<V, 1, false>(t, acc, row, col);
}

// A window known to the compiler, C neighbouring output pixels: each input column is interleaved
// once for all of them. `full`: unsigned, and every channel of the block exists.
template <class V, int K, int S, int C, bool full>
[[gnu::noinline]] void window_pixels(const DepthwiseInt8Tile& t, int64_t row, int64_t col) {
  typename V::Int acc[C][4];
#pragma GCC unroll 16
  for (int q = 0; q < 4; ++q) {
    const auto bias = V::load_sums(t.bias + q * V::width / 4);
#pragma GCC unroll 16
    for (int j = 0; j < C; ++j) acc[j][q] = bias;
  }
  const uint8_t* const* pixels = t.pixels + row * S * t.pixels_step + col * S;
  const auto* weights = static_cast<const typename V::Weight*>(t.weights);
  const typename V::Some some(t.channels, t.x_flip);
#pragma GCC unroll 2
  for (int ky = 0; ky < K; ky += 4)
#pragma GCC unroll 16
    for (int c = 0; c < (C - 1) * S + K; ++c) {
      typename V::Bytes rows[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        if (ky + i >= K) {
          rows[i] = V::zero();
          continue;
        }
        const uint8_t* p = pixels[(ky + i) * t.pixels_step + c];
        rows[i] = full ? V::load(p + t.first_channel) : some.load(p + t.first_channel);
      }
      typename V::Acts v[4];
      V::interleave(rows, v);
#pragma GCC unroll 16
      for (int j = 0; j < C; ++j) {
        const int kx = c - j * S;
        if (kx < 0 || kx >= K) continue;
        const auto* w = weights + (ky / 4 * K + kx) * 4 * V::width;
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q) V::dot(acc[j][q], v[q], w + q * V::width);
      }
    }
  store_pixels<V, C, full>(t, acc, row, col);
}

template <class V, int K, int S, bool full>
void window_rows(const DepthwiseInt8Tile& t) {
  constexpr int C = V::columns;
  // Nearly equal numbers of columns, so C or C - 1 unless the row is short.
  const int64_t count = (t.cols + C - 1) / C, few = t.cols / count, more = t.cols % count;
  for (int64_t row = 0; row < t.rows; ++row)
    for (int64_t i = 0, col = 0; i < count; ++i) {
      const int64_t cols = few + (i < more);
      if (cols == C)
        window_pixels<V, K, S, C, full>(t, row, col);
      else if (cols == C - 1)
        window_pixels<V, K, S, C - 1, full>(t, row, col);
      else
        for (int64_t c = 0; c < cols; ++c) any_pixel<V>(t, row, col + c);
      col += cols;
    }
}

template <class V, int K, int S>
void window_tile(const DepthwiseInt8Tile& t) {
  if (t.channels == V::width && t.x_flip == 0)
    window_rows<V, K, S, true>(t);
  else
    window_rows<V, K, S, false>(t);
}

template <class V>
void depthwise_tile(const DepthwiseInt8Tile& t) {
  const bool plain =
      t.kh == t.kw && t.stride_h == t.stride_w && t.dilation_h == 1 && t.dilation_w == 1;
  if (plain && t.kh == 3 && t.stride_h == 1) return window_tile<V, 3, 1>(t);
  if (plain && t.kh == 3 && t.stride_h == 2) return window_tile<V, 3, 2>(t);
  if (plain && t.kh == 5 && t.stride_h == 1) return window_tile<V, 5, 1>(t);
  if (plain && t.kh == 5 && t.stride_h == 2) return window_tile<V, 5, 2>(t);
  if (plain && t.kh == 7 && t.stride_h == 1) return window_tile<V, 7, 1>(t);
  for (int64_t row = 0; row < t.rows; ++row)
    for (int64_t col = 0; col < t.cols; ++col) any_pixel<V>(t, row, col);
}

}  // namespace octavo::cpu
