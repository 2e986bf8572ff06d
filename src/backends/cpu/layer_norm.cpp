#include "backends/cpu/layer_norm.h"

#include "backends/cpu/vector_kernels.h"

namespace octavo::cpu {

KernelList<LayerNorm> layer_norm_kernels() {
  static const Kernel<LayerNorm> list[] = {
      {"layer_norm_avx512", Isa::avx512, vector_kernels_avx512().layer_norm},
      {"layer_norm_avx2", Isa::avx2, vector_kernels_avx2().layer_norm},
      {"layer_norm_portable", Isa::portable, vector_kernels_portable().layer_norm},
  };
  return list;
}

}  // namespace octavo::cpu
