#include <gtest/gtest.h>

#include <random>

#include "quantize/calibrators/calibrators.h"

namespace octavo {
namespace {

HistogramStatistics statistics_of(const std::vector<float>& values) {
  HistogramStatistics s;
  s.collect(values);
  return s;
}

class Entropy : public testing::Test {
 protected:
  std::vector<float> normal(size_t count) {
    std::normal_distribution<float> one(0, 1);
    std::vector<float> v(count);
    for (float& x : v) x = one(random_);
    return v;
  }
  std::mt19937 random_{20170508};
};

// A ReLU6's output: most values are exactly 0, some exactly 6. Both are integers' values, so their
// spikes are no reason to clip; they once took the range to a third.
TEST_F(Entropy, SpikesAtZeroAndAtTheExtremesAreNoReasonToClip) {
  for (float scale : {1.0f, 1.5f, 2.5f}) {
    std::vector<float> values = normal(400000);
    for (float& v : values) v = std::clamp(scale * v, 0.0f, 6.0f);
    const Range r = choose_entropy(statistics_of(values), 256);
    const float max = *std::max_element(values.begin(), values.end());
    EXPECT_EQ(r.min, 0) << scale;
    EXPECT_GT(r.max, 0.75 * max) << scale;
    EXPECT_LE(r.max, max) << scale;
    // The same, upside down.
    for (float& v : values) v = -v;
    const Range mirrored = choose_entropy(statistics_of(values), 256);
    EXPECT_EQ(mirrored.max, 0) << scale;
    EXPECT_LT(mirrored.min, -0.75 * max) << scale;
  }
}

TEST_F(Entropy, OutliersAreClipped) {
  std::vector<float> values = normal(400000);
  values[17] = 40, values[18] = -35;
  const Range r = choose_entropy(statistics_of(values), 256);
  EXPECT_LT(r.max, 10);
  EXPECT_GT(r.max, 3);
  EXPECT_GT(r.min, -10);
  EXPECT_LT(r.min, -3);
}

TEST_F(Entropy, WithFewerBinsThanLevelsItIsMax) {
  std::vector<float> values = normal(1000);
  const HistogramStatistics s = statistics_of(values);
  const Range r = choose_entropy(s, 65536), max = choose_max(s, 65536);
  EXPECT_EQ(r.min, max.min);
  EXPECT_EQ(r.max, max.max);
  const Range zeros = choose_entropy(statistics_of(std::vector<float>(10, 0.0f)), 256);
  EXPECT_EQ(zeros.min, 0);
  EXPECT_EQ(zeros.max, 0);
}

}  // namespace
}  // namespace octavo
