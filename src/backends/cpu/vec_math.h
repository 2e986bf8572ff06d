// exp and its relatives, and the clamp of float epilogues, over a `Vec` of vec_*.h, which must come
// first. elementwise.h states the errors.
#pragma once

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

using VecF = Vec::F;

inline VecF constant(float v) { return Vec::set(v); }

// NaN stays NaN: of two operands Vec::min and max give the second where one is.
inline VecF clamp(VecF v, VecF lo, VecF hi) { return Vec::min(hi, Vec::max(lo, v)); }

// a is a power of x in Horner's scheme: a * x + c.
inline VecF horner(VecF a, VecF x, float c) { return Vec::fma(a, x, Vec::set(c)); }

struct ExpParts {
  VecF fraction;  // exp(r) - 1, r the argument less n * ln 2
  Vec::I n;
};

// Cephes' expf. Beyond [-104, 89] the result is 0 or infinity whatever the argument.
inline ExpParts exp_parts(VecF x) {
  x = Vec::min(Vec::max(x, constant(-104.0f)), constant(89.0f));
  const Vec::I n = Vec::round(Vec::mul(x, constant(1.44269504088896341f)));
  const VecF whole = Vec::to_float(n);
  VecF r = Vec::fma(whole, constant(-0.693359375f), x);  // exact
  r = Vec::fma(whole, constant(2.12194440e-4f), r);
  VecF p = constant(1.9875691500e-4f);
  p = horner(p, r, 1.3981999507e-3f);
  p = horner(p, r, 8.3334519073e-3f);
  p = horner(p, r, 4.1665795894e-2f);
  p = horner(p, r, 1.6666665459e-1f);
  p = horner(p, r, 5.0000001201e-1f);
  return {Vec::fma(p, Vec::mul(r, r), r), n};
}

inline VecF power_of_2(Vec::I n) {
  return Vec::bits_to_float(Vec::shift_left_23(Vec::add_int(n, Vec::set_int(127))));
}

inline VecF keep_nan(VecF x, VecF y) { return Vec::select(Vec::is_nan(x), x, y); }

inline VecF exp_of(const ExpParts& parts) {
  // In two steps, as 2^128 and denormal numbers have no power of their own.
  const Vec::I half = Vec::shift_right_1(parts.n);
  const VecF y = Vec::mul(Vec::add(parts.fraction, constant(1.0f)), power_of_2(half));
  return Vec::mul(y, power_of_2(Vec::sub_int(parts.n, half)));
}

inline VecF exp_f32(VecF x) { return keep_nan(x, exp_of(exp_parts(x))); }

// exp(x) - 1 for x <= 0.
inline VecF expm1_f32(VecF x) {
  const ExpParts parts = exp_parts(x);
  const VecF far = Vec::sub(exp_of(parts), constant(1.0f));
  return keep_nan(x, Vec::select(Vec::less(Vec::abs(x), constant(0.3465f)), parts.fraction, far));
}

inline VecF negate(VecF x) { return Vec::sub(constant(-0.0f), x); }

inline VecF sigmoid_f32(VecF x) {
  const VecF one = constant(1.0f), e = exp_f32(negate(Vec::abs(x)));
  return Vec::div(Vec::select(Vec::less(x, constant(0.0f)), e, one), Vec::add(one, e));
}

inline VecF tanh_f32(VecF x) {
  const VecF a = Vec::abs(x), one = constant(1.0f);
  const VecF e = exp_f32(Vec::add(a, a));
  const VecF far = Vec::sub(one, Vec::div(constant(2.0f), Vec::add(e, one)));
  const VecF z = Vec::mul(x, x);
  VecF p = constant(-5.70498872745e-3f);
  p = horner(p, z, 2.06390887954e-2f);
  p = horner(p, z, -5.37397155531e-2f);
  p = horner(p, z, 1.33314422036e-1f);
  p = horner(p, z, -3.33332819422e-1f);
  const VecF near = Vec::fma(Vec::mul(p, z), x, x);
  const VecF signed_far = Vec::select(Vec::less(x, constant(0.0f)), negate(far), far);
  return Vec::select(Vec::less(a, constant(0.625f)), near, signed_far);
}

inline VecF erf_f32(VecF x) {
  const VecF t = Vec::abs(x), s = Vec::mul(x, x);
  VecF far = horner(constant(-1.72853470e-5f), t, 3.83197126e-4f);
  const VecF u = horner(constant(-3.88396438e-3f), t, 2.42546219e-2f);
  far = Vec::fma(far, s, u);
  far = horner(far, t, -1.06777877e-1f);
  far = horner(far, t, -6.34846687e-1f);
  far = horner(far, t, -1.28717512e-1f);
  far = Vec::fma(far, t, negate(t));
  // Beyond 4 the polynomial is no more an exponent of erfc, but erf is 1.
  far = Vec::sub(constant(1.0f), exp_f32(far));
  far = Vec::select(Vec::less(constant(4.0f), t), constant(1.0f), far);
  far = Vec::select(Vec::less(x, constant(0.0f)), negate(far), far);
  VecF near = constant(-5.96761703e-4f);
  near = horner(near, s, 4.99119423e-3f);
  near = horner(near, s, -2.67681349e-2f);
  near = horner(near, s, 1.12819925e-1f);
  near = horner(near, s, -3.76125336e-1f);
  near = horner(near, s, 1.28379166e-1f);
  near = Vec::fma(near, x, x);
  return Vec::select(Vec::less(t, constant(0.927734375f)), near, far);
}

inline VecF gelu_f32(VecF x) {
  const VecF erf = erf_f32(Vec::mul(x, constant(0.70710678118654752f)));
  return Vec::mul(Vec::mul(constant(0.5f), x), Vec::add(constant(1.0f), erf));
}

}  // namespace
}  // namespace octavo::cpu
