// Confidence intervals by resampling.
#pragma once
#include <cstddef>
#include <functional>
#include <span>

namespace octavo {

struct Interval {
  double low = 0, high = 0;
};

constexpr size_t bootstrap_resamples = 500;
constexpr double bootstrap_confidence = 0.95;

// Percentile bootstrap (Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979): the 2.5th
// and 97.5th percentile of `statistic` over 500 draws of `samples` indices with replacement. The
// draws are the same at every call, so that statistics of the same samples are compared on the same
// draws. `statistic` gives no NaN; infinities are ordered.
Interval bootstrap(size_t samples,
                   const std::function<double(std::span<const size_t> which)>& statistic);

}  // namespace octavo
