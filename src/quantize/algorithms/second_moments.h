// Sums of products of small integers: what the second moments of a layer's input are made of.
// Exact, so the same on every processor and for any number of threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "support/thread_pool.h"

namespace octavo {

// Rows of equal length, each zero-padded to a multiple of 32, their number to a multiple of 4.
class ShortMatrix {
 public:
  ShortMatrix(size_t rows, size_t columns)
      : rows_(rows), stride_((columns + 31) / 32 * 32), values_((rows + 3) / 4 * 4 * stride_, 0) {}
  size_t rows() const { return rows_; }
  size_t stride() const { return stride_; }
  int16_t* row(size_t i) { return &values_[i * stride_]; }
  const int16_t* row(size_t i) const { return &values_[i * stride_]; }

 private:
  size_t rows_, stride_;
  std::vector<int16_t> values_;
};

// The most columns of a ShortMatrix of values in [-255, 255] whose products int32 can add up.
constexpr size_t most_moment_columns = 32768;

// sums[i * rows + j] += sum over n of x[i][n] * x[j][n], for j <= i; the rest is left alone.
void add_products(const ShortMatrix& x, std::vector<int64_t>& sums, ThreadPool& pool);

// One 4x4 tile: out[4 i + j] = sum of a[i][n] * b[j][n] over `stride` columns (a multiple of 32).
using MomentsTile = void (*)(const int16_t* a, const int16_t* b, size_t stride, int32_t* out);
void moments_tile_portable(const int16_t* a, const int16_t* b, size_t stride, int32_t* out);
void moments_tile_avx2(const int16_t* a, const int16_t* b, size_t stride, int32_t* out);
void moments_tile_avx512(const int16_t* a, const int16_t* b, size_t stride, int32_t* out);

}  // namespace octavo
