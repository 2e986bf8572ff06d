#include "backends/cpu/elementwise.h"

#include <algorithm>
#include <cmath>

#include "backends/cpu/parallel.h"
#include "backends/cpu/vector_kernels.h"

namespace octavo::cpu {
namespace {

float apply(BinaryOp op, float a, float b) {
  switch (op) {
    case BinaryOp::add:
      return a + b;
    case BinaryOp::sub:
      return a - b;
    case BinaryOp::mul:
      return a * b;
    case BinaryOp::div:
      return a / b;
    case BinaryOp::pow:
      return std::pow(a, b);
    case BinaryOp::min:
      return std::isnan(a) || a < b ? a : b;
    case BinaryOp::max:
      return std::isnan(a) || a > b ? a : b;
    case BinaryOp::prelu:
      return a < 0 ? a * b : a;
  }
  return 0;
}

void binary_strided(const BinaryStrided& args, ThreadPool& pool) {
  const int last = args.rank - 1;
  const int64_t length = args.rank > 0 ? args.dims[last] : 1;
  const int64_t a_step = args.rank > 0 ? args.a_steps[last] : 0;
  const int64_t b_step = args.rank > 0 ? args.b_steps[last] : 0;
  int64_t rows = 1;
  for (int d = 0; d < last; ++d) rows *= args.dims[d];
  const bool clamped = args.clamp_lo > -INFINITY || args.clamp_hi < INFINITY;
  parallel_rows(pool, rows, length, 8192, [&](int64_t row, int64_t begin, int64_t end) {
    const float *a = args.a, *b = args.b;
    for (int64_t d = last - 1, rest = row; d >= 0; --d) {
      const int64_t i = rest % args.dims[d];
      rest /= args.dims[d];
      a += i * args.a_steps[d];
      b += i * args.b_steps[d];
    }
    float* y = args.y + row * length;
    for (int64_t i = begin; i < end; ++i) {
      float f = apply(args.op, a[i * a_step], b[i * b_step]);
      if (clamped) {
        f = f > args.clamp_lo ? f : args.clamp_lo;
        f = f < args.clamp_hi ? f : args.clamp_hi;
      }
      y[i] = f;
    }
  });
}

}  // namespace

KernelList<Binary> binary_kernels() {
  static const Kernel<Binary> list[] = {
      {"binary_avx512", Isa::avx512, vector_kernels_avx512().binary},
      {"binary_avx2", Isa::avx2, vector_kernels_avx2().binary},
      {"binary_portable", Isa::portable, vector_kernels_portable().binary},
  };
  return list;
}

KernelList<BinaryStrided> binary_strided_kernels() {
  static const Kernel<BinaryStrided> list[] = {
      {"binary_strided_portable", Isa::portable, binary_strided},
  };
  return list;
}

KernelList<Unary> unary_kernels() {
  static const Kernel<Unary> list[] = {
      {"unary_avx512", Isa::avx512, vector_kernels_avx512().unary},
      {"unary_avx2", Isa::avx2, vector_kernels_avx2().unary},
      {"unary_portable", Isa::portable, vector_kernels_portable().unary},
  };
  return list;
}

}  // namespace octavo::cpu
