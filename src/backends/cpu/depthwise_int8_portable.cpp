#include "backends/cpu/int8_scalar.h"

namespace octavo::cpu {

void depthwise_int8_portable(const DepthwiseInt8Tile& t) {
  const uint8_t* const* row = t.pixels;
  for (int64_t r = 0; r < t.rows; ++r, row += t.stride_h * t.pixels_step)
    for (int64_t col = 0; col < t.cols; ++col) {
      int32_t acc[64];
      for (int c = 0; c < t.width; ++c) acc[c] = t.bias[c];
      const auto* w = static_cast<const int8_t*>(t.weights);
      for (int64_t ky = 0; ky < t.kh; ++ky)
        for (int64_t kx = 0; kx < t.kw; ++kx, w += t.width) {
          const uint8_t* x =
              row[ky * t.dilation_h * t.pixels_step + col * t.stride_w + kx * t.dilation_w] +
              t.first_channel;
          for (int c = 0; c < t.channels; ++c)
            acc[c] = static_cast<int32_t>(static_cast<uint32_t>(acc[c]) +
                                          static_cast<uint32_t>((x[c] ^ t.x_flip) * w[c]));
        }
      auto* y = static_cast<uint8_t*>(t.y) + r * t.y_row_step + col * t.y_step;
      const auto* residual = static_cast<const uint8_t*>(t.residual);
      if (residual) residual += r * t.residual_row_step + col * t.residual_step;
      for (int c = 0; c < t.channels; ++c) {
        if (t.dynamic)
          finish_dynamic_depthwise(acc[c], t, residual, c, y);
        else
          finish_int8(acc[c], t.multiplier[c], *t.epilogue, residual, c, y);
      }
    }
}

}  // namespace octavo::cpu
