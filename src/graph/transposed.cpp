#include "graph/transposed.h"

#include <cstring>

namespace octavo {

Tensor transposed_matrix(const Tensor& matrix) {
  const auto rows = static_cast<size_t>(matrix.dims()[0]),
             columns = static_cast<size_t>(matrix.dims()[1]);
  const size_t size = dtype_size(matrix.dtype());
  Tensor out(matrix.dtype(), {matrix.dims()[1], matrix.dims()[0]});
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < columns; ++c)
      std::memcpy(out.mutable_data() + (c * rows + r) * size,
                  matrix.data() + (r * columns + c) * size, size);
  return out;
}

}  // namespace octavo
