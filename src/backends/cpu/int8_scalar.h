// The epilogue of conv.h for one value, in plain C++.
#pragma once
#include <cstdint>

#include "backends/cpu/int8_data.h"

namespace octavo::cpu {

// Of a dynamic product: the scale and zero point of x come with the call; y is float.
inline void finish_dynamic(uint32_t acc, const GemmInt8Tile& t, int64_t pixel, int64_t at,
                           const float* residual, float* y) {
  const Int8Epilogue& e = *t.epilogue;
  const uint32_t zero = t.x_zero[pixel * t.x_step];
  const auto sum = static_cast<int32_t>(acc - static_cast<uint32_t>(t.weight_sums[at]) * zero);
  float f = static_cast<float>(sum) * (t.x_scale[pixel * t.x_step] * t.multiplier[at]);
  if (t.float_bias) f = f + t.float_bias[at];
  if (residual) f = f + residual[at] * e.residual_multiplier;
  f = f < 0 ? f * e.slope : f;
  f = f > e.lo ? f : e.lo;
  y[at] = f < e.hi ? f : e.hi;
}

inline void finish_dynamic_depthwise(int32_t acc, const DepthwiseInt8Tile& t, const void* residual,
                                     int at, void* y) {
  const Int8Epilogue& e = *t.epilogue;
  float f = static_cast<float>(acc) * t.multiplier[at];
  if (t.float_bias) f = f + t.float_bias[at];
  if (residual) f = f + static_cast<const float*>(residual)[at] * e.residual_multiplier;
  f = f > e.lo ? f : e.lo;
  static_cast<float*>(y)[at] = f < e.hi ? f : e.hi;
}

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
