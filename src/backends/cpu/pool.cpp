#include "backends/cpu/pool.h"

#include "backends/cpu/vector_kernels.h"

namespace octavo::cpu {

KernelList<MaxPool> max_pool_kernels() {
  static const Kernel<MaxPool> list[] = {
      {"max_pool_avx512", Isa::avx512, vector_kernels_avx512().max_pool},
      {"max_pool_avx2", Isa::avx2, vector_kernels_avx2().max_pool},
      {"max_pool_portable", Isa::portable, vector_kernels_portable().max_pool},
  };
  return list;
}

KernelList<AveragePool> average_pool_kernels() {
  static const Kernel<AveragePool> list[] = {
      {"average_pool_avx512", Isa::avx512, vector_kernels_avx512().average_pool},
      {"average_pool_avx2", Isa::avx2, vector_kernels_avx2().average_pool},
      {"average_pool_portable", Isa::portable, vector_kernels_portable().average_pool},
  };
  return list;
}

}  // namespace octavo::cpu
