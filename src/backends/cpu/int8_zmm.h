// 16 lanes in one 512-bit register, for the INT8 kernels; `vnni`: with the dot-product instruction.
// In an anonymous namespace on purpose: each including source gets its own.
#pragma once
#include <immintrin.h>

#include "backends/cpu/int8_data.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

struct PairZmm {
  __m512i even, odd;  // 16-bit lanes
};

template <bool vnni>
struct ZmmOperands;
template <>
struct ZmmOperands<true> {
  using Acts = __m512i;
  using Weights = __m512i;
};
template <>
struct ZmmOperands<false> {
  using Acts = PairZmm;
  using Weights = PairZmm;
};

template <bool vnni>
struct Zmm {
  using Int = __m512i;
  using Float = __m512;
  using Acts = typename ZmmOperands<vnni>::Acts;
  using Weights = typename ZmmOperands<vnni>::Weights;
  static constexpr int max_blocks = 4;
  static constexpr bool narrow_stores = true;
  // Pixels of a register block by channel blocks: sums, weights and one activation in 32 registers.
  static constexpr int rows[5] = {0, vnni ? 14 : 8, vnni ? 12 : 8, vnni ? 8 : 6, vnni ? 6 : 4};

  static Int load(const int32_t* p) { return _mm512_loadu_si512(p); }
  static void store(int32_t* p, Int v) { _mm512_storeu_si512(p, v); }
  static Int all(int32_t v) { return _mm512_set1_epi32(v); }
  static Int sub(Int a, Int b) { return _mm512_sub_epi32(a, b); }
  static Int plus(Int a, int32_t b) { return _mm512_add_epi32(a, _mm512_set1_epi32(b)); }
  static Int times(Int a, int32_t b) { return _mm512_mullo_epi32(a, _mm512_set1_epi32(b)); }
  static Float load_float(const float* p) { return _mm512_loadu_ps(p); }
  static void store_float(float* p, Float v) { _mm512_storeu_ps(p, v); }
  static Float all_float(float v) { return _mm512_set1_ps(v); }
  static Float to_float(Int v) { return _mm512_cvtepi32_ps(v); }
  static Int round(Float v) { return _mm512_cvtps_epi32(v); }
  static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
  static Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
  static Float min(Float a, Float b) { return _mm512_min_ps(a, b); }
  static Int load_bytes(const uint8_t* p, uint8_t flip) {
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm512_cvtepu8_epi32(_mm_xor_si128(v, _mm_set1_epi8(static_cast<char>(flip))));
  }
  static void store_bytes(uint8_t* p, Int v, uint8_t flip) {
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(p),
        _mm_xor_si128(_mm512_cvtepi32_epi8(v), _mm_set1_epi8(static_cast<char>(flip))));
  }

  // Without the dot product: bytes widened to 16 bits, exact products, sums of pairs.
  static Acts acts_of(__m512i v) {
    if constexpr (vnni) {
      return v;
    } else {
      const __m512i low = _mm512_set1_epi16(0xff);
      return {_mm512_and_si512(v, low), _mm512_srli_epi16(v, 8)};
    }
  }
  static Acts acts(const uint8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return acts_of(_mm512_set1_epi32(four));
  }
  static Weights weights(const int8_t* p) {
    const __m512i v = _mm512_loadu_si512(p);
    if constexpr (vnni)
      return v;
    else
      return {_mm512_srai_epi16(_mm512_slli_epi16(v, 8), 8), _mm512_srai_epi16(v, 8)};
  }
  static void dot(Int& acc, const Acts& a, const Weights& w) {
    if constexpr (vnni) {
      acc = _mm512_dpbusd_epi32(acc, a, w);
    } else {
      acc = _mm512_add_epi32(acc, _mm512_madd_epi16(a.even, w.even));
      acc = _mm512_add_epi32(acc, _mm512_madd_epi16(a.odd, w.odd));
    }
  }

  // Four vectors of rounded values to 64 clamped bytes; vector i in 128-bit lane i.
  struct Narrow {
    __m512i zero, lo, hi, flip, order;
    explicit Narrow(const Int8Epilogue& e)
        : zero(_mm512_set1_epi16(static_cast<short>(e.y_zero))),
          lo(_mm512_set1_epi8(static_cast<char>(e.byte_lo))),
          hi(_mm512_set1_epi8(static_cast<char>(e.byte_hi))),
          flip(_mm512_set1_epi8(static_cast<char>(e.y_flip))),
          order(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)) {}
    // Bytes stay interleaved as the packs leave them: lane i has values 4i..4i+3 of each vector.
    __m512i interleaved(__m512i a, __m512i b, __m512i c, __m512i d) const {
      const __m512i ab = _mm512_adds_epi16(_mm512_packs_epi32(a, b), zero);
      const __m512i cd = _mm512_adds_epi16(_mm512_packs_epi32(c, d), zero);
      const __m512i v = _mm512_packus_epi16(ab, cd);
      return _mm512_xor_si512(_mm512_min_epu8(_mm512_max_epu8(v, lo), hi), flip);
    }
    __m512i in_order(__m512i a, __m512i b, __m512i c, __m512i d) const {
      return _mm512_permutexvar_epi32(order, interleaved(a, b, c, d));
    }
  };

  template <int R, int B>
  [[gnu::always_inline]] static inline void store_narrow(const GemmInt8Tile& t,
                                                         const Int (&acc)[R][B], int64_t pixel,
                                                         int first_block) {
    if (t.residual)
      store_narrow_with<R, B, true, false>(t, acc, pixel, first_block);
    else if (t.epilogue->slope != 1)
      store_narrow_with<R, B, false, true>(t, acc, pixel, first_block);
    else
      store_narrow_with<R, B, false, false>(t, acc, pixel, first_block);
  }

  // f32 outputs, without a residual or with one of f32.
  template <int R, int B>
  [[gnu::always_inline]] static inline void store_floats(const GemmInt8Tile& t,
                                                         const Int (&acc)[R][B], int64_t pixel,
                                                         int first_block) {
    if (t.x_scale)
      store_floats_with<R, B, true>(t, acc, pixel, first_block);
    else
      store_floats_with<R, B, false>(t, acc, pixel, first_block);
  }

  template <int R, int B, bool dynamic>
  [[gnu::always_inline]] static inline void store_floats_with(const GemmInt8Tile& t,
                                                              const Int (&acc)[R][B], int64_t pixel,
                                                              int first_block) {
    const Int8Epilogue& e = *t.epilogue;
    const Float lo = all_float(e.lo), hi = all_float(e.hi), slope = all_float(e.slope);
    const Float residual_multiplier = all_float(e.residual_multiplier);
    auto* y = reinterpret_cast<float*>(static_cast<uint8_t*>(t.y) + pixel * t.y_step);
    const auto* r = static_cast<const uint8_t*>(t.residual);
    if (r) r += pixel * t.residual_step;
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      Float x_scale{};
      Int x_zero{};
      if constexpr (dynamic) {
        x_scale = all_float(t.x_scale[(pixel + i) * t.x_step]);
        x_zero = all(t.x_zero[(pixel + i) * t.x_step]);
      }
#pragma GCC unroll 16
      for (int b = 0; b < B; ++b) {
        const int channel = (first_block + b) * 16, left = t.channels - channel;
        const __mmask16 mask = static_cast<__mmask16>(left >= 16 ? 0xffff : (1 << left) - 1);
        Float f;
        if constexpr (dynamic) {
          const Int sum = sub(acc[i][b], _mm512_mullo_epi32(load(t.weight_sums + channel), x_zero));
          f = mul(to_float(sum), mul(x_scale, load_float(t.multiplier + channel)));
          if (t.float_bias) f = add(f, load_float(t.float_bias + channel));
        } else {
          f = mul(to_float(acc[i][b]), load_float(t.multiplier + channel));
        }
        if (r) {
          const auto* residual = reinterpret_cast<const float*>(r + i * t.residual_step);
          f = add(f, mul(_mm512_maskz_loadu_ps(mask, residual + channel), residual_multiplier));
        }
        f = max(f, mul(f, slope));
        f = min(max(f, lo), hi);
        auto* to = reinterpret_cast<float*>(reinterpret_cast<uint8_t*>(y) + i * t.y_step);
        _mm512_mask_storeu_ps(to + channel, mask, f);
      }
    }
  }

  template <int R, int B, bool with_residual, bool with_slope>
  [[gnu::always_inline]] static inline void store_narrow_with(const GemmInt8Tile& t,
                                                              const Int (&acc)[R][B], int64_t pixel,
                                                              int first_block) {
    const Int8Epilogue& e = *t.epilogue;
    const Narrow narrow(e);
    uint8_t* y = static_cast<uint8_t*>(t.y) + pixel * t.y_step + first_block * 16;
    const int channels = t.channels - first_block * 16;
    const __mmask64 mask = channels >= 64 ? ~0ULL : (1ULL << channels) - 1;
    const uint8_t* residual = nullptr;
    __m128i residual_flip{};
    Int residual_zero{};
    Float residual_multiplier{};
    if constexpr (with_residual) {
      residual =
          static_cast<const uint8_t*>(t.residual) + pixel * t.residual_step + first_block * 16;
      residual_flip = _mm_set1_epi8(static_cast<char>(e.residual_flip));
      residual_zero = all(e.residual_zero);
      residual_multiplier = all_float(e.residual_multiplier);
    }
    const auto rounded = [&](int i, int b) __attribute__((always_inline)) {
      if (i >= R || b >= B) return _mm512_setzero_si512();
      Float f = mul(to_float(acc[i][b]), load_float(t.multiplier + (first_block + b) * 16));
      if constexpr (with_residual) {
        const __m128i bytes = _mm_maskz_loadu_epi8(static_cast<__mmask16>(mask >> (16 * b)),
                                                   residual + i * t.residual_step + b * 16);
        const Int r = sub(_mm512_cvtepu8_epi32(_mm_xor_si128(bytes, residual_flip)), residual_zero);
        f = add(f, mul(to_float(r), residual_multiplier));
      }
      if constexpr (with_slope) f = max(f, mul(f, all_float(e.slope)));
      return round(f);
    };
    if constexpr (B == 4 || B == 3) {
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i, y += t.y_step) {
        const __m512i v =
            narrow.in_order(rounded(i, 0), rounded(i, 1), rounded(i, 2), rounded(i, 3));
        if (B == 4 && channels >= 64)
          _mm512_storeu_si512(y, v);
        else
          _mm512_mask_storeu_epi8(y, mask, v);
      }
    } else if constexpr (B == 2) {
#pragma GCC unroll 16
      for (int i = 0; i < R; i += 2, y += 2 * t.y_step) {
        const __m512i v =
            narrow.in_order(rounded(i, 0), rounded(i, 1), rounded(i + 1, 0), rounded(i + 1, 1));
        const __m256i low = _mm512_castsi512_si256(v), high = _mm512_extracti64x4_epi64(v, 1);
        if (channels >= 32) {
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), low);
          if (i + 1 < R) _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + t.y_step), high);
        } else {
          _mm256_mask_storeu_epi8(y, static_cast<__mmask32>(mask), low);
          if (i + 1 < R) _mm256_mask_storeu_epi8(y + t.y_step, static_cast<__mmask32>(mask), high);
        }
      }
    } else {
      const auto put = [&](int i, __m128i v) {
        if (i >= R) return;
        if (channels >= 16)
          _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i * t.y_step), v);
        else
          _mm_mask_storeu_epi8(y + i * t.y_step, static_cast<__mmask16>(mask), v);
      };
#pragma GCC unroll 16
      for (int i = 0; i < R; i += 4) {
        const __m512i v =
            narrow.in_order(rounded(i, 0), rounded(i + 1, 0), rounded(i + 2, 0), rounded(i + 3, 0));
        put(i, _mm512_castsi512_si128(v));
        put(i + 1, _mm512_extracti32x4_epi32(v, 1));
        put(i + 2, _mm512_extracti32x4_epi32(v, 2));
        put(i + 3, _mm512_extracti32x4_epi32(v, 3));
      }
    }
  }
};

}  // namespace
}  // namespace octavo::cpu
