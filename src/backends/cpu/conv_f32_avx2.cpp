#include "backends/cpu/vec_avx2.h"
// The vector type comes first.
#include "backends/cpu/conv_f32_kernel.h"

namespace octavo::cpu {

const ConvF32Kernels& conv_f32_avx2() {
  // 6 x 2 sums, two weights and one activation fill 15 of 16 registers.
  static constexpr ConvF32Kernels kernels{
      Vec::width,
      2,
      {0, 8, 6, 0, 0},
      {{},
       {nullptr, gemm_f32<1, 1>, gemm_f32<2, 1>, gemm_f32<3, 1>, gemm_f32<4, 1>, gemm_f32<5, 1>,
        gemm_f32<6, 1>, gemm_f32<7, 1>, gemm_f32<8, 1>},
       {nullptr, gemm_f32<1, 2>, gemm_f32<2, 2>, gemm_f32<3, 2>, gemm_f32<4, 2>, gemm_f32<5, 2>,
        gemm_f32<6, 2>},
       {},
       {}},
      depthwise_f32};
  return kernels;
}

}  // namespace octavo::cpu
