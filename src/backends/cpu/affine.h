// Runs of the three arithmetics of quantize/arithmetic.h, and of what training with them needs.
// T is float or double. Every step is one rounding of T, so the kernels of all instruction sets are
// equal bit for bit.
#pragma once
#include <cstdint>

namespace octavo::cpu {

enum class AffineScale {
  multiply,    // r = x * s,        x' = (q - z) / s; s = 0: q = z, x' = q - z
  divide,      // r = x / s,        x' = (q - z) * s
  reciprocal,  // r = x * (1 / s),  x' = (q - z) * s
};

template <class T>
struct AffineRun {
  int64_t count = 0;
  AffineScale how = AffineScale::divide;
  bool per_element = false;  // scale[i], zero[i]; else scale[0], zero[0]
  T least = 0, most = 0;     // whole, |least| and |most| <= 2^21
  const T* scale = nullptr;
  const T* zero = nullptr;  // whole, |zero| <= 2^21; null: zeros
};

// Values between bounds: low[i], high[i] or low[0], high[0].
template <class T>
struct BoundsRun {
  int64_t count = 0;
  bool per_element = false;
  const T* low = nullptr;
  const T* high = nullptr;
};

// FP8 E4M3 of x * scale, over the scale.
template <class T>
struct Fp8Run {
  int64_t count = 0;
  bool per_element = false;
  const T* scale = nullptr;
};

// Outputs may be inputs. g is the gradient of the output.
template <class T>
struct AffineKernels {
  // q = clamp(round_half_even(r) + z, least, most); NaN counts as 0.
  void (*quantize)(const AffineRun<T>&, const T* x, int32_t* q);
  void (*dequantize)(const AffineRun<T>&, const int32_t* q, T* x);
  // dequantize(quantize(x)); `stream` writes past the caches: fence before another thread reads.
  void (*fake)(const AffineRun<T>&, const T* x, T* y, bool stream);
  // g where round_half_even(r) + z is within the bounds, else 0 (of NaN too).
  void (*fake_gradient)(const AffineRun<T>&, const T* g, const T* x, T* gx);
  // LSQ, of AffineScale::divide, v = x / s: gx = g where least < v + z < most, else 0;
  // gs = g * (round_half_even(v) - v), g * (least - z) below and g * (most - z) above.
  void (*step_gradient)(const AffineRun<T>&, const T* g, const T* x, T* gx, T* gs);
  // max(low, min(high, x)); NaN stays.
  void (*clip)(const BoundsRun<T>&, const T* x, T* y);
  // g where low <= x <= high, else 0.
  void (*inside)(const BoundsRun<T>&, const T* g, const T* x, T* gx);
  // gx = g where low < x < high, else 0; gl = g where x <= low, gh = g where x >= high, else 0.
  void (*clip_gradient)(const BoundsRun<T>&, const T* g, const T* x, T* gx, T* gl, T* gh);
  // y = e4m3(x * s) / s: half to even, beyond 448 saturated; 0 where |x| < 2^-24; NaN stays.
  void (*fp8)(const Fp8Run<T>&, const T* x, T* y);
};
// By best_isa().
template <class T>
const AffineKernels<T>& affine_kernels();

}  // namespace octavo::cpu
