// Layer normalization of rows:
//   y = (x - mean) * inverse * scale + bias, inverse = 1 / sqrt(variance + epsilon)
//   q = conv.h's clamp, round, saturate of y * multiplier
// Sums have 64 lanes, lane i of the elements i, i + 64, …, added by halves; products and sums are
// rounded apart. So all kernels of the list are equal bit for bit.
#pragma once
#include <limits>

#include "backends/cpu/kernel_list.h"

namespace octavo::cpu {

struct LayerNorm {
  int64_t rows = 1, count = 1;
  const float* x = nullptr;
  const float* scale = nullptr;  // [count]
  const float* bias = nullptr;   // [count] or none
  float epsilon = 0;
  float* y = nullptr;  // or none; may be x
  void* q = nullptr;   // or none
  Element q_element = Element::u8;
  float multiplier = 1;
  float clamp_lo = -std::numeric_limits<float>::infinity();
  float clamp_hi = std::numeric_limits<float>::infinity();
  int32_t q_zero_point = 0;
};
KernelList<LayerNorm> layer_norm_kernels();

}  // namespace octavo::cpu
