#include "backends/cpu/vec_portable.h"
// The vector type comes first.
#include "backends/cpu/conv_f32_kernel.h"

namespace octavo::cpu {

const ConvF32Kernels& conv_f32_portable() {
  static constexpr ConvF32Kernels kernels{
      Vec::width,
      2,
      {0, 4, 4, 0, 0},
      {{},
       {nullptr, gemm_f32<1, 1>, gemm_f32<2, 1>, gemm_f32<3, 1>, gemm_f32<4, 1>},
       {nullptr, gemm_f32<1, 2>, gemm_f32<2, 2>, gemm_f32<3, 2>, gemm_f32<4, 2>},
       {},
       {}},
      depthwise_f32};
  return kernels;
}

}  // namespace octavo::cpu
