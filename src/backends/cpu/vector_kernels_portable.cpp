#include "backends/cpu/vec_portable.h"
// The vector type comes first.
#include "backends/cpu/vector_kernels_table.h"

namespace octavo::cpu {

const VectorKernels& vector_kernels_portable() { return vector_kernels_table; }

}  // namespace octavo::cpu
