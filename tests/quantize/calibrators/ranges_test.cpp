// moving_average and percentile against their definitions on data whose answers are known.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "quantize/calibrators/calibrators.h"

namespace octavo {
namespace {

HistogramStatistics collected(std::initializer_list<std::vector<float>> batches) {
  HistogramStatistics s;
  for (const auto& batch : batches) s.collect(batch);
  return s;
}

// 0.9 * 4 + 0.1 * 14 = 5, 0.9 * 5 - 0.1 * 5 = 4; the lower end in the same way. Each step rounds
// three times, in float64.
TEST(MovingAverage, WeighsEachBatchByATenth) {
  const auto s = collected({{-2, 0, 4}, {-12, 14}, {3, -7, -5}, {}});
  const Range two = choose_moving_average(collected({{-2, 0, 4}, {-12, 14}}), 256);
  EXPECT_NEAR(two.max, 5, 5 * 3e-16);
  EXPECT_NEAR(two.min, -3, 3 * 3e-16);
  const Range r = choose_moving_average(s, 256);
  EXPECT_NEAR(r.max, 0.9 * 5 + 0.1 * 3, 5e-15);
  EXPECT_NEAR(r.min, -0.9 * 3 - 0.1 * 7, 5e-15);
}

TEST(MovingAverage, TheRangeHoldsZero) {
  const Range above = choose_moving_average(collected({{3, 5}, {4, 5}}), 256);
  EXPECT_EQ(above.min, 0);
  EXPECT_NEAR(above.max, 5, 5e-15);
  const Range below = choose_moving_average(collected({{-3, -5}}), 256);
  EXPECT_EQ(below.min, -5);
  EXPECT_EQ(below.max, 0);
}

// Batches count in a merge, not values.
TEST(MovingAverage, MergingWeighsBothSidesByTheirBatches) {
  auto a = collected({{0, 8}, {0, 8}, {0, 8}});
  a.merge(collected({{0, 4, 4, 4, 4, 4, 4, 4, 4}}));
  EXPECT_NEAR(choose_moving_average(a, 256).max, (3 * 8 + 4) / 4.0, 1e-14);
}

// 20,000 values: exactly one may go at each end. The outlier at the top goes, the two below stay.
TEST(Percentile, LeavesOutWhatIsAllowedAndNoMore) {
  std::vector<float> values(20000);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(i % 200) / 100 - 1;  // [-1, 1) in hundredths
  values[5] = 60;
  values[6] = values[7] = -50;
  const HistogramStatistics s = collected({values});
  const Range r = choose_percentile(s, 256);
  // The limit is 64: bins of 1/32. 0.99 lies in the bin that ends at 1.
  EXPECT_EQ(s.bin_width(), 1.0 / 32);
  EXPECT_EQ(r.max, 1.0);
  EXPECT_EQ(r.min, -50);
}

TEST(Percentile, WithFewValuesItIsTheExtremes) {
  std::mt19937_64 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> values(19999);  // 0.005% of them is less than one
  for (float& v : values) v = normal(random);
  const Range r = choose_percentile(collected({values}), 256);
  EXPECT_EQ(r.min, *std::ranges::min_element(values));
  EXPECT_EQ(r.max, *std::ranges::max_element(values));
}

TEST(Percentile, TheRangeHoldsZero) {
  const Range above = choose_percentile(collected({{3, 4, 5}}), 256);
  EXPECT_EQ(above.min, 0);
  EXPECT_EQ(above.max, 5);
  const Range zeros = choose_percentile(collected({{0, 0, 0}}), 256);
  EXPECT_EQ(zeros.min, 0);
  EXPECT_EQ(zeros.max, 0);
}

// Sorted data as the oracle: each end lies within a bin of the exact quantile, outside it.
TEST(Percentile, EndsAreQuantilesRoundedOutToABin) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    std::cauchy_distribution<float> heavy;
    std::vector<float> values(60000 + 1000 * seed);
    for (float& v : values) v = std::clamp(heavy(random), -5000.0f, 5000.0f);
    const HistogramStatistics s = collected({values});
    const Range r = choose_percentile(s, 256);
    std::ranges::sort(values);
    const auto out = static_cast<size_t>(0.00005 * static_cast<double>(values.size()));
    const double low = values[out], high = values[values.size() - 1 - out];
    EXPECT_LE(r.min, low);
    EXPECT_GE(r.min, low - s.bin_width());
    EXPECT_GE(r.max, high);
    EXPECT_LE(r.max, high + s.bin_width());
  }
}

}  // namespace
}  // namespace octavo
