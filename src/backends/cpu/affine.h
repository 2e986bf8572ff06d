// Runs of the three arithmetics of quantize/arithmetic.h, over int32 integers. Every step is one
// float32 rounding, so the kernels of all instruction sets are equal bit for bit.
#pragma once
#include <cstdint>

namespace octavo::cpu {

enum class AffineScale {
  multiply,    // r = x * s,        x' = (float)(q - z) / s; s = 0: q = z, x' = (float)(q - z)
  divide,      // r = x / s,        x' = (float)(q - z) * s
  reciprocal,  // r = x * (1 / s),  x' = (float)(q - z) * s
};

struct AffineRun {
  int64_t count = 0;
  AffineScale how = AffineScale::divide;
  bool per_element = false;  // scale[i], zero[i]; else scale[0], zero[0]
  float least = 0, most = 0;
  const float* scale = nullptr;
  const int32_t* zero = nullptr;  // |zero| <= 2^21
};

// q = clamp(round_half_even(r) + z, least, most); NaN counts as 0.
using AffineQuantize = void (*)(const AffineRun&, const float* x, int32_t* q);
using AffineDequantize = void (*)(const AffineRun&, const int32_t* q, float* x);

struct AffineKernels {
  AffineQuantize quantize;
  AffineDequantize dequantize;
};
// By best_isa().
const AffineKernels& affine_kernels();

}  // namespace octavo::cpu
