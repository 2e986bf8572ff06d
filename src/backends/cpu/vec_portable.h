// 4 lanes in the compiler's own vector type, for any processor. The three vec_*.h define the same
// `Vec`; in an anonymous namespace on purpose: each including source gets its own.
#pragma once
#include <cstdint>

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

struct Vec {
  using Scalar = float;
  static constexpr int width = 4;
  typedef float F __attribute__((vector_size(16)));
  typedef int32_t I __attribute__((vector_size(16)));
  using B = I;

  static F load(const float* p) {
    F v;
    __builtin_memcpy(&v, p, 16);
    return v;
  }
  static F load_n(const float* p, int n) {
    F v{};
    for (int i = 0; i < n; ++i) v[i] = p[i];
    return v;
  }
  static void store(float* p, F v) { __builtin_memcpy(p, &v, 16); }
  // Past the caches where the processor can; p is aligned to the vector.
  static void stream(float* p, F v) { store(p, v); }
  static void store_n(float* p, F v, int n) {
    for (int i = 0; i < n; ++i) p[i] = v[i];
  }
  static F set(float v) { return F{v, v, v, v}; }
  static F add(F a, F b) { return a + b; }
  static F sub(F a, F b) { return a - b; }
  static F mul(F a, F b) { return a * b; }
  static F div(F a, F b) { return a / b; }
  // The second operand where either is NaN, as the instructions do.
  static F max(F a, F b) { return a > b ? a : b; }
  static F min(F a, F b) { return a < b ? a : b; }
  // a * b + c with one rounding or two.
  static F fma(F a, F b, F c) { return a * b + c; }
  static F sqrt(F a) {
    return F{__builtin_sqrtf(a[0]), __builtin_sqrtf(a[1]), __builtin_sqrtf(a[2]),
             __builtin_sqrtf(a[3])};
  }
  static F abs(F a) { return bits_to_float(float_to_bits(a) & 0x7fffffff); }
  // Of |a|, which is normal.
  static F power_of_two_below(F a) { return bits_to_float(float_to_bits(a) & 0x7f800000); }
  static B less(F a, F b) { return a < b; }
  static B is_nan(F a) { return a != a; }  // NOLINT(misc-redundant-expression)
  static F select(B condition, F yes, F no) { return condition ? yes : no; }
  static bool all(B condition) {
    bool every = true;
    for (int lane = 0; lane < width; ++lane) every = every && condition[lane] != 0;
    return every;
  }

  static I load_int(const int32_t* p) {
    I v;
    __builtin_memcpy(&v, p, 16);
    return v;
  }
  static void store_int(int32_t* p, I v) { __builtin_memcpy(p, &v, 16); }
  // Writes a whole vector, the lanes that count first: those that are not 0, or all. Returns how
  // many.
  static int store_nonzero(int32_t* p, I v) {
    store_int(p, v);
    return width;
  }
  // Writes the lanes that are not less than `least`, NaN too, and perhaps a whole vector; returns
  // how many.
  static int store_not_less(float* p, F v, F least) {
    int n = 0;
    for (int lane = 0; lane < width; ++lane)
      if (!(v[lane] < least[lane])) p[n++] = v[lane];
    return n;
  }
  static I set_int(int32_t v) { return I{v, v, v, v}; }
  static I add_int(I a, I b) { return a + b; }
  static I sub_int(I a, I b) { return a - b; }
  static I mul_int(I a, I b) { return a * b; }
  static I xor_int(I a, I b) { return a ^ b; }
  static I shift_left_23(I a) { return a << 23; }
  static I shift_right_1(I a) { return a >> 1; }
  static F to_float(I v) { return __builtin_convertvector(v, F); }
  // Half to even; |v| below 2^22.
  static I round(F v) {
    const F magic = set(12582912.0f);
    return __builtin_convertvector((v + magic) - magic, I);
  }
  static I truncate(F v) { return __builtin_convertvector(v, I); }
  static I max_int(I a, I b) { return a > b ? a : b; }
  static bool same(I a, I b) { return all(a == b); }
  static F bits_to_float(I v) { return reinterpret_cast<F>(v); }
  static I float_to_bits(F v) { return reinterpret_cast<I>(v); }

  // float16 and bfloat16 to and from float: half to even, the bits of graph/tensor.h.
  static F load_f16(const uint16_t* p) { return float_of_f16(load_u16(p)); }
  static F load_bf16(const uint16_t* p) {
    return bits_to_float(reinterpret_cast<I>(reinterpret_cast<U>(load_u16(p)) << 16));
  }
  static void store_f16(uint16_t* p, F v) { store_u16(p, f16_of_float(v)); }
  static void store_bf16(uint16_t* p, F v) { store_u16(p, float_to_bits(round_bf16(v)) >> 16); }
  static F round_f16(F v) { return float_of_f16(f16_of_float(v)); }
  static F round_bf16(F v) {
    const U bits = reinterpret_cast<U>(v), rounded = bits + 0x7fff + ((bits >> 16) & 1);
    const U kept = v != v ? bits | 0x400000 : rounded;  // NOLINT(misc-redundant-expression)
    return reinterpret_cast<F>(kept & 0xffff0000u);
  }

  // Bytes to and from int32; stores take values that fit.
  static I load_u8(const uint8_t* p) { return I{p[0], p[1], p[2], p[3]}; }
  static I load_u8_n(const uint8_t* p, int n) {
    I v{};
    for (int i = 0; i < n; ++i) v[i] = p[i];
    return v;
  }
  static I load_s8(const int8_t* p) { return I{p[0], p[1], p[2], p[3]}; }
  // The halves of bytes, less 8.
  static F low_nibble(I bytes) { return to_float((bytes & 15) - 8); }
  static F high_nibble(I bytes) { return to_float((bytes >> 4) - 8); }
  static void store_byte(void* p, I v) { store_byte_n(p, v, 4); }
  static void store_byte_n(void* p, I v, int n) {
    for (int i = 0; i < n; ++i) static_cast<uint8_t*>(p)[i] = static_cast<uint8_t>(v[i]);
  }

 private:
  typedef uint32_t U __attribute__((vector_size(16)));

  static I load_u16(const uint16_t* p) { return I{p[0], p[1], p[2], p[3]}; }
  static void store_u16(uint16_t* p, I v) {
    for (int i = 0; i < width; ++i) p[i] = static_cast<uint16_t>(v[i]);
  }
  static F float_of_f16(I half) {
    const I magnitude = half & 0x7fff;
    const I normal = (magnitude << 13) + 0x38000000;
    const I special = normal + 0x38000000;  // infinity, and NaN once it is quiet
    I bits = magnitude < 0x400 ? float_to_bits(to_float(magnitude) * 0x1p-24f) : normal;
    bits = magnitude >= 0x7c00 ? special : bits;
    bits |= (magnitude > 0x7c00) & 0x400000;
    return bits_to_float(bits | ((half & 0x8000) << 16));
  }
  static I f16_of_float(F v) {
    const I bits = float_to_bits(v), magnitude = bits & 0x7fffffff;
    // Unsigned: what is not a normal number in half may wrap around.
    const U raised = (U)magnitude - 0x38000000U + 0xfffU + (((U)magnitude >> 13) & 1U);
    const auto normal = (I)(raised >> 13);
    // Below float16's normal numbers adding 0.5 rounds at the last bit.
    const I small = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000;
    const I nan = ((magnitude >> 13) & 0x3ff) | 0x7e00;
    I half = magnitude < 0x38800000 ? small : normal;
    half = magnitude >= 0x477ff000 ? set_int(0x7c00) : half;
    half = magnitude > 0x7f800000 ? nan : half;
    return half | ((bits >> 16) & 0x8000);
  }
};

}  // namespace
}  // namespace octavo::cpu
