#include <cmath>
#include <vector>

#include "quantize/calibrators/search.h"

namespace octavo {

Range choose_mse(const HistogramStatistics& s, int levels) {
  // Non-empty bins by their centre; the noise of rounding is uniform, step^2 / 12 per value, but
  // for the bin of exact zeros, which are represented exactly.
  struct Bin {
    double centre, count;
  };
  std::vector<Bin> bins;
  double inside_total = 0;
  for (int i = 0; i < HistogramStatistics::bins; ++i)
    if (const auto count = static_cast<double>(s.counts()[static_cast<size_t>(i)]); count > 0) {
      bins.push_back({s.edge(i) + s.bin_width() / 2, count});
      inside_total += count;
    }
  // Prefix sums of count, count * c and count * c^2: the clipped mass on either side in O(log n).
  std::vector<double> n(bins.size() + 1, 0), first(bins.size() + 1, 0), second(bins.size() + 1, 0);
  for (size_t i = 0; i < bins.size(); ++i) {
    n[i + 1] = n[i] + bins[i].count;
    first[i + 1] = first[i] + bins[i].count * bins[i].centre;
    second[i + 1] = second[i] + bins[i].count * bins[i].centre * bins[i].centre;
  }
  const auto clipped = [&](size_t from, size_t to, double bound) {  // sum count (c - bound)^2
    return second[to] - second[from] - 2 * bound * (first[to] - first[from]) +
           bound * bound * (n[to] - n[from]);
  };
  const auto position = [&](double x) {
    return static_cast<size_t>(
        std::lower_bound(bins.begin(), bins.end(), x,
                         [](const Bin& b, double v) { return b.centre < v; }) -
        bins.begin());
  };
  return search_range(s, [&](const Range& r) {
    const double step = (r.max - r.min) / (levels - 1);
    const size_t low = position(r.min), high = std::max(low, position(r.max));
    return clipped(0, low, r.min) + clipped(high, bins.size(), r.max) +
           (n[high] - n[low]) * step * step / 12;
  });
}

}  // namespace octavo
