#include "backends/cpu/affine.h"

#include "backends/cpu/vector_kernels.h"
#include "support/cpu.h"

namespace octavo::cpu {

const AffineKernels& affine_kernels() { return best_vector_kernels().affine; }

}  // namespace octavo::cpu
