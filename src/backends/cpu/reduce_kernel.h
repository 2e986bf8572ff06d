// reduce.h over a `Vec` of vec_*.h, which must come first.
#pragma once
#include "backends/cpu/elementwise_kernel.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/reduce.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

struct SumOp {
  static constexpr float start = 0;
  static VecF combine(VecF a, VecF b) { return Vec::add(a, b); }
  static float scalar(float a, float b) { return a + b; }
};
struct ProdOp {
  static constexpr float start = 1;
  static VecF combine(VecF a, VecF b) { return Vec::mul(a, b); }
  static float scalar(float a, float b) { return a * b; }
};
struct MaxOp {
  static constexpr float start = -__builtin_inff();
  static VecF combine(VecF a, VecF b) { return Vec::max(b, a); }
  static float scalar(float a, float b) { return b > a ? b : a; }
};
struct MinOp {
  static constexpr float start = __builtin_inff();
  static VecF combine(VecF a, VecF b) { return Vec::min(b, a); }
  static float scalar(float a, float b) { return b < a ? b : a; }
};

// Lanes first, then a tree over them: an order that depends on the vector's width alone.
template <class Op>
float reduce_row(const float* x, int64_t count) {
  constexpr int W = Vec::width;
  VecF sums[4] = {Vec::set(Op::start), Vec::set(Op::start), Vec::set(Op::start),
                  Vec::set(Op::start)};
  int64_t i = 0;
  for (; i + 4 * W <= count; i += 4 * W)
    for (int k = 0; k < 4; ++k) sums[k] = Op::combine(sums[k], Vec::load(x + i + k * W));
  for (; i + W <= count; i += W) sums[0] = Op::combine(sums[0], Vec::load(x + i));
  alignas(64) float lanes[W];
  Vec::store(lanes, Op::combine(Op::combine(sums[0], sums[1]), Op::combine(sums[2], sums[3])));
  for (int lane = 0; i < count; ++i, ++lane) lanes[lane] = Op::scalar(lanes[lane], x[i]);
  for (int width = W / 2; width > 0; width /= 2)
    for (int k = 0; k < width; ++k) lanes[k] = Op::scalar(lanes[k], lanes[k + width]);
  return lanes[0];
}

template <class Op>
void reduce_of(const Reduce& args, ThreadPool& pool) {
  const bool mean = args.op == ReduceOp::mean;
  const auto count = static_cast<float>(args.count);
  if (args.inner == 1) {
    const int64_t grain =
        args.count > 0 && args.count < elementwise_grain ? elementwise_grain / args.count : 1;
    return parallel_chunks(pool, args.outer, grain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const float y = reduce_row<Op>(args.x + row * args.count, args.count);
        args.y[row] = mean ? y / count : y;
      }
    });
  }
  // Columns in blocks of four vectors, so that a step down reads whole cache lines.
  constexpr int64_t block = 4 * Vec::width;
  const int64_t blocks = (args.inner + block - 1) / block;
  const VecF divisor = Vec::set(count);
  const int64_t grain = args.count > 0 && args.count * block < elementwise_grain
                            ? elementwise_grain / (args.count * block)
                            : 1;
  parallel_chunks(pool, args.outer * blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / blocks, first = i % blocks * block;
      const float* x = args.x + row * args.count * args.inner;
      float* y = args.y + row * args.inner;
      if (first + block <= args.inner) {
        VecF sums[4] = {Vec::set(Op::start), Vec::set(Op::start), Vec::set(Op::start),
                        Vec::set(Op::start)};
        const float* p = x + first;
        for (int64_t k = 0; k < args.count; ++k, p += args.inner)
          for (int j = 0; j < 4; ++j) sums[j] = Op::combine(sums[j], Vec::load(p + j * Vec::width));
        for (int j = 0; j < 4; ++j)
          Vec::store(y + first + j * Vec::width, mean ? Vec::div(sums[j], divisor) : sums[j]);
        continue;
      }
      for_vectors(first, args.inner, [&](int64_t at, int n) {
        VecF sum = Vec::set(Op::start);
        for (int64_t k = 0; k < args.count; ++k)
          sum = Op::combine(sum, load_part(x + k * args.inner + at, n));
        store_part(y + at, mean ? Vec::div(sum, divisor) : sum, n);
      });
    }
  });
}

void reduce(const Reduce& args, ThreadPool& pool) {
  switch (args.op) {
    case ReduceOp::sum:
    case ReduceOp::mean:
      return reduce_of<SumOp>(args, pool);
    case ReduceOp::prod:
      return reduce_of<ProdOp>(args, pool);
    case ReduceOp::max:
      return reduce_of<MaxOp>(args, pool);
    case ReduceOp::min:
      return reduce_of<MinOp>(args, pool);
  }
}

void softmax(const Softmax& args, ThreadPool& pool) {
  const int64_t grain =
      args.count > 0 && args.count < elementwise_grain / 4 ? elementwise_grain / 4 / args.count : 1;
  parallel_chunks(pool, args.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = args.x + row * args.count;
      float* y = args.y + row * args.count;
      const VecF most = Vec::set(reduce_row<MaxOp>(x, args.count));
      for_vectors(0, args.count, [&](int64_t i, int n) {
        store_part(y + i, exp_f32(Vec::sub(load_part(x + i, n), most)), n);
      });
      const VecF sum = Vec::set(reduce_row<SumOp>(y, args.count));
      for_vectors(0, args.count, [&](int64_t i, int n) {
        store_part(y + i, Vec::div(load_part(y + i, n), sum), n);
      });
    }
  });
}

}  // namespace
}  // namespace octavo::cpu
