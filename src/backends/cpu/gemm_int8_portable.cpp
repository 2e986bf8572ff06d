#include "backends/cpu/int8_scalar.h"

namespace octavo::cpu {

void gemm_int8_portable(const GemmInt8Tile& t) {
  const int width = t.blocks * 16;
  for (int64_t pixel = 0; pixel < t.pixels; ++pixel) {
    uint32_t acc[64];  // unsigned: wrap-around is part of the arithmetic
    for (int c = 0; c < width; ++c) acc[c] = static_cast<uint32_t>(t.bias[c]);
    const int8_t* w = t.weights;
    for (int64_t s = 0; s < t.segments; ++s) {
      const uint8_t* a = t.a + pixel * t.pixel_step + t.segment_at[s];
      for (int64_t k = 0; k < t.k4; ++k, a += 4, w += width * 4)
        for (int c = 0; c < width; ++c)
          acc[c] += static_cast<uint32_t>(a[0] * w[4 * c] + a[1] * w[4 * c + 1] +
                                          a[2] * w[4 * c + 2] + a[3] * w[4 * c + 3]);
    }
    auto* y = static_cast<uint8_t*>(t.y) + pixel * t.y_step;
    const auto* residual = static_cast<const uint8_t*>(t.residual);
    if (residual) residual += pixel * t.residual_step;
    for (int c = 0; c < t.channels && t.x_scale; ++c)
      finish_dynamic(acc[c], t, pixel, c, reinterpret_cast<const float*>(residual),
                     reinterpret_cast<float*>(y));
    for (int c = 0; c < t.channels && !t.x_scale; ++c)
      finish_int8(static_cast<int32_t>(acc[c]), t.multiplier[c], *t.epilogue, residual, c, y);
  }
}

}  // namespace octavo::cpu
