#pragma once
#include "graph/tensor.h"

namespace octavo {

// Of a matrix, [M, N] to [N, M].
Tensor transposed_matrix(const Tensor& matrix);

}  // namespace octavo
