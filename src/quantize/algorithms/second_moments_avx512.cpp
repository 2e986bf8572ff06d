#include <immintrin.h>

#include "quantize/algorithms/second_moments.h"

namespace octavo {

void moments_tile_avx512(const int16_t* a, const int16_t* b, size_t stride, int32_t* out) {
  __m512i sums[4][4];
  for (auto& row : sums)
    for (__m512i& s : row) s = _mm512_setzero_si512();
  for (size_t n = 0; n < stride; n += 32) {
    __m512i v[4];
    for (size_t j = 0; j < 4; ++j) v[j] = _mm512_loadu_si512(b + j * stride + n);
    for (size_t i = 0; i < 4; ++i) {
      const __m512i u = _mm512_loadu_si512(a + i * stride + n);
      for (size_t j = 0; j < 4; ++j)
        sums[i][j] = _mm512_add_epi32(sums[i][j], _mm512_madd_epi16(u, v[j]));
    }
  }
  for (size_t i = 0; i < 4; ++i)
    for (size_t j = 0; j < 4; ++j) out[4 * i + j] = _mm512_reduce_add_epi32(sums[i][j]);
}

}  // namespace octavo
