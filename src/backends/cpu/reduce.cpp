#include "backends/cpu/reduce.h"

#include "backends/cpu/vector_kernels.h"

namespace octavo::cpu {

KernelList<Reduce> reduce_kernels() {
  static const Kernel<Reduce> list[] = {
      {"reduce_avx512", Isa::avx512, vector_kernels_avx512().reduce},
      {"reduce_avx2", Isa::avx2, vector_kernels_avx2().reduce},
      {"reduce_portable", Isa::portable, vector_kernels_portable().reduce},
  };
  return list;
}

KernelList<Softmax> softmax_kernels() {
  static const Kernel<Softmax> list[] = {
      {"softmax_avx512", Isa::avx512, vector_kernels_avx512().softmax},
      {"softmax_avx2", Isa::avx2, vector_kernels_avx2().softmax},
      {"softmax_portable", Isa::portable, vector_kernels_portable().softmax},
  };
  return list;
}

}  // namespace octavo::cpu
