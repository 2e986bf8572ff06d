#include "evaluate/bootstrap.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace octavo {

Interval bootstrap(size_t samples,
                   const std::function<double(std::span<const size_t> which)>& statistic) {
  std::vector<size_t> which(samples);
  std::vector<double> values(bootstrap_resamples);
  // std's distributions differ between libraries, its engines do not.
  std::mt19937_64 generator(1);
  for (double& value : values) {
    for (size_t& i : which) i = samples ? generator() % samples : 0;
    value = statistic(which);
  }
  std::sort(values.begin(), values.end());
  constexpr double tail = (1 - bootstrap_confidence) / 2;
  const auto last = static_cast<double>(bootstrap_resamples - 1);
  return {values[static_cast<size_t>(std::floor(tail * last))],
          values[static_cast<size_t>(std::ceil((1 - tail) * last))]};
}

}  // namespace octavo
