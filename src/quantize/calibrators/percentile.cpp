#include <algorithm>

#include "quantize/calibrators/calibrators.h"

namespace octavo {
namespace {
constexpr double left_out = 0.00005;  // of the values at each end
}

Range choose_percentile(const HistogramStatistics& s, int) {
  const double allowed = left_out * static_cast<double>(s.count());
  const auto counts = s.counts();
  int low = 0, high = HistogramStatistics::bins;
  for (double below = 0;
       low < high && below + static_cast<double>(counts[static_cast<size_t>(low)]) <= allowed;
       ++low)
    below += static_cast<double>(counts[static_cast<size_t>(low)]);
  for (double above = 0;
       high > low && above + static_cast<double>(counts[static_cast<size_t>(high - 1)]) <= allowed;
       --high)
    above += static_cast<double>(counts[static_cast<size_t>(high - 1)]);
  return {std::min(std::max<double>(s.edge(low), s.min()), 0.0),
          std::max(std::min<double>(s.edge(high), s.max()), 0.0)};
}

}  // namespace octavo
