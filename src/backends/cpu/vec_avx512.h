// 16 lanes in a 512-bit register; see vec_portable.h.
#pragma once
// g++ 12 warns of its own header, whose undefined operands are meant.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstdint>

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

struct Vec {
  using Scalar = float;
  static constexpr int width = 16;
  using F = __m512;
  using I = __m512i;
  using B = __mmask16;

  static __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static void stream(float* p, F v) { _mm512_stream_ps(p, v); }
  static void store_n(float* p, F v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }
  static F set(float v) { return _mm512_set1_ps(v); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F sqrt(F a) { return _mm512_sqrt_ps(a); }
  static F abs(F a) { return _mm512_abs_ps(a); }
  static F power_of_two_below(F a) { return _mm512_and_ps(a, bits_to_float(set_int(0x7f800000))); }
  static B less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static B is_nan(F a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
  static F select(B condition, F yes, F no) { return _mm512_mask_blend_ps(condition, no, yes); }
  static bool all(B condition) { return condition == 0xffff; }

  static I load_int(const int32_t* p) { return _mm512_loadu_si512(p); }
  static void store_int(int32_t* p, I v) { _mm512_storeu_si512(p, v); }
  static int store_nonzero(int32_t* p, I v) {
    const __mmask16 kept = _mm512_test_epi32_mask(v, v);
    _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(kept, v));
    return __builtin_popcount(kept);
  }
  static int store_not_less(float* p, F v, F least) {
    const __mmask16 kept = _mm512_cmp_ps_mask(v, least, _CMP_NLT_UQ);
    _mm512_storeu_ps(p, _mm512_maskz_compress_ps(kept, v));
    return __builtin_popcount(kept);
  }
  static I set_int(int32_t v) { return _mm512_set1_epi32(v); }
  static I add_int(I a, I b) { return _mm512_add_epi32(a, b); }
  static I sub_int(I a, I b) { return _mm512_sub_epi32(a, b); }
  static I mul_int(I a, I b) { return _mm512_mullo_epi32(a, b); }
  static I xor_int(I a, I b) { return _mm512_xor_si512(a, b); }
  static I shift_left_23(I a) { return _mm512_slli_epi32(a, 23); }
  static I shift_right_1(I a) { return _mm512_srai_epi32(a, 1); }
  static F to_float(I v) { return _mm512_cvtepi32_ps(v); }
  static I round(F v) { return _mm512_cvtps_epi32(v); }
  static I truncate(F v) { return _mm512_cvttps_epi32(v); }
  static I max_int(I a, I b) { return _mm512_max_epi32(a, b); }
  static bool same(I a, I b) { return _mm512_cmpeq_epi32_mask(a, b) == 0xffff; }
  static F bits_to_float(I v) { return _mm512_castsi512_ps(v); }
  static I float_to_bits(F v) { return _mm512_castps_si512(v); }

  static F load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F load_bf16(const uint16_t* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return bits_to_float(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  static void store_f16(uint16_t* p, F v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  static void store_bf16(uint16_t* p, F v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(float_to_bits(round_bf16(v)), 16)));
  }
  static F round_f16(F v) { return _mm512_cvtph_ps(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)); }
  // In integers: the instruction of AVX-512 takes subnormal numbers for 0.
  static F round_bf16(F v) {
    const I bits = float_to_bits(v);
    const I even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), set_int(1));
    const I rounded = add_int(add_int(bits, set_int(0x7fff)), even);
    const I kept = _mm512_mask_or_epi32(rounded, is_nan(v), bits, set_int(0x400000));
    return bits_to_float(_mm512_and_si512(kept, set_int(-0x10000)));
  }

  static I load_u8(const uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static I load_u8_n(const uint8_t* p, int n) {
    return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(n), p));
  }
  static I load_s8(const int8_t* p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  // A permutation looks at the low 4 bits of its indices only.
  static F low_nibble(I bytes) {
    return _mm512_permutexvar_ps(
        bytes, _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7));
  }
  static F high_nibble(I bytes) { return low_nibble(_mm512_srli_epi32(bytes, 4)); }
  static void store_byte(void* p, I v) {
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
  }
  static void store_byte_n(void* p, I v, int n) {
    _mm_mask_storeu_epi8(p, first(n), _mm512_cvtepi32_epi8(v));
  }
};

}  // namespace
}  // namespace octavo::cpu
