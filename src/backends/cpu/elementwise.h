// Functions of one or two FP32 elements.
#pragma once
#include <limits>

#include "backends/cpu/kernel_list.h"

namespace octavo::cpu {

// prelu: a, or a * b below 0.
enum class BinaryOp : uint8_t { add, sub, mul, div, pow, min, max, prelu };

// y[o, i] = clamp(a op b) over y [outer, inner], densely packed. A step is 0 where an operand
// repeats. Same shape: outer 1. Per channel: inner = channels, b_outer 0. Scalar: both steps 0.
// With infinite bounds nothing is clamped and NaN stays; else NaN becomes clamp_lo.
struct Binary {
  BinaryOp op = BinaryOp::add;
  int64_t outer = 1, inner = 0;
  int64_t a_outer = 0, a_inner = 1;  // a_inner, b_inner: 0 or 1
  int64_t b_outer = 0, b_inner = 1;
  float clamp_lo = -std::numeric_limits<float>::infinity();
  float clamp_hi = std::numeric_limits<float>::infinity();
  const float* a = nullptr;
  const float* b = nullptr;
  float* y = nullptr;
};
KernelList<Binary> binary_kernels();

// Any broadcasting of up to max_rank dimensions: element steps, 0 where an operand repeats.
struct BinaryStrided {
  static constexpr int max_rank = 8;
  BinaryOp op = BinaryOp::add;
  int rank = 0;
  int64_t dims[max_rank] = {}, a_steps[max_rank] = {}, b_steps[max_rank] = {};
  float clamp_lo = -std::numeric_limits<float>::infinity();
  float clamp_hi = std::numeric_limits<float>::infinity();
  const float* a = nullptr;
  const float* b = nullptr;
  float* y = nullptr;  // densely packed
};
KernelList<BinaryStrided> binary_strided_kernels();

// The ops of ops.def with the same names; gelu by erf, and by tanh. NaN stays NaN.
// Largest errors, in units of the last place of the exact result: exp, tanh, erf, softplus and elu
// (alpha = 1) 2, sigmoid 3, silu 4; gelu: 4 epsilon * |x|, gelu_tanh and swish (|alpha| up to 2)
// 8 epsilon * |x|. The rest is one rounding an operation, or the C library's.
enum class UnaryOp : uint8_t {
  relu,
  clip,
  leaky_relu,
  elu,
  sigmoid,
  hard_sigmoid,
  hard_swish,
  silu,
  softplus,
  tanh,
  erf,
  gelu,
  gelu_tanh,
  swish,
  mish,
  celu,
  selu,
  softsign,
  exp,
  log,
  sqrt,
  reciprocal,
  neg,
  abs,
  floor,
  ceil,
  round,
  round_f16,  // to what float16 or bfloat16 holds
  round_bf16
};

struct Unary {
  UnaryOp op = UnaryOp::relu;
  float alpha = 0,
        beta = 0;  // leaky_relu, elu, celu, swish: alpha; hard_sigmoid: both; selu: beta is gamma;
                   // clip: alpha low, beta high
  int64_t count = 0;
  const float* x = nullptr;
  float* y = nullptr;  // may be x
};
KernelList<Unary> unary_kernels();

}  // namespace octavo::cpu
