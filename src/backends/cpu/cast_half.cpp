#include "backends/cpu/cast_half.h"

#include "backends/cpu/vector_kernels.h"

namespace octavo::cpu {

KernelList<CastHalf> cast_half_kernels() {
  static const Kernel<CastHalf> list[] = {
      {"cast_half_avx512", Isa::avx512, vector_kernels_avx512().cast_half},
      {"cast_half_avx2", Isa::avx2, vector_kernels_avx2().cast_half},
      {"cast_half_portable", Isa::portable, vector_kernels_portable().cast_half},
  };
  return list;
}

}  // namespace octavo::cpu
