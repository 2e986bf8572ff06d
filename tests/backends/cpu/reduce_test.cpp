#include "backends/cpu/reduce.h"

#include "backends/cpu/kernel_test.h"

namespace octavo::cpu {
namespace {

class ReduceTest : public KernelTest {};

TEST_F(ReduceTest, AnyAxis) {
  constexpr ReduceOp ops[] = {ReduceOp::sum, ReduceOp::mean, ReduceOp::prod, ReduceOp::max,
                              ReduceOp::min};
  for (int i = 0; i < 120; ++i) {
    Reduce args{.op = ops[i % 5],
                .outer = pick(1, 12),
                .count = pick(1, 200),
                .inner = pick(0, 1) ? 1 : pick(1, 150)};
    if (i == 0) args.count = 50000, args.inner = 1;
    const auto x = values(args.outer * args.count * args.inner);
    std::vector<float> y(static_cast<size_t>(args.outer * args.inner));
    args.x = x.data(), args.y = y.data();
    check_kernels(reduce_kernels(), args, y, [&] {
      for (int64_t at = 0; at < args.outer * args.inner; ++at) {
        double sum = 0, product = 1, magnitude = 0, most = -INFINITY, least = INFINITY;
        for (int64_t k = 0; k < args.count; ++k) {
          const double v = x[static_cast<size_t>((at / args.inner * args.count + k) * args.inner +
                                                 at % args.inner)];
          sum += v, product *= v, magnitude += std::abs(v);
          most = std::max(most, v), least = std::min(least, v);
        }
        const double got = y[static_cast<size_t>(at)], n = static_cast<double>(args.count);
        const double bound = (n + 1) * FLT_EPSILON / 2 * 1.001 * magnitude;
        switch (args.op) {
          case ReduceOp::sum:
            ASSERT_LE(std::abs(got - sum), bound);
            break;
          case ReduceOp::mean:
            ASSERT_LE(std::abs(got - sum / n), bound / n);
            break;
          case ReduceOp::prod:  // one rounding a factor, and underflow
            ASSERT_LE(std::abs(got - product), n * FLT_EPSILON * std::abs(product) + n * FLT_MIN);
            break;
          case ReduceOp::max:
            ASSERT_EQ(got, most);
            break;
          case ReduceOp::min:
            ASSERT_EQ(got, least);
            break;
        }
      }
    });
    if (HasFatalFailure()) return;
  }
}

TEST_F(ReduceTest, Softmax) {
  for (int i = 0; i < 60; ++i) {
    Softmax args{.rows = pick(1, 20), .count = pick(0, 9) ? pick(1, 300) : 10000};
    const auto x = values(args.rows * args.count, i % 3 == 0 ? 40.0f : 2.0f);
    std::vector<float> y(x.size());
    args.x = x.data(), args.y = y.data();
    check_kernels(softmax_kernels(), args, y, [&] {
      for (int64_t r = 0; r < args.rows; ++r) {
        const float* row = x.data() + r * args.count;
        double most = -INFINITY, sum = 0;
        for (int64_t k = 0; k < args.count; ++k) most = std::max<double>(most, row[k]);
        for (int64_t k = 0; k < args.count; ++k) sum += std::exp(row[k] - most);
        for (int64_t k = 0; k < args.count; ++k) {
          const double want = std::exp(row[k] - most) / sum;
          // The difference x - max is rounded (u |x - max|), exp has 2 ulp, so has each term of the
          // sum; the sum n u; the division u. 2^-149 where results are denormal.
          const double u = FLT_EPSILON / 2, n = static_cast<double>(args.count);
          const double relative = u * (std::abs(row[k] - most) + 4 + n + 4 + 40 + 1) * 1.01;
          ASSERT_LE(std::abs(y[static_cast<size_t>(r * args.count + k)] - want),
                    relative * want + 3e-45);
        }
      }
    });
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace octavo::cpu
