// Vectors for depthwise_int8_kernel.h: 32 channels in 256 bits, and with AVX-512 64 in 512.
// In an anonymous namespace on purpose: each including source gets its own.
#pragma once
#include <immintrin.h>

#include "backends/cpu/int8_data.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

enum class Dot { madd, vnni };

struct R256 {
  using Type = __m256i;
};
struct R512 {
  using Type = __m512i;
};

template <Dot kind, class R>
struct DotTypes {
  struct Acts {
    typename R::Type even, odd;  // 16-bit lanes: rows 0 and 2, rows 1 and 3
  };
  using Weight = int16_t;
};
template <class R>
struct DotTypes<Dot::vnni, R> {
  using Acts = typename R::Type;
  using Weight = int8_t;
};

template <Dot kind>
struct Channels32 {
  using Bytes = __m256i;
  using Int = __m256i;
  using Acts = typename DotTypes<kind, R256>::Acts;
  using Weight = typename DotTypes<kind, R256>::Weight;
  static constexpr int width = 32;
  static constexpr int columns = kind == Dot::vnni ? 4 : 2;  // 32 registers, 16 registers

  static Bytes zero() { return _mm256_setzero_si256(); }
  static Bytes load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static void store(uint8_t* p, Bytes v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  // Loads the first `n` channels and flips them.
  struct Some {
    __m256i by;
#ifdef __AVX512BW__
    __mmask32 mask;
    Some(int n, uint8_t flip) : by(_mm256_set1_epi8(static_cast<char>(flip))), mask(first(n)) {}
    Bytes load(const uint8_t* p) const {
      return _mm256_xor_si256(_mm256_maskz_loadu_epi8(mask, p), by);
    }
#else
    int count;
    Some(int n, uint8_t flip) : by(_mm256_set1_epi8(static_cast<char>(flip))), count(n) {}
    Bytes load(const uint8_t* p) const {
      alignas(32) uint8_t bytes[32] = {};
      if (count < 32) {
        __builtin_memcpy(bytes, p, static_cast<unsigned>(count));
        p = bytes;
      }
      return _mm256_xor_si256(Channels32::load(p), by);
    }
#endif
  };
#ifdef __AVX512BW__
  static __mmask32 first(int n) { return static_cast<__mmask32>((1ULL << n) - 1); }
  static void store_first(uint8_t* p, Bytes v, int n) { _mm256_mask_storeu_epi8(p, first(n), v); }
#else
  static void store_first(uint8_t* p, Bytes v, int n) {
    alignas(32) uint8_t bytes[32];
    store(bytes, v);
    __builtin_memcpy(p, bytes, static_cast<unsigned>(n));
  }
#endif
  static Int load_sums(const int32_t* p) { return load(p); }
  static void store_sums(int32_t* p, Int v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  }

  static void interleave(const Bytes (&r)[4], Acts (&v)[4]) {
    const __m256i a = _mm256_unpacklo_epi8(r[0], r[1]), b = _mm256_unpackhi_epi8(r[0], r[1]);
    const __m256i c = _mm256_unpacklo_epi8(r[2], r[3]), d = _mm256_unpackhi_epi8(r[2], r[3]);
    v[0] = acts(_mm256_unpacklo_epi16(a, c));
    v[1] = acts(_mm256_unpackhi_epi16(a, c));
    v[2] = acts(_mm256_unpacklo_epi16(b, d));
    v[3] = acts(_mm256_unpackhi_epi16(b, d));
  }
  static Acts acts(__m256i v) {
    if constexpr (kind == Dot::vnni)
      return v;
    else
      return {_mm256_and_si256(v, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(v, 8)};
  }
  static void dot(Int& acc, const Acts& a, const Weight* w) {
    if constexpr (kind == Dot::vnni) {
      acc = _mm256_dpbusd_epi32(acc, a, load(w));
    } else {
      acc = _mm256_add_epi32(acc, _mm256_madd_epi16(a.even, load(w)));
      acc = _mm256_add_epi32(acc, _mm256_madd_epi16(a.odd, load(w + 16)));
    }
  }
  static Int scaled(Int v, const float* multiplier) {
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(v), _mm256_loadu_ps(multiplier)));
  }
  struct Narrow {
    __m256i zero, lo, hi, flip;
    explicit Narrow(const Int8Epilogue& e)
        : zero(_mm256_set1_epi16(static_cast<short>(e.y_zero))),
          lo(_mm256_set1_epi8(static_cast<char>(e.byte_lo))),
          hi(_mm256_set1_epi8(static_cast<char>(e.byte_hi))),
          flip(_mm256_set1_epi8(static_cast<char>(e.y_flip))) {}
    __m256i interleaved(__m256i a, __m256i b, __m256i c, __m256i d) const {
      const __m256i ab = _mm256_adds_epi16(_mm256_packs_epi32(a, b), zero);
      const __m256i cd = _mm256_adds_epi16(_mm256_packs_epi32(c, d), zero);
      const __m256i v = _mm256_packus_epi16(ab, cd);
      return _mm256_xor_si256(_mm256_min_epu8(_mm256_max_epu8(v, lo), hi), flip);
    }
  };
};

}  // namespace
}  // namespace octavo::cpu

#ifdef __AVX512BW__
#include "backends/cpu/int8_zmm.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

template <Dot kind>
struct Channels64 {
  using Bytes = __m512i;
  using Int = __m512i;
  using Acts = typename DotTypes<kind, R512>::Acts;
  using Weight = typename DotTypes<kind, R512>::Weight;
  using Narrow = typename Zmm<kind == Dot::vnni>::Narrow;
  static constexpr int width = 64;
  static constexpr int columns = 4;

  static Bytes zero() { return _mm512_setzero_si512(); }
  static Bytes load(const void* p) { return _mm512_loadu_si512(p); }
  static void store(uint8_t* p, Bytes v) { _mm512_storeu_si512(p, v); }
  static __mmask64 first(int n) { return n >= 64 ? ~0ULL : (1ULL << n) - 1; }
  struct Some {
    __m512i by;
    __mmask64 mask;
    Some(int n, uint8_t flip) : by(_mm512_set1_epi8(static_cast<char>(flip))), mask(first(n)) {}
    Bytes load(const uint8_t* p) const {
      return _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, p), by);
    }
  };
  static void store_first(uint8_t* p, Bytes v, int n) { _mm512_mask_storeu_epi8(p, first(n), v); }
  static Int load_sums(const int32_t* p) { return load(p); }
  static void store_sums(int32_t* p, Int v) { _mm512_storeu_si512(p, v); }

  static void interleave(const Bytes (&r)[4], Acts (&v)[4]) {
    const __m512i a = _mm512_unpacklo_epi8(r[0], r[1]), b = _mm512_unpackhi_epi8(r[0], r[1]);
    const __m512i c = _mm512_unpacklo_epi8(r[2], r[3]), d = _mm512_unpackhi_epi8(r[2], r[3]);
    v[0] = acts(_mm512_unpacklo_epi16(a, c));
    v[1] = acts(_mm512_unpackhi_epi16(a, c));
    v[2] = acts(_mm512_unpacklo_epi16(b, d));
    v[3] = acts(_mm512_unpackhi_epi16(b, d));
  }
  static Acts acts(__m512i v) {
    if constexpr (kind == Dot::vnni)
      return v;
    else
      return {_mm512_and_si512(v, _mm512_set1_epi16(0xff)), _mm512_srli_epi16(v, 8)};
  }
  static void dot(Int& acc, const Acts& a, const Weight* w) {
    if constexpr (kind == Dot::vnni) {
      acc = _mm512_dpbusd_epi32(acc, a, load(w));
    } else {
      acc = _mm512_add_epi32(acc, _mm512_madd_epi16(a.even, load(w)));
      acc = _mm512_add_epi32(acc, _mm512_madd_epi16(a.odd, load(w + 32)));
    }
  }
  static Int scaled(Int v, const float* multiplier) {
    return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(v), _mm512_loadu_ps(multiplier)));
  }
};

}  // namespace
}  // namespace octavo::cpu
#endif
