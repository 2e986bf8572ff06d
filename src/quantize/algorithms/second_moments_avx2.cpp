#include <immintrin.h>

#include "quantize/algorithms/second_moments.h"

namespace octavo {
namespace {

int32_t sum_of(__m256i v) {
  const __m128i half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  const __m128i pair = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(pair, _mm_shuffle_epi32(pair, 0xb1)));
}

__m256i load(const int16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

}  // namespace

void moments_tile_avx2(const int16_t* a, const int16_t* b, size_t stride, int32_t* out) {
  for (size_t i = 0; i < 4; i += 2) {  // two rows at a time: eight sums fit the registers
    __m256i sums[2][4] = {};
    for (size_t n = 0; n < stride; n += 16) {
      const __m256i a0 = load(a + i * stride + n), a1 = load(a + (i + 1) * stride + n);
      for (size_t j = 0; j < 4; ++j) {
        const __m256i v = load(b + j * stride + n);
        sums[0][j] = _mm256_add_epi32(sums[0][j], _mm256_madd_epi16(a0, v));
        sums[1][j] = _mm256_add_epi32(sums[1][j], _mm256_madd_epi16(a1, v));
      }
    }
    for (size_t r = 0; r < 2; ++r)
      for (size_t j = 0; j < 4; ++j) out[4 * (i + r) + j] = sum_of(sums[r][j]);
  }
}

}  // namespace octavo
