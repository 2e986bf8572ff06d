// 2 doubles in the compiler's own vector type, for any processor: what affine_kernel.h needs of a
// `Vec`. In an anonymous namespace on purpose: each including source gets its own.
#pragma once
#include <cstdint>

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

struct VecDouble {
  using Scalar = double;
  static constexpr int width = 2;
  typedef double F __attribute__((vector_size(16)));
  typedef int64_t I __attribute__((vector_size(16)));
  using B = I;

  static F load(const double* p) { return F{p[0], p[1]}; }
  static F load_n(const double* p, int) { return F{p[0], 0}; }
  static void store(double* p, F v) { __builtin_memcpy(p, &v, 16); }
  static void store_n(double* p, F v, int) { *p = v[0]; }
  static void stream(double* p, F v) { store(p, v); }
  static F set(double v) { return F{v, v}; }
  static F add(F a, F b) { return a + b; }
  static F sub(F a, F b) { return a - b; }
  static F mul(F a, F b) { return a * b; }
  static F div(F a, F b) { return a / b; }
  static F max(F a, F b) { return a > b ? a : b; }
  static F min(F a, F b) { return a < b ? a : b; }
  static F abs(F a) { return reinterpret_cast<F>(reinterpret_cast<I>(a) & INT64_MAX); }
  static B less(F a, F b) { return a < b; }
  static B is_nan(F a) { return a != a; }  // NOLINT(misc-redundant-expression)
  static F select(B condition, F yes, F no) { return condition ? yes : no; }
  static F power_of_two_below(F a) {
    return reinterpret_cast<F>(reinterpret_cast<I>(a) & 0x7ff0000000000000);
  }

  static I load_int(const int32_t* p) { return I{p[0], p[1]}; }
  static void store_int(int32_t* p, I v) {
    p[0] = static_cast<int32_t>(v[0]);
    p[1] = static_cast<int32_t>(v[1]);
  }
  static F to_float(I v) { return __builtin_convertvector(v, F); }
  static I round(F v) {
    const F magic = set(0x1.8p52);
    return __builtin_convertvector((v + magic) - magic, I);
  }
};

}  // namespace
}  // namespace octavo::cpu
