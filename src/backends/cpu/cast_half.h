// float16 and bfloat16 from FP32 and back: half to even, subnormals exact, the bits of
// graph/tensor.h.
#pragma once
#include "backends/cpu/half_type.h"
#include "backends/cpu/kernel_list.h"

namespace octavo::cpu {

// From FP32 to `half`, or the other way.
struct CastHalf {
  HalfType half = HalfType::f16;  // not none
  bool widen = false;
  int64_t count = 0;
  const void* x = nullptr;
  void* y = nullptr;
};
KernelList<CastHalf> cast_half_kernels();

}  // namespace octavo::cpu
