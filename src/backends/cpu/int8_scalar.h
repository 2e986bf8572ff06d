// The epilogue of conv.h for one value, in plain C++.
#pragma once
#include <cstdint>

#include "backends/cpu/int8_data.h"

namespace octavo::cpu {

inline void finish_int8(int32_t acc, float multiplier, const Int8Epilogue& e, const void* residual,
                        int64_t at, void* y) {
  float f = static_cast<float>(acc) * multiplier;
  if (e.residual == Int8Residual::byte) {
    const int byte = static_cast<const uint8_t*>(residual)[at] ^ e.residual_flip;
    f = f + static_cast<float>(byte - e.residual_zero) * e.residual_multiplier;
  } else if (e.residual == Int8Residual::f32) {
    f = f + static_cast<const float*>(residual)[at] * e.residual_multiplier;
  }
  f = f < 0 ? f * e.slope : f;
  // As the vector units do: NaN goes to lo.
  f = f > e.lo ? f : e.lo;
  f = f < e.hi ? f : e.hi;
  if (e.y_float) {
    static_cast<float*>(y)[at] = f;
    return;
  }
  // The clamp keeps |f| below 512: adding 1.5 * 2^23 rounds to an integer, half to even.
  const float rounded = (f + 12582912.0f) - 12582912.0f;
  static_cast<uint8_t*>(y)[at] =
      static_cast<uint8_t>((static_cast<int32_t>(rounded) + e.y_zero) ^ e.y_flip);
}

}  // namespace octavo::cpu
