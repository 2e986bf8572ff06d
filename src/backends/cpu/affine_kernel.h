// affine.h over a `Vec` of vec_*.h, which must come first.
#pragma once
#include "backends/cpu/affine.h"
#include "backends/cpu/elementwise_kernel.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

struct AffineParameters {
  Vec::F scale;
  Vec::I zero;
};

inline Vec::I load_ints_part(const int32_t* p, int n) {
  if (n == Vec::width) return Vec::load_int(p);
  alignas(64) int32_t part[Vec::width] = {};
  __builtin_memcpy(part, p, static_cast<size_t>(n) * sizeof *part);
  return Vec::load_int(part);
}

inline AffineParameters affine_parameters(const AffineRun& run, int64_t i, int n) {
  if (!run.per_element) return {Vec::set(*run.scale), Vec::set_int(*run.zero)};
  return {load_part(run.scale + i, n), load_ints_part(run.zero + i, n)};
}

void affine_quantize(const AffineRun& run, const float* x, int32_t* q) {
  const Vec::F least = Vec::set(run.least), most = Vec::set(run.most), one = Vec::set(1);
  for_vectors(0, run.count, [&](int64_t i, int n) {
    const AffineParameters p = affine_parameters(run, i, n);
    const Vec::F v = load_part(x + i, n), z = Vec::to_float(p.zero);
    Vec::F r = run.how == AffineScale::multiply ? Vec::mul(v, p.scale)
               : run.how == AffineScale::divide ? Vec::div(v, p.scale)
                                                : Vec::mul(v, Vec::div(one, p.scale));
    r = Vec::select(Vec::is_nan(r), Vec::set(0), r);
    // The bounds less zero are whole and exact, so clamping commutes with rounding and adding.
    r = Vec::min(Vec::max(r, Vec::sub(least, z)), Vec::sub(most, z));
    const Vec::I whole = Vec::add_int(Vec::round(r), p.zero);
    if (n == Vec::width) return Vec::store_int(q + i, whole);
    alignas(64) int32_t part[Vec::width];
    Vec::store_int(part, whole);
    __builtin_memcpy(q + i, part, static_cast<size_t>(n) * sizeof *part);
  });
}

void affine_dequantize(const AffineRun& run, const int32_t* q, float* x) {
  const Vec::F zero = Vec::set(0), one = Vec::set(1);
  for_vectors(0, run.count, [&](int64_t i, int n) {
    const AffineParameters p = affine_parameters(run, i, n);
    const Vec::F whole = Vec::to_float(Vec::sub_int(load_ints_part(q + i, n), p.zero));
    if (run.how != AffineScale::multiply) return store_part(x + i, Vec::mul(whole, p.scale), n);
    // Scales are not negative.
    const Vec::F scale = Vec::select(Vec::less(zero, p.scale), p.scale, one);
    store_part(x + i, Vec::div(whole, scale), n);
  });
}

}  // namespace
}  // namespace octavo::cpu
