#include "backends/cpu/vec_avx2.h"
// The vector type comes first.
#include "backends/cpu/vector_kernels_table.h"

namespace octavo::cpu {

const VectorKernels& vector_kernels_avx2() { return vector_kernels_table; }

}  // namespace octavo::cpu
