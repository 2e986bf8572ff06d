// The range that HistogramObserver chooses; tests/python/test_quantization_observers.py compares
// it with torch's own.
#include "quantize/calibrators/least_norm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "support/error.h"

namespace octavo {
namespace {

BinRange choose(const std::vector<float>& counts, double min, double max, int levels) {
  std::vector<float> sums(counts.size());
  std::partial_sum(counts.begin(), counts.end(), sums.begin());
  return least_norm_range(counts, sums, sums.back(), min, max, levels);
}

// Squared error of points spread over each bin, the levels' centres standing for them.
double error_of(const std::vector<float>& counts, double min, double max, int levels,
                BinRange range) {
  const double width = (max - min) / static_cast<double>(counts.size());
  const double level = width * static_cast<double>(range.last - range.first + 1) / levels;
  const double begin = min + width * static_cast<double>(range.first);
  double sum = 0;
  for (size_t i = 0; i < counts.size(); ++i)
    for (int part = 0; part < 64; ++part) {
      const double x = min + width * (static_cast<double>(i) + (part + 0.5) / 64);
      const double q = std::clamp(std::floor((x - begin) / level), 0.0, levels - 1.0);
      const double off = x - (begin + (q + 0.5) * level);
      sum += counts[i] / 64 * off * off;
    }
  return sum;
}

TEST(LeastNorm, CutsTailsOnlyWhereTheErrorFalls) {
  constexpr int bins = 2048, levels = 256;
  std::vector<float> tails(bins), even(bins, 100);
  for (int i = 0; i < bins; ++i) {
    const double x = (i + 0.5) / bins * 20 - 10;
    tails[static_cast<size_t>(i)] =
        static_cast<float>(std::floor(1e5 * std::exp(-3 * std::abs(x))));
  }
  tails.front() = tails.back() = 1;  // the extremes were seen
  const BinRange cut = choose(tails, -10, 10, levels);
  EXPECT_GT(cut.first, 0);
  EXPECT_LT(cut.last, bins - 1);
  EXPECT_LT(error_of(tails, -10, 10, levels, cut),
            error_of(tails, -10, 10, levels, {0, bins - 1}) / 2);
  const BinRange whole = choose(even, -10, 10, levels);
  EXPECT_LE(whole.first, 2);
  EXPECT_GE(whole.last, bins - 3);
}

TEST(LeastNorm, OneValue) {
  const BinRange r = choose({5, 0, 0}, 2, 2, 256);
  EXPECT_LE(0, r.first);
  EXPECT_LE(r.first, r.last);
  EXPECT_LT(r.last, 3);
}

TEST(LeastNorm, Mistakes) {
  const std::vector<float> one{1}, two{1, 2};
  EXPECT_THROW(least_norm_range({}, {}, 0, 0, 1, 256), UserError);
  EXPECT_THROW(least_norm_range(one, two, 1, 0, 1, 256), UserError);
  EXPECT_THROW(least_norm_range(one, one, 1, 0, 1, 1), UserError);
  EXPECT_THROW(least_norm_range(one, one, 1, 1, 0, 256), UserError);
  EXPECT_THROW(least_norm_range(one, one, 1, 0, std::nan(""), 256), UserError);
}

}  // namespace
}  // namespace octavo
