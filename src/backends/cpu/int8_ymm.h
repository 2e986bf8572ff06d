// 16 lanes in two 256-bit registers, for the INT8 kernels on AVX2. In an anonymous namespace on
// purpose: each including source gets its own.
#pragma once
#include <immintrin.h>

#include "backends/cpu/int8_data.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

struct Ymm {
  struct Int {
    __m256i a, b;
  };
  struct Float {
    __m256 a, b;
  };
  struct Acts {
    __m256i even, odd;  // 16-bit lanes
  };
  struct Weights {
    __m256i even[2], odd[2];
  };
  static constexpr int max_blocks = 1;
  static constexpr bool narrow_stores = false;
  static constexpr int rows[2] = {0, 4};

  static __m256i load8(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static Int load(const int32_t* p) { return {load8(p), load8(p + 8)}; }
  static void store(int32_t* p, Int v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v.a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), v.b);
  }
  static Int all(int32_t v) { return {_mm256_set1_epi32(v), _mm256_set1_epi32(v)}; }
  static Int sub(Int x, Int y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
  static Int plus(Int x, int32_t y) {
    return {_mm256_add_epi32(x.a, _mm256_set1_epi32(y)),
            _mm256_add_epi32(x.b, _mm256_set1_epi32(y))};
  }
  static Int times(Int x, int32_t y) {
    return {_mm256_mullo_epi32(x.a, _mm256_set1_epi32(y)),
            _mm256_mullo_epi32(x.b, _mm256_set1_epi32(y))};
  }
  static Float load_float(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void store_float(float* p, Float v) {
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
  }
  static Float all_float(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
  static Float to_float(Int v) { return {_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)}; }
  static Int round(Float v) { return {_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b)}; }
  static Float mul(Float x, Float y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static Float add(Float x, Float y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static Float max(Float x, Float y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static Float min(Float x, Float y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  static Int load_bytes(const uint8_t* p, uint8_t flip) {
    const __m128i v = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)),
                                    _mm_set1_epi8(static_cast<char>(flip)));
    return {_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8))};
  }
  // Values are in the range of a byte already.
  static void store_bytes(uint8_t* p, Int v, uint8_t flip) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(v.a, v.b), 0xd8);
    const __m128i bytes =
        _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm_xor_si128(bytes, _mm_set1_epi8(static_cast<char>(flip))));
  }

  static Acts acts(const uint8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    const __m256i v = _mm256_set1_epi32(four);
    return {_mm256_and_si256(v, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(v, 8)};
  }
  static Weights weights(const int8_t* p) {
    const __m256i a = load8(p), b = load8(p + 32);
    return {{_mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8),
             _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8)},
            {_mm256_srai_epi16(a, 8), _mm256_srai_epi16(b, 8)}};
  }
  static void dot(Int& acc, const Acts& x, const Weights& w) {
    acc.a = _mm256_add_epi32(acc.a, _mm256_madd_epi16(x.even, w.even[0]));
    acc.b = _mm256_add_epi32(acc.b, _mm256_madd_epi16(x.even, w.even[1]));
    acc.a = _mm256_add_epi32(acc.a, _mm256_madd_epi16(x.odd, w.odd[0]));
    acc.b = _mm256_add_epi32(acc.b, _mm256_madd_epi16(x.odd, w.odd[1]));
  }
};

}  // namespace
}  // namespace octavo::cpu
