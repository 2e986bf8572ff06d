// Walking over the indices of tensors of any rank.
#pragma once
#include <array>

#include "graph/shape.h"

namespace octavo::ops {

using Strides = std::vector<int64_t>;

inline Strides strides_of(const Dims& dims) {
  Strides strides(dims.size(), 1);
  for (size_t i = dims.size(); i-- > 1;) strides[i - 1] = strides[i] * dims[i];
  return strides;
}

// Of a tensor that broadcasts to `to`: 0 along the axes that it lacks or has one of.
inline Strides broadcast_strides(const Dims& from, const Dims& to) {
  Strides strides(to.size(), 0);
  int64_t step = 1;
  for (size_t i = from.size(); i-- > 0;) {
    if (from[i] != 1) strides[to.size() - from.size() + i] = step;
    step *= from[i];
  }
  return strides;
}

// f(i, offsets) for each index of `dims` in row-major order, i counting up; offsets[k] is the sum
// of index * strides[k].
template <size_t N, class F>
void for_each_index(const Dims& dims, const std::array<Strides, N>& strides, F f) {
  const int64_t count = element_count(dims);
  Dims index(dims.size(), 0);
  std::array<int64_t, N> offsets{};
  for (int64_t i = 0; i < count; ++i) {
    f(static_cast<size_t>(i), offsets);
    for (size_t d = dims.size(); d-- > 0;) {
      for (size_t k = 0; k < N; ++k) offsets[k] += strides[k][d];
      if (++index[d] < dims[d]) break;
      index[d] = 0;
      for (size_t k = 0; k < N; ++k) offsets[k] -= strides[k][d] * dims[d];
    }
  }
}

// A shape as outer x length x inner around an axis.
struct Rows {
  size_t outer = 1, length = 1, inner = 1;
  Rows(const Dims& dims, size_t axis) {
    for (size_t i = 0; i < dims.size(); ++i)
      (i < axis ? outer : i == axis ? length : inner) *= static_cast<size_t>(dims[i]);
  }
  // Of the first element of row r, 0 <= r < outer * inner; the rest follow at steps of `inner`.
  size_t start(size_t r) const { return r / inner * length * inner + r % inner; }
  size_t count() const { return outer * inner; }
};

}  // namespace octavo::ops
