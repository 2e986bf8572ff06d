#include "backends/cpu/matmul.h"

#include "backends/cpu/kernel_test.h"

namespace octavo::cpu {
namespace {

class MatmulTest : public KernelTest {};

TEST_F(MatmulTest, BatchesOfAnySize) {
  static ThreadPool one(1), two(2), three(3);
  for (int i = 0; i < 60; ++i) {
    MatmulProblem p{.m = pick(1, 120),
                    .k = i == 0 ? 0 : pick(1, 200),
                    .n = pick(1, 150),
                    .a_at = {},
                    .b_at = {}};
    const int64_t batches = pick(1, 4);
    const bool same_b = pick(0, 1) != 0;
    for (int64_t b = 0; b < batches; ++b) {
      p.a_at.push_back((batches - 1 - b) * p.m * p.k);
      p.b_at.push_back(same_b ? 0 : b * p.k * p.n);
    }
    const auto a = values(batches * p.m * p.k), b = values(batches * p.k * p.n);
    std::vector<float> y(static_cast<size_t>(batches * p.m * p.n)), first;
    for (const MatmulImplementation& implementation : matmul_list()) {
      if (implementation.isa > hardware_isa()) continue;
      SCOPED_TRACE(implementation.name);
      const auto kernel = implementation.create(p);
      first.clear();
      for (ThreadPool* pool : {&one, &two, &three}) {
        std::vector<float> scratch(kernel->scratch_bytes(pool->size()) / 4 + 16, 7);
        void* aligned = scratch.data();
        size_t space = scratch.size() * 4;
        std::align(64, kernel->scratch_bytes(pool->size()), aligned, space);
        std::fill(y.begin(), y.end(), NAN);
        kernel->run({a.data(), b.data(), y.data(), aligned}, *pool);
        if (first.empty())
          first = y;
        else
          ASSERT_EQ(0, std::memcmp(first.data(), y.data(), y.size() * 4));
      }
      for (int64_t at = 0; at < batches * p.m * p.n; ++at) {
        const int64_t batch = at / p.n / p.m, row = at / p.n % p.m, column = at % p.n;
        double want = 0, magnitude = 0;
        for (int64_t k = 0; k < p.k; ++k) {
          const double term =
              static_cast<double>(
                  a[static_cast<size_t>(p.a_at[static_cast<size_t>(batch)] + row * p.k + k)]) *
              b[static_cast<size_t>(p.b_at[static_cast<size_t>(batch)] + k * p.n + column)];
          want += term, magnitude += std::abs(term);
        }
        // k products and k sums, one after another.
        const double bound = static_cast<double>(p.k + 1) * FLT_EPSILON / 2 * 1.001 * magnitude;
        ASSERT_LE(std::abs(y[static_cast<size_t>(at)] - want), bound);
      }
    }
  }
}

}  // namespace
}  // namespace octavo::cpu
