#include <cmath>
#include <vector>

#include "quantize/calibrators/search.h"

namespace octavo {

Range choose_entropy(const HistogramStatistics& s, int levels) {
  constexpr int bins = HistogramStatistics::bins;
  const auto counts = s.counts();
  const int first = static_cast<int>(std::floor((s.min() + s.limit()) / s.bin_width()));
  const int last =
      std::min(bins, static_cast<int>(std::floor((s.max() + s.limit()) / s.bin_width())) + 1);
  if (s.limit() == 0 || last - first <= levels) return choose_max(s, levels);
  // Spikes: values that the integers hold exactly, so that spreading them over a level would be
  // charged for nothing. Zero always is; the extremes are as long as the range reaches them.
  std::vector<double> data(counts.begin(), counts.end());
  const auto spike = [&](int at, int neighbour) {
    double& c = data[static_cast<size_t>(at)];
    const double usual = std::min(c, data[static_cast<size_t>(neighbour)]), extra = c - usual;
    c = usual;
    return extra;
  };
  const double spike_below = first < bins / 2 ? spike(first, first + 1) : 0;
  const double spike_above = last - 1 > bins / 2 ? spike(last - 1, last - 2) : 0;
  spike(bins / 2, last - 1 > bins / 2 ? bins / 2 + 1 : bins / 2 - 1);
  // Prefix sums of count, occupied bins and count * log(count): one level's divergence in O(1).
  std::vector<double> n(bins + 1, 0), occupied(bins + 1, 0), plogp(bins + 1, 0);
  for (size_t i = 0; i < bins; ++i) {
    const double c = data[i];
    n[i + 1] = n[i] + c;
    occupied[i + 1] = occupied[i] + (c > 0);
    plogp[i + 1] = plogp[i] + (c > 0 ? c * std::log(c) : 0);
  }
  const double total = n[bins] + spike_below + spike_above;
  return search_range(s, [&](const Range& r) {
    // P: the data with what is outside piled on the first and last bin inside. Q: P without the
    // pile, each level's mass spread evenly over its occupied bins. D(P || Q).
    const auto bin = [&](double x) {
      return std::clamp(static_cast<int>(std::floor((x + s.limit()) / s.bin_width())), 0, bins - 1);
    };
    const int from = std::max(bin(r.min), first),
              to = std::min(bin(r.max) + (r.max > 0 ? 1 : 0), last);
    if (to - from < levels) return std::numeric_limits<double>::infinity();
    const double below = from > first ? n[static_cast<size_t>(from)] + spike_below : 0;
    const double above = to < last ? n[bins] - n[static_cast<size_t>(to)] + spike_above : 0;
    double divergence = 0;
    const double width = static_cast<double>(to - from) / levels;
    for (int level = 0; level < levels; ++level) {
      const auto a = static_cast<size_t>(from + static_cast<int>(level * width));
      const auto b = static_cast<size_t>(
          level + 1 == levels ? to : from + static_cast<int>((level + 1) * width));
      const double mass = n[b] - n[a], places = occupied[b] - occupied[a];
      if (mass == 0) continue;
      // sum over the level of p log(p / q), q = mass / places, both still counts.
      divergence += plogp[b] - plogp[a] - mass * std::log(mass / places);
    }
    // The piles add to P at the edge bins what Q lacks there.
    const auto pile = [&](size_t edge, double extra) {
      if (extra == 0) return;
      const double c = data[edge];
      const double q =
          std::max(c, 1e-3);  // an empty edge bin cannot explain the pile: costly, not infinite
      divergence += (c + extra) * std::log((c + extra) / q) - (c > 0 ? c * std::log(c / q) : 0);
    };
    pile(static_cast<size_t>(from), below);
    pile(static_cast<size_t>(to - 1), above);
    const double inside = total - below - above;
    // Normalise: P sums to total, Q to what is inside.
    return inside > 0 ? divergence / total + std::log(inside / total)
                      : std::numeric_limits<double>::infinity();
  });
}

}  // namespace octavo
