// Every element is in one run, with its own parameter.
#include "quantize/spread.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <mutex>
#include <numeric>
#include <random>
#include <string>

namespace octavo {
namespace {

class SpreadWalk : public testing::Test {
 protected:
  void SetUp() override {
    seed_ = std::random_device{}();
    if (const char* text = std::getenv("OCTAVO_TEST_SEED"))
      seed_ = static_cast<unsigned>(std::stoul(text));
    random_.seed(seed_);
  }
  void TearDown() override {
    if (HasFailure()) printf("repeat with OCTAVO_TEST_SEED=%u\n", seed_);
  }
  int64_t pick(int64_t lo, int64_t hi) {
    return std::uniform_int_distribution<int64_t>(lo, hi)(random_);
  }

  unsigned seed_ = 0;
  std::mt19937 random_;
};

void check(const Spread& s, bool two, int64_t longest) {
  std::vector<float> first(static_cast<size_t>(s.parameter_count()));
  std::iota(first.begin(), first.end(), 0.0f);
  std::vector<float> second = first;
  for (float& v : second) v = -v;
  const ParameterWalk<float> walk(s, first.data(), two ? second.data() : nullptr);
  std::vector<int> seen(static_cast<size_t>(s.size()));
  std::mutex mutex;
  walk.run(longest,
           [&](int64_t begin, int64_t count, bool per_element, const float* a, const float* b) {
             const std::lock_guard lock(mutex);
             ASSERT_GT(count, 0);
             ASSERT_LE(count, longest);
             ASSERT_EQ(b != nullptr, two);
             for (int64_t i = 0; i < count; ++i) {
               const int64_t e = begin + i;
               ++seen[static_cast<size_t>(e)];
               // The definition, from the element's place in [outer, along, inner].
               const int64_t o = e / (s.along * s.inner), k = e / s.inner % s.along;
               const int64_t groups = s.group > 0 ? (s.along + s.group - 1) / s.group : 0;
               const int64_t p = s.one         ? 0
                                 : s.group > 0 ? (o * groups + k / s.group) * s.inner + e % s.inner
                                               : k;
               ASSERT_EQ(walk.parameter(e), p);
               ASSERT_EQ(a[per_element ? i : 0], static_cast<float>(p)) << e;
               if (two) {
                 ASSERT_EQ(b[per_element ? i : 0], -static_cast<float>(p)) << e;
               }
             }
           });
  for (int n : seen) ASSERT_EQ(n, 1);
}

TEST_F(SpreadWalk, CoversEveryElementOnce) {
  for (int i = 0; i < 300; ++i) {
    const int64_t scale = pick(0, 5) ? 12 : 200;
    Spread s = Spread::axis(pick(0, scale), pick(1, scale), pick(1, pick(0, 1) ? 3 : scale));
    if (pick(0, 2) == 0) s.group = pick(1, 9);
    s.one = pick(0, 5) == 0;
    SCOPED_TRACE(
        fmt::format("[{}, {}, {}], group {}, one {}", s.outer, s.along, s.inner, s.group, s.one));
    check(s, pick(0, 1) > 0, pick(0, 1) ? ParameterWalk<float>::most_run : INT64_MAX / 2);
    if (HasFatalFailure()) return;
  }
}

TEST_F(SpreadWalk, ManyParametersOfFewElements) {
  check(Spread::axis(2, 9000, 2), true, ParameterWalk<float>::most_run);
  check(Spread::axis(3, 70000, 1), true, INT64_MAX / 2);
  check(Spread::axis(1, 70000, 1), false, INT64_MAX / 2);
}

}  // namespace
}  // namespace octavo
