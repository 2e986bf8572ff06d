// attention_rows.h over a `Vec` of vec_*.h, which must come first.
#pragma once
#include "backends/cpu/attention_rows.h"
#include "backends/cpu/vec_math.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

inline VecF load_lanes(const float* p, int64_t n) {
  return n >= Vec::width ? Vec::load(p) : Vec::load_n(p, static_cast<int>(n));
}
inline void store_lanes(float* p, VecF v, int64_t n) {
  if (n >= Vec::width)
    Vec::store(p, v);
  else
    Vec::store_n(p, v, static_cast<int>(n));
}
inline void store_byte_lanes(uint8_t* p, Vec::I v, int64_t n) {
  if (n >= Vec::width)
    Vec::store_byte(p, v);
  else
    Vec::store_byte_n(p, v, static_cast<int>(n));
}

// Maxima of rows do not depend on the order.
inline float largest(const float* x, int64_t count) {
  constexpr int W = Vec::width;
  VecF most = Vec::set(-__builtin_inff());
  int64_t i = 0;
  for (; i + W <= count; i += W) most = Vec::max(Vec::load(x + i), most);
  alignas(64) float lanes[W];
  Vec::store(lanes, most);
  for (int lane = 0; i < count; ++i, ++lane) lanes[lane] = x[i] > lanes[lane] ? x[i] : lanes[lane];
  float result = lanes[0];
  for (int lane = 1; lane < W; ++lane) result = lanes[lane] > result ? lanes[lane] : result;
  return result;
}

int32_t exp2_steps(const float* x, int64_t count, int64_t padded, uint8_t* y) {
  constexpr int W = Vec::width;
  const VecF most = Vec::set(largest(x, count));
  const VecF least = constant(-30.0f), one = constant(1.0f), scale = constant(255.0f);
  Vec::I sum = Vec::set_int(0);
  alignas(64) int32_t lanes[W];
  int32_t total = 0;
  for (int64_t i = 0; i < count; i += W) {
    // NaN, which a row of -inf gives, goes to `least`.
    const VecF t = Vec::max(Vec::sub(load_lanes(x + i, count - i), most), least);
    const Vec::I n = Vec::round(t);
    const VecF r = Vec::sub(t, Vec::to_float(n));
    VecF p = Vec::add(Vec::mul(constant(exp2_c4), r), constant(exp2_c3));
    p = Vec::add(Vec::mul(p, r), constant(exp2_c2));
    p = Vec::add(Vec::mul(p, r), constant(exp2_c1));
    p = Vec::add(Vec::mul(p, r), one);
    const Vec::I steps = Vec::round(Vec::mul(Vec::mul(p, scale), power_of_2(n)));
    store_byte_lanes(y + i, steps, count - i);
    if (count - i >= W) {
      sum = Vec::add_int(sum, steps);
    } else {
      Vec::store_int(lanes, steps);
      for (int64_t k = 0; k < count - i; ++k) total += lanes[k];
    }
  }
  Vec::store_int(lanes, sum);
  for (int k = 0; k < W; ++k) total += lanes[k];
  for (int64_t i = count; i < padded; ++i) y[i] = 0;
  return total;
}

float exp_row(float* x, int64_t count, float multiplier, const float* mask) {
  constexpr int W = Vec::width;
  const VecF factor = Vec::set(multiplier);
  for (int64_t i = 0; i < count; i += W) {
    VecF v = Vec::mul(load_lanes(x + i, count - i), factor);
    if (mask) v = Vec::add(v, load_lanes(mask + i, count - i));
    store_lanes(x + i, v, count - i);
  }
  const VecF most = Vec::set(largest(x, count));
  VecF sum = Vec::set(0);
  alignas(64) float lanes[W];
  float total = 0;
  for (int64_t i = 0; i < count; i += W) {
    const VecF e = exp_f32(Vec::sub(load_lanes(x + i, count - i), most));
    store_lanes(x + i, e, count - i);
    if (count - i >= W)
      sum = Vec::add(sum, e);
    else
      for (int64_t k = i; k < count; ++k) total += x[k];
  }
  Vec::store(lanes, sum);
  for (int k = 0; k < W; ++k) total += lanes[k];
  return total;
}

void finish_steps(const float* sums, int64_t count, float correction, float multiplier,
                  const Int8Epilogue& e, void* y) {
  const VecF subtract = Vec::set(correction), factor = Vec::set(multiplier);
  const VecF lo = Vec::set(e.lo), hi = Vec::set(e.hi);
  const Vec::I zero = Vec::set_int(e.y_zero), flip = Vec::set_int(e.y_flip);
  for (int64_t i = 0; i < count; i += Vec::width) {
    VecF f = Vec::mul(Vec::sub(load_lanes(sums + i, count - i), subtract), factor);
    f = Vec::min(Vec::max(f, lo), hi);
    if (e.y_float)
      store_lanes(static_cast<float*>(y) + i, f, count - i);
    else
      store_byte_lanes(static_cast<uint8_t*>(y) + i,
                       Vec::xor_int(Vec::add_int(Vec::round(f), zero), flip), count - i);
  }
}

void divide(const float* sums, int64_t count, float divisor, float* y) {
  const VecF by = Vec::set(divisor);
  for (int64_t i = 0; i < count; i += Vec::width)
    store_lanes(y + i, Vec::div(load_lanes(sums + i, count - i), by), count - i);
}

constexpr AttentionRows attention_rows{exp2_steps, exp_row, finish_steps, divide};

}  // namespace
}  // namespace octavo::cpu
