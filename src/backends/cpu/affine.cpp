#include "backends/cpu/affine.h"

#include "backends/cpu/vector_kernels.h"

namespace octavo::cpu {

template <>
const AffineKernels<float>& affine_kernels<float>() {
  return best_vector_kernels().affine;
}
template <>
const AffineKernels<double>& affine_kernels<double>() {
  return best_vector_kernels().affine_f64;
}

}  // namespace octavo::cpu
