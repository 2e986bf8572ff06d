// The float kernels' y = a b, for algorithms that need many such products.
#pragma once
#include "runtime/program.h"

namespace octavo {

// Of float32 a [rows, inner] and b [inner, columns].
Program matrix_product(size_t rows, size_t inner, size_t columns, int threads);

}  // namespace octavo
