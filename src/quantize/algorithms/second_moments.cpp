#include "quantize/algorithms/second_moments.h"

#include <algorithm>

#include "support/cpu.h"
#include "support/error.h"

namespace octavo {
namespace {

MomentsTile best_tile() {
  if (best_isa() >= Isa::avx512) return moments_tile_avx512;
  if (best_isa() >= Isa::avx2) return moments_tile_avx2;
  return moments_tile_portable;
}

}  // namespace

void moments_tile_portable(const int16_t* a, const int16_t* b, size_t stride, int32_t* out) {
  for (size_t i = 0; i < 4; ++i)
    for (size_t j = 0; j < 4; ++j) {
      int32_t sum = 0;
      for (size_t n = 0; n < stride; ++n)
        sum += static_cast<int32_t>(a[i * stride + n]) * b[j * stride + n];
      out[4 * i + j] = sum;
    }
}

void add_products(const ShortMatrix& x, std::vector<int64_t>& sums, ThreadPool& pool) {
  OCTAVO_CHECK(x.stride() <= most_moment_columns && sums.size() == x.rows() * x.rows());
  const MomentsTile tile = best_tile();
  const size_t rows = x.rows(), stride = x.stride();
  const size_t bands = (rows + 3) / 4;
  auto task = [&](int64_t band, int) {
    const auto i = (bands - 1 - static_cast<size_t>(band)) * 4;  // the longest first
    int32_t out[16];
    for (size_t j = 0; j <= i; j += 4) {
      tile(x.row(i), x.row(j), stride, out);
      for (size_t a = i; a < std::min(i + 4, rows); ++a)
        for (size_t b = j; b <= std::min(j + 3, a); ++b)
          sums[a * rows + b] += out[4 * (a - i) + b - j];
    }
  };
  pool.run(static_cast<int64_t>(bands), task);
}

}  // namespace octavo
