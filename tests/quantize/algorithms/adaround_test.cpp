#include "quantize/algorithms/adaround.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace octavo {
namespace {

double form(const Moments& m, const std::vector<double>& d) {
  double sum = 0;
  for (size_t i = 0; i < m.size; ++i)
    for (size_t j = 0; j < m.size; ++j) sum += d[i] * m.values[i * m.size + j] * d[j];
  return sum;
}

struct Problem {
  WeightRows rows;
  std::vector<float> scales;
  Moments moments;
};

Problem random_problem(std::mt19937_64& random, size_t channels, size_t length) {
  std::normal_distribution<double> normal;
  Problem p{{channels, length, std::vector<float>(channels * length)}, {}, {}};
  for (float& v : p.rows.values) v = static_cast<float>(normal(random));
  p.scales = max_scales(p.rows);
  p.moments = {length, std::vector<double>(length * length, 0)};
  for (size_t s = 0; s < 3 * length; ++s) {  // inputs that have a large part in common
    std::vector<double> x(length);
    const double shared = 2 * normal(random);
    for (double& v : x) v = normal(random) + shared;
    for (size_t i = 0; i < length; ++i)
      for (size_t j = 0; j < length; ++j)
        p.moments.values[i * length + j] += x[i] * x[j] / static_cast<double>(3 * length);
  }
  return p;
}

std::vector<double> errors(const Problem& p, size_t o, const std::vector<double>& q) {
  std::vector<double> d(p.rows.length);
  for (size_t k = 0; k < d.size(); ++k)
    d[k] = static_cast<double>(p.rows.values[o * d.size() + k]) / p.scales[o] - q[k];
  return d;
}

// Against every way to round a row up and down: most of what there is to gain is gained.
TEST(AdaRound, ComesNearTheBestOfAllRoundings) {
  const auto seed = static_cast<uint64_t>(std::random_device{}());
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937_64 random(seed);
  ThreadPool pool(2);
  constexpr size_t length = 10, channels = 48;
  const Problem p = random_problem(random, channels + 2, length);
  const auto q = adaround(p.rows, p.scales, 1, channels, p.moments, pool);
  double nearest_sum = 0, ours_sum = 0, best_sum = 0;
  for (size_t o = 1; o <= channels; ++o) {
    std::vector<double> floors(length), nearest(length), ours(length), some(length);
    for (size_t k = 0; k < length; ++k) {
      const double w = static_cast<double>(p.rows.values[o * length + k]) / p.scales[o];
      floors[k] = std::floor(w);
      nearest[k] = std::nearbyint(w);
      ours[k] = q[(o - 1) * length + k];
      EXPECT_TRUE(ours[k] == floors[k] || ours[k] == std::min(floors[k] + 1, 127.0));
    }
    double best = std::numeric_limits<double>::infinity();
    for (size_t up = 0; up < size_t{1} << length; ++up) {
      for (size_t k = 0; k < length; ++k) some[k] = floors[k] + static_cast<double>(up >> k & 1);
      best = std::min(best, form(p.moments, errors(p, o, some)));
    }
    const double mine = form(p.moments, errors(p, o, ours)),
                 theirs = form(p.moments, errors(p, o, nearest));
    EXPECT_LE(mine, theirs * (1 + 1e-5));  // compared in float32
    nearest_sum += theirs, ours_sum += mine, best_sum += best;
  }
  EXPECT_LT(best_sum, 0.6 * nearest_sum);
  EXPECT_LT(ours_sum - best_sum, 0.15 * (nearest_sum - best_sum))
      << nearest_sum << ' ' << ours_sum << ' ' << best_sum;
}

// Too wide to try every rounding. What the inputs have in common weighs most: steps that suit
// single weights overshoot there, and weights that have not settled spoil it.
TEST(AdaRound, WideRowsComeAsFarAsGptq) {
  const auto seed = static_cast<uint64_t>(std::random_device{}());
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937_64 random(seed);
  ThreadPool pool(2);
  constexpr size_t length = 300, channels = 12;
  const Problem p = random_problem(random, channels, length);
  const auto sum_of = [&](const std::vector<int8_t>& q) {
    double sum = 0;
    for (size_t o = 0; o < channels; ++o) {
      std::vector<double> row(length);
      for (size_t k = 0; k < length; ++k) row[k] = q[o * length + k];
      sum += form(p.moments, errors(p, o, row));
    }
    return sum;
  };
  AdaRoundOptions options;
  options.damping = 0.1;  // as GPTQ's: one objective
  const double ours = sum_of(adaround(p.rows, p.scales, 0, channels, p.moments, pool, options)),
               gptq = sum_of(gptq_round(p.rows, p.scales, 0, channels, p.moments, 0.1, pool)),
               nearest = sum_of(round_to_nearest(p.rows, p.scales));
  // GPTQ may move a weight by more than one step.
  EXPECT_LT(ours, 1.25 * gptq) << nearest << ' ' << ours << ' ' << gptq;
}

TEST(AdaRound, DependsOnNoThreadCountAndBearsDeadInputs) {
  std::mt19937_64 random(3);
  ThreadPool one(1), three(3);
  const Problem p = random_problem(random, 40, 90);  // by the float kernels
  EXPECT_EQ(adaround(p.rows, p.scales, 0, 40, p.moments, one),
            adaround(p.rows, p.scales, 0, 40, p.moments, three));
  const Moments zero{90, std::vector<double>(8100, 0)};
  EXPECT_EQ(adaround(p.rows, p.scales, 0, 40, zero, one), round_to_nearest(p.rows, p.scales));
}

}  // namespace
}  // namespace octavo
