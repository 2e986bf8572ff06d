// The INT8 matrix product on tiles of 16 rows by 64 bytes (AMX), written once over tiles T: the
// processor's, or an emulation that proves packing, tails and epilogue on machines without AMX.
// V: 16 lanes for the epilogue. Weights are packed as for the vector kernels.
#pragma once
#include "backends/cpu/gemm_int8_kernel.h"
#include "backends/cpu/int8_data.h"

namespace octavo::cpu {

// The layout that LDTILECFG reads.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tiles 0 to 3: sums of pixels i and blocks j in tile 2 * i + j. 4, 5: pixels. 6, 7: weights.
template <class T, class V, int P, int B>
void tiles_block(T& tiles, const GemmInt8Tile& t, int64_t pixel, int rows, int first_block,
                 int k_step) {
  const int64_t w_step = t.blocks * 64;
  const int32_t* bias = t.bias + first_block * 16;
  tiles.template load<0>(bias, 0);  // stride 0: the same row in all
  if constexpr (B == 2) tiles.template load<1>(bias + 16, 0);
  if constexpr (P == 2) tiles.template load<2>(bias, 0);
  if constexpr (P == 2 && B == 2) tiles.template load<3>(bias + 16, 0);
  const int8_t* w = t.weights + first_block * 64;
  for (int64_t s = 0; s < t.segments; ++s) {
    const uint8_t* a = t.a + t.segment_at[s] + pixel * t.pixel_step;
    for (int64_t k = 0; k < t.k4; k += k_step, a += k_step * 4, w += k_step * w_step) {
      tiles.template load<4>(a, t.pixel_step);
      if constexpr (P == 2) tiles.template load<5>(a + 16 * t.pixel_step, t.pixel_step);
      tiles.template load<6>(w, w_step);
      tiles.template dot<0, 4, 6>();
      if constexpr (P == 2) tiles.template dot<2, 5, 6>();
      if constexpr (B == 2) {
        tiles.template load<7>(w + 64, w_step);
        tiles.template dot<1, 4, 7>();
        if constexpr (P == 2) tiles.template dot<3, 5, 7>();
      }
    }
  }
  alignas(64) int32_t sums[32 * B * 16];
  tiles.template store<0>(sums, B * 64);
  if constexpr (B == 2) tiles.template store<1>(sums + 16, B * 64);
  if constexpr (P == 2) tiles.template store<2>(sums + 16 * B * 16, B * 64);
  if constexpr (P == 2 && B == 2) tiles.template store<3>(sums + 16 * B * 16 + 16, B * 64);
  if (!t.epilogue->narrow) return finish<V>(t, sums, pixel, rows, first_block, B);
  constexpr int R = 4 / B;  // one vector of bytes
  int i = 0;
  for (; i + R <= rows; i += R) {
    typename V::Int acc[R][B];
    for (int r = 0; r < R; ++r)
      for (int b = 0; b < B; ++b) acc[r][b] = V::load(sums + ((i + r) * B + b) * 16);
    V::template store_narrow<R, B>(t, acc, pixel + i, first_block);
  }
  for (; i < rows; ++i) {
    typename V::Int acc[1][B];
    for (int b = 0; b < B; ++b) acc[0][b] = V::load(sums + (i * B + b) * 16);
    V::template store_narrow<1, B>(t, acc, pixel + i, first_block);
  }
}

template <class T, class V>
void gemm_tiles(const GemmInt8Tile& t) {
  const int k_step = tile_k_step(t.k4);
  T tiles;
  int configured = 0;
  for (int64_t pixel = 0; pixel < t.pixels; pixel += 32) {
    const int rows = t.pixels - pixel < 32 ? static_cast<int>(t.pixels - pixel) : 32;
    if (rows != configured) {
      TileConfig config;
      const auto set = [&](int tile, int tile_rows, int bytes) {
        config.rows[tile] = static_cast<uint8_t>(tile_rows);
        config.row_bytes[tile] = static_cast<uint16_t>(bytes);
      };
      for (int i = 0; i < 2; ++i) {
        const int own = rows > 16 ? (i == 0 ? 16 : rows - 16) : rows;
        set(2 * i, own, 64);
        set(2 * i + 1, own, 64);
        set(4 + i, own, k_step * 4);
        set(6 + i, k_step, 64);
      }
      tiles.configure(config);
      configured = rows;
    }
    for (int b = 0; b < t.blocks; b += 2) {
      const bool two = b + 1 < t.blocks;
      const auto block = rows > 16 ? (two ? tiles_block<T, V, 2, 2> : tiles_block<T, V, 2, 1>)
                                   : (two ? tiles_block<T, V, 1, 2> : tiles_block<T, V, 1, 1>);
      block(tiles, t, pixel, rows, b, k_step);
    }
  }
}

}  // namespace octavo::cpu
