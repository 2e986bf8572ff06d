#include <algorithm>

#include "quantize/calibrators/calibrators.h"

namespace octavo {

Range choose_moving_average(const HistogramStatistics& s, int) {
  return {std::min(s.average_min(), 0.0), std::max(s.average_max(), 0.0)};
}

}  // namespace octavo
