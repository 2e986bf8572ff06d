#include "backends/cpu/vector_kernels.h"

#include "support/cpu.h"

namespace octavo::cpu {

const VectorKernels& best_vector_kernels() {
  const Isa isa = best_isa();
  if (isa >= Isa::avx512) return vector_kernels_avx512();
  return isa >= Isa::avx2 ? vector_kernels_avx2() : vector_kernels_portable();
}

}  // namespace octavo::cpu
