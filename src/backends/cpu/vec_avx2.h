// 8 lanes in a 256-bit register; see vec_portable.h.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

struct Vec {
  using Scalar = float;
  static constexpr int width = 8;
  using F = __m256;
  using I = __m256i;
  using B = __m256;

  static I first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static F load_n(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
  static void store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static void stream(float* p, F v) { _mm256_stream_ps(p, v); }
  static void store_n(float* p, F v, int n) { _mm256_maskstore_ps(p, first(n), v); }
  static F set(float v) { return _mm256_set1_ps(v); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F sqrt(F a) { return _mm256_sqrt_ps(a); }
  static F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  static F power_of_two_below(F a) { return _mm256_and_ps(a, bits_to_float(set_int(0x7f800000))); }
  static B less(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static B is_nan(F a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); }
  static F select(B condition, F yes, F no) { return _mm256_blendv_ps(no, yes, condition); }
  static bool all(B condition) { return _mm256_movemask_ps(condition) == 0xff; }

  static I load_int(const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static void store_int(int32_t* p, I v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  static int store_nonzero(int32_t* p, I v) {
    store_int(p, v);
    return width;
  }
  static int store_not_less(float* p, F v, F least) {
    int n = 0;
    float lanes[width];
    store(lanes, v);
    for (int kept = _mm256_movemask_ps(_mm256_cmp_ps(v, least, _CMP_NLT_UQ)); kept != 0;
         kept &= kept - 1)
      p[n++] = lanes[__builtin_ctz(static_cast<unsigned>(kept))];
    return n;
  }
  static I set_int(int32_t v) { return _mm256_set1_epi32(v); }
  static I add_int(I a, I b) { return _mm256_add_epi32(a, b); }
  static I sub_int(I a, I b) { return _mm256_sub_epi32(a, b); }
  static I mul_int(I a, I b) { return _mm256_mullo_epi32(a, b); }
  static I xor_int(I a, I b) { return _mm256_xor_si256(a, b); }
  static I shift_left_23(I a) { return _mm256_slli_epi32(a, 23); }
  static I shift_right_1(I a) { return _mm256_srai_epi32(a, 1); }
  static F to_float(I v) { return _mm256_cvtepi32_ps(v); }
  static I round(F v) { return _mm256_cvtps_epi32(v); }
  static I truncate(F v) { return _mm256_cvttps_epi32(v); }
  static I max_int(I a, I b) { return _mm256_max_epi32(a, b); }
  static bool same(I a, I b) { return _mm256_movemask_epi8(_mm256_cmpeq_epi32(a, b)) == -1; }
  static F bits_to_float(I v) { return _mm256_castsi256_ps(v); }
  static I float_to_bits(F v) { return _mm256_castps_si256(v); }

  static F load_f16(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static F load_bf16(const uint16_t* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return bits_to_float(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  static void store_f16(uint16_t* p, F v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  static void store_bf16(uint16_t* p, F v) {
    const I high = _mm256_srli_epi32(float_to_bits(round_bf16(v)), 16);
    const I packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
  static F round_f16(F v) { return _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)); }
  // In integers: the instruction of AVX-512 takes subnormal numbers for 0.
  static F round_bf16(F v) {
    const I bits = float_to_bits(v);
    const I even = _mm256_and_si256(_mm256_srli_epi32(bits, 16), set_int(1));
    const I rounded = add_int(add_int(bits, set_int(0x7fff)), even);
    const I quiet = _mm256_or_si256(bits, set_int(0x400000));
    const F kept = select(is_nan(v), bits_to_float(quiet), bits_to_float(rounded));
    return _mm256_and_ps(kept, bits_to_float(set_int(-0x10000)));
  }

  static I load_u8(const uint8_t* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static I load_u8_n(const uint8_t* p, int n) {
    alignas(8) uint8_t bytes[8] = {};
    for (int i = 0; i < n; ++i) bytes[i] = p[i];
    return load_u8(bytes);
  }
  static I load_s8(const int8_t* p) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static F low_nibble(I bytes) {
    return to_float(sub_int(_mm256_and_si256(bytes, set_int(15)), set_int(8)));
  }
  static F high_nibble(I bytes) {
    return to_float(sub_int(_mm256_srli_epi32(bytes, 4), set_int(8)));
  }
  static __m128i to_bytes(I v) {
    const __m256i low =
        _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                         -1, 0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i picked = _mm256_shuffle_epi8(v, low);
    return _mm_or_si128(_mm256_castsi256_si128(picked), _mm256_extracti128_si256(picked, 1));
  }
  static void store_byte(void* p, I v) { _mm_storel_epi64(static_cast<__m128i*>(p), to_bytes(v)); }
  static void store_byte_n(void* p, I v, int n) {
    alignas(8) uint8_t bytes[8];
    store_byte(bytes, v);
    for (int i = 0; i < n; ++i) static_cast<uint8_t*>(p)[i] = bytes[i];
  }
};

}  // namespace
}  // namespace octavo::cpu
