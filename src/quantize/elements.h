// The arithmetics over memory of any owner: a Tensor's, torch's. Elements are dense; how parameters
// lie over them is a Spread's. T is the type that is computed in: float for f32, f16 and bf16 (one
// rounding to the stored type at the end), double for f64. Outputs may be inputs.
#pragma once
#include "backends/cpu/affine.h"
#include "graph/dtype.h"
#include "quantize/arithmetic.h"
#include "quantize/spread.h"

namespace octavo {

// Memory and what is in it.
struct Source {
  DType dtype;
  const void* data;
};
struct Target {
  DType dtype;
  void* data;
};

template <class T>
struct AffineElements {
  cpu::AffineScale how = cpu::AffineScale::divide;
  T least = 0, most = 0;
  const T* scale = nullptr;
  const T* zero = nullptr;  // whole, |zero| <= 2^21; null: zeros
  Spread spread;
};
cpu::AffineScale affine_scale(Arithmetic arithmetic, bool symmetric);

template <class T>
struct BoundsElements {
  const T* low = nullptr;
  const T* high = nullptr;
  Spread spread;
};

// The scale of the nvidia arithmetic, symmetric: 0 where amax counts as 0.
template <class T>
T nvidia_scale(T bound, T amax) {
  return amax <= T(0x1p-24) ? T(0) : bound / amax;
}

// q: i8, u8, i16 or u16, or the floats of T (whole numbers).
template <class T>
void quantize_elements(const AffineElements<T>& how, Source x, Target q);
template <class T>
void dequantize_elements(const AffineElements<T>& how, Source q, Target x);
// `refuse_negative`: false, and y unspecified, if an x is below 0.
template <class T>
bool fake_quantize_elements(const AffineElements<T>& how, Source x, Target y,
                            bool refuse_negative = false);
// True if an x is below 0.
bool any_negative(Source x, int64_t count);
// gx = g where the integer of x is within the bounds before it is clamped, else 0.
template <class T>
void fake_quantize_gradient(const AffineElements<T>& how, Source g, Source x, Target gx);
// LSQ (cpu/affine.h); gs, of parameter_count() doubles, is summed in float64 in an order that does
// not depend on the threads.
template <class T>
void step_gradient(const AffineElements<T>& how, Source g, Source x, Target gx, double* gs);

template <class T>
void clip_elements(const BoundsElements<T>& how, Source x, Target y);
// gx = g where low <= x <= high, else 0.
template <class T>
void inside_gradient(const BoundsElements<T>& how, Source g, Source x, Target gx);
// PACT: gx = g where low < x < high; gl and gh sum g where x <= low, and where x >= high.
template <class T>
void clip_gradient(const BoundsElements<T>& how, Source g, Source x, Target gx, double* gl,
                   double* gh);

// FP8 E4M3 of x * scale, over the scale.
template <class T>
void fp8_elements(const T* scale, const Spread& spread, Source x, Target y);

}  // namespace octavo
