#include "quantize/weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace octavo {
namespace {

double squared_error(const float* row, size_t length, double scale) {
  double sum = 0;
  for (size_t k = 0; k < length; ++k) {
    const double q = std::clamp(std::nearbyint(row[k] / scale), -127.0, 127.0);
    sum += (row[k] - q * scale) * (row[k] - q * scale);
  }
  return sum;
}

TEST(Weights, RowsAreOutputChannelsOfEveryLayout) {
  const Tensor w = Tensor::from(Dims{2, 3}, std::vector<float>{1, 2, 3, 4, 5, 6});
  EXPECT_EQ(weight_rows(w, 0).values, (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(weight_rows(w, 1).values, (std::vector<float>{1, 4, 2, 5, 3, 6}));
  EXPECT_EQ(integer_tensor({1, 4, 2, 5, 3, 6}, w, 1).to_ints(),
            (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
}

TEST(Weights, ScalesByMagnitudeAndBySquaredErrorAreWhatTheyClaim) {
  const auto seed = static_cast<uint64_t>(std::random_device{}());
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937_64 random(seed);
  std::student_t_distribution<float> heavy(3);
  WeightRows rows{30, 50, std::vector<float>(1500)};
  for (float& v : rows.values) v = heavy(random);
  for (size_t k = 0; k < 50; ++k) rows.values[k] = 0;  // a dead channel
  const auto max = max_scales(rows), mse = mse_scales(rows);
  EXPECT_EQ(max[0], 0);
  for (size_t c = 1; c < 30; ++c) {
    const float* row = &rows.values[c * 50];
    float amax = 0;
    for (size_t k = 0; k < 50; ++k) amax = std::max(amax, std::abs(row[k]));
    EXPECT_EQ(max[c], amax / 127);
    // The least of the same grid in float64; ours rounds w / scale in float32, which moves a value
    // at a tie only, where both neighbours are as good.
    double least = squared_error(row, 50, max[c]);
    for (int i = 0; i < 80; ++i)
      least = std::min(least,
                       squared_error(row, 50, amax / 127 * (1 - 0.005f * static_cast<float>(i))));
    EXPECT_LE(squared_error(row, 50, mse[c]), least * (1 + 1e-4));
  }
}

TEST(Weights, ClipsOneWeightWhereTheOthersGain) {
  WeightRows rows{1, 50, std::vector<float>(50, 100.5f)};  // half a step off, but for the last
  rows.values[49] = 127;
  EXPECT_EQ(max_scales(rows)[0], 1);
  EXPECT_LT(mse_scales(rows)[0], 1);
}

TEST(Weights, NearestIsHalfToEvenAndBounded) {
  const WeightRows rows{1, 6, {0.5f, 1.5f, -2.5f, 126.6f, 500, -500}};
  EXPECT_EQ(round_to_nearest(rows, std::vector<float>{1}),
            (std::vector<int8_t>{0, 2, -2, 127, 127, -127}));
}

TEST(Weights, LeastScaleLeavesRoomForTheBias) {
  for (const float bias : {0.0f, 1e-20f, 3.0f, -700.0f})
    for (const float x_scale : {1e-3f, 0.5f})
      EXPECT_LE(std::abs(bias) / (static_cast<double>(least_scale(bias, x_scale)) * x_scale),
                (1 << 24) * (1 + 1e-6));
}

}  // namespace
}  // namespace octavo
