// The register-blocked INT8 microkernel, written once over a vector type V of 16 lanes. Include
// only from gemm_int8_<isa>.cpp, with V in an anonymous namespace there, so that no two
// instruction sets share an instantiation.
#pragma once
#include "backends/cpu/int8_data.h"

namespace octavo::cpu {

template <class V>
void finish16(const int32_t* acc, const float* multiplier, const Int8Epilogue& e,
              const uint8_t* residual, uint8_t* y) {
  typename V::Float f = V::mul(V::to_float(V::load(acc)), V::load_float(multiplier));
  if (e.residual == Int8Residual::byte) {
    const auto r =
        V::to_float(V::sub(V::load_bytes(residual, e.residual_flip), V::all(e.residual_zero)));
    f = V::add(f, V::mul(r, V::all_float(e.residual_multiplier)));
  } else if (e.residual == Int8Residual::f32) {
    const auto r = V::load_float(reinterpret_cast<const float*>(residual));
    f = V::add(f, V::mul(r, V::all_float(e.residual_multiplier)));
  }
  f = V::max(f, V::mul(f, V::all_float(e.slope)));
  f = V::min(V::max(f, V::all_float(e.lo)), V::all_float(e.hi));
  if (e.y_float)
    V::store_float(reinterpret_cast<float*>(y), f);
  else
    V::store_bytes(y, V::plus(V::round(f), e.y_zero), e.y_flip);
}

// The same where the scale and zero point of x come with the call; y is float.
template <class V>
void finish16_dynamic(const GemmInt8Tile& t, const int32_t* acc, int channel, int64_t pixel,
                      const uint8_t* residual, uint8_t* y) {
  const Int8Epilogue& e = *t.epilogue;
  const int64_t at = pixel * t.x_step;
  const auto sum = V::sub(V::load(acc), V::times(V::load(t.weight_sums + channel), t.x_zero[at]));
  typename V::Float f = V::mul(
      V::to_float(sum), V::mul(V::all_float(t.x_scale[at]), V::load_float(t.multiplier + channel)));
  if (t.float_bias) f = V::add(f, V::load_float(t.float_bias + channel));
  if (residual) {
    const auto r = V::load_float(reinterpret_cast<const float*>(residual));
    f = V::add(f, V::mul(r, V::all_float(e.residual_multiplier)));
  }
  f = V::max(f, V::mul(f, V::all_float(e.slope)));
  f = V::min(V::max(f, V::all_float(e.lo)), V::all_float(e.hi));
  V::store_float(reinterpret_cast<float*>(y), f);
}

// The general epilogue: `rows` x `blocks` * 16 sums in `acc`.
template <class V>
[[gnu::noinline]] void finish(const GemmInt8Tile& t, const int32_t* acc, int64_t pixel, int rows,
                              int first_block, int blocks) {
  const Int8Epilogue& e = *t.epilogue;
  const int y_size = e.y_float ? 4 : 1, r_size = e.residual == Int8Residual::f32 ? 4 : 1;
  alignas(64) uint8_t y_tail[64], r_tail[64] = {};
  for (int i = 0; i < rows; ++i) {
    auto* y_row = static_cast<uint8_t*>(t.y) + (pixel + i) * t.y_step;
    const uint8_t* r_row = static_cast<const uint8_t*>(t.residual);
    if (r_row) r_row += (pixel + i) * t.residual_step;
    for (int b = 0; b < blocks; ++b) {
      const int channel = (first_block + b) * 16;
      const int count = t.channels - channel < 16 ? t.channels - channel : 16;
      if (count <= 0) break;
      const int32_t* sums = acc + (i * blocks + b) * 16;
      const uint8_t* r = r_row ? r_row + channel * r_size : nullptr;
      uint8_t* y = y_row + channel * y_size;
      const auto apply = [&](const uint8_t* from, uint8_t* to) {
        if (t.x_scale)
          finish16_dynamic<V>(t, sums, channel, pixel + i, r ? from : nullptr, to);
        else
          finish16<V>(sums, t.multiplier + channel, e, from, to);
      };
      if (count == 16) {
        apply(r, y);
      } else {
        if (r) __builtin_memcpy(r_tail, r, static_cast<unsigned>(count * r_size));
        apply(r_tail, y_tail);
        __builtin_memcpy(y, y_tail, static_cast<unsigned>(count * y_size));
      }
    }
  }
}

template <class V, int R, int B>
[[gnu::noinline]] void gemm_block(const GemmInt8Tile& t, int64_t pixel, int first_block,
                                  const int8_t* ahead) {
  typename V::Int acc[R][B];
#pragma GCC unroll 16
  for (int b = 0; b < B; ++b) {
    const auto bias = V::load(t.bias + (first_block + b) * 16);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) acc[i][b] = bias;
  }
  const int64_t step = t.pixel_step, w_step = t.blocks * 64;
  const int8_t* w = t.weights + first_block * 64;
  const uint8_t* a0 = t.a + pixel * step;
  for (int64_t s = 0; s < t.segments; ++s) {
    // One pointer for four pixels: x86 addresses base, base + step, + 2 step, + 3 step.
    const uint8_t* a[(R + 3) / 4];
#pragma GCC unroll 16
    for (int g = 0; g < (R + 3) / 4; ++g) a[g] = a0 + t.segment_at[s] + 4 * g * step;
    for (int64_t k = 0; k < t.k4; ++k) {
      typename V::Weights wv[B];
#pragma GCC unroll 16
      for (int b = 0; b < B; ++b) wv[b] = V::weights(w + b * 64);
      w += w_step;
      __builtin_prefetch(ahead, 0, 2);  // a cache line a turn
      ahead += 64;
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        const typename V::Acts av = V::acts(a[i / 4] + (i % 4) * step);
#pragma GCC unroll 16
        for (int b = 0; b < B; ++b) V::dot(acc[i][b], av, wv[b]);
      }
#pragma GCC unroll 16
      for (int g = 0; g < (R + 3) / 4; ++g) a[g] += 4;
    }
  }
  if constexpr (V::narrow_stores) {
    if (t.epilogue->narrow) {
      V::template store_narrow<R, B>(t, acc, pixel, first_block);
      return;
    }
    if (t.epilogue->y_float && t.epilogue->residual != Int8Residual::byte) {
      V::template store_floats<R, B>(t, acc, pixel, first_block);
      return;
    }
  }
  alignas(64) int32_t sums[R * B * 16];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 16
    for (int b = 0; b < B; ++b) V::store(sums + (i * B + b) * 16, acc[i][b]);
  finish<V>(t, sums, pixel, R, first_block, B);
}

using GemmBlock = void (*)(const GemmInt8Tile&, int64_t, int, const int8_t*);

template <class V, int B, int... R>
constexpr GemmBlock pick(int rows) {
  constexpr GemmBlock table[] = {gemm_block<V, (R <= V::rows[B] ? R : 1), B>...};
  return table[rows - 1];
}

template <class V, int B>
void gemm_panel(const GemmInt8Tile& t, int first_block) {
  // Blocks of nearly equal height: a lone last row would wait for its own latency.
  const int64_t count = (t.pixels + V::rows[B] - 1) / V::rows[B];
  const int64_t height = t.pixels / count, taller = t.pixels % count;
  const int64_t fetched = t.segments * t.k4 * 64;
  const int8_t* ahead = t.ahead ? t.ahead : t.weights;
  for (int64_t i = 0, pixel = 0; i < count; ++i) {
    const int rows = static_cast<int>(height + (i < taller));
    pick<V, B, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14>(rows)(t, pixel, first_block, ahead);
    pixel += rows;
    // What is there already costs nothing.
    ahead = ahead != t.weights && t.ahead_end - ahead > fetched ? ahead + fetched : t.weights;
  }
}

template <class V>
void gemm_tile(const GemmInt8Tile& t) {
  if constexpr (V::max_blocks == 1) {
    for (int b = 0; b < t.blocks; ++b) gemm_panel<V, 1>(t, b);
  } else {
    switch (t.blocks) {
      case 1:
        return gemm_panel<V, 1>(t, 0);
      case 2:
        return gemm_panel<V, 2>(t, 0);
      case 3:
        return gemm_panel<V, 3>(t, 0);
      default:
        return gemm_panel<V, 4>(t, 0);
    }
  }
}

}  // namespace octavo::cpu
