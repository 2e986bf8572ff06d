#include <immintrin.h>

#include "backends/cpu/lookup.h"

namespace octavo::cpu {
namespace {

// The table as 128 words in four registers; x / 2 picks a word, the lowest bit its byte.
struct Table {
  __m512i a, b, c, d;
  explicit Table(const uint8_t* p)
      : a(_mm512_loadu_si512(p)),
        b(_mm512_loadu_si512(p + 64)),
        c(_mm512_loadu_si512(p + 128)),
        d(_mm512_loadu_si512(p + 192)) {}
  __m256i operator()(__m256i bytes) const {
    const __m512i x = _mm512_cvtepu8_epi16(bytes), word = _mm512_srli_epi16(x, 1);
    const __m512i low = _mm512_permutex2var_epi16(a, word, b);
    const __m512i high = _mm512_permutex2var_epi16(c, word, d);
    const __mmask32 upper = _mm512_test_epi16_mask(x, _mm512_set1_epi16(128));
    const __m512i both = _mm512_mask_blend_epi16(upper, low, high);
    const __mmask32 odd = _mm512_test_epi16_mask(x, _mm512_set1_epi16(1));
    return _mm512_cvtepi16_epi8(_mm512_mask_srli_epi16(both, odd, both, 8));
  }
};

}  // namespace

void look_up_avx512(const uint8_t* table, const uint8_t* x, uint8_t* y, int64_t count) {
  const Table look_up(table);
  int64_t i = 0;
  for (; i + 32 <= count; i += 32)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + i),
                        look_up(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i))));
  if (i < count) {
    const auto tail = static_cast<__mmask32>((1u << (count - i)) - 1);
    _mm256_mask_storeu_epi8(y + i, tail, look_up(_mm256_maskz_loadu_epi8(tail, x + i)));
  }
}

}  // namespace octavo::cpu
