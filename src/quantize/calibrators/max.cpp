#include <algorithm>

#include "quantize/calibrators/calibrators.h"

namespace octavo {

Range choose_max(const HistogramStatistics& s, int) {
  return {std::min<double>(s.min(), 0), std::max<double>(s.max(), 0)};
}

}  // namespace octavo
