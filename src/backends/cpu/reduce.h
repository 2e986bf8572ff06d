// FP32 reductions and softmax.
#pragma once
#include "backends/cpu/kernel_list.h"

namespace octavo::cpu {

enum class ReduceOp : uint8_t { sum, mean, prod, max, min };

// x [outer, count, inner] to y [outer, inner]. Last axis: inner 1; leading axes: outer 1.
// NaN: sum and mean keep it, max and min may drop it.
struct Reduce {
  ReduceOp op = ReduceOp::sum;
  int64_t outer = 1, count = 1, inner = 1;
  const float* x = nullptr;
  float* y = nullptr;
};
KernelList<Reduce> reduce_kernels();

// Along the last axis: exp(x - max) / sum exp(x - max).
struct Softmax {
  int64_t rows = 1, count = 1;
  const float* x = nullptr;
  float* y = nullptr;  // may be x
};
KernelList<Softmax> softmax_kernels();

}  // namespace octavo::cpu
