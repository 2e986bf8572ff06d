#include "backends/cpu/vec_avx512.h"
// The vector type comes first.
#include "backends/cpu/conv_f32_kernel.h"

namespace octavo::cpu {

const ConvF32Kernels& conv_f32_avx512() {
  // 6 x 4 sums, four weights and one activation fill 29 of 32 registers. No more than 8 rows: their
  // pointers stay in the general registers.
  static constexpr ConvF32Kernels kernels{
      Vec::width,
      4,
      {0, 8, 8, 8, 6},
      {{},
       {nullptr, gemm_f32<1, 1>, gemm_f32<2, 1>, gemm_f32<3, 1>, gemm_f32<4, 1>, gemm_f32<5, 1>,
        gemm_f32<6, 1>, gemm_f32<7, 1>, gemm_f32<8, 1>},
       {nullptr, gemm_f32<1, 2>, gemm_f32<2, 2>, gemm_f32<3, 2>, gemm_f32<4, 2>, gemm_f32<5, 2>,
        gemm_f32<6, 2>, gemm_f32<7, 2>, gemm_f32<8, 2>},
       {nullptr, gemm_f32<1, 3>, gemm_f32<2, 3>, gemm_f32<3, 3>, gemm_f32<4, 3>, gemm_f32<5, 3>,
        gemm_f32<6, 3>, gemm_f32<7, 3>, gemm_f32<8, 3>},
       {nullptr, gemm_f32<1, 4>, gemm_f32<2, 4>, gemm_f32<3, 4>, gemm_f32<4, 4>, gemm_f32<5, 4>,
        gemm_f32<6, 4>}},
      depthwise_f32};
  return kernels;
}

}  // namespace octavo::cpu
