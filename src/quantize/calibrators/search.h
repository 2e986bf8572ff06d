// The search for both ends of an affine range that the entropy and mse calibrators share.
#pragma once
#include <algorithm>

#include "quantize/calibrators/calibrators.h"

namespace octavo {

// Least cost(range) over shrunken extremes: both ends together in tenths, then one end after the
// other on a grid that narrows round the best so far. Deterministic; ties keep the wider range.
template <class Cost>
Range search_range(const HistogramStatistics& s, Cost cost) {
  const Range full = choose_max(s, 0);
  Range best = full;
  double least = cost(full);
  double low = 1, high = 1;  // parts of the extremes
  // One end after the other alone can stop where only both together lead on.
  constexpr int tenths = 10;
  for (int i = tenths; i > 0; --i)
    for (int j = tenths; j > 0; --j) {
      if ((i < tenths && full.min == 0) || (j < tenths && full.max == 0)) continue;
      const double below = static_cast<double>(i) / tenths, above = static_cast<double>(j) / tenths;
      const Range candidate{full.min * below, full.max * above};
      const double c = cost(candidate);
      if (c < least) {
        least = c;
        best = candidate;
        low = below;
        high = above;
      }
    }
  constexpr int grid = 20;
  double step = 1.0 / grid;
  for (int round = 0; round < 3; ++round) {
    for (int sweep = 0; sweep < 2; ++sweep) {
      for (bool lower : {false, true}) {
        if ((lower ? full.min : full.max) == 0) continue;
        const double centre = lower ? low : high;
        for (int i = grid; i > -grid; --i) {
          const double part = centre + i * step;
          if (part > 1 || part < step) continue;
          const Range candidate{full.min * (lower ? part : low), full.max * (lower ? high : part)};
          const double c = cost(candidate);
          if (c < least) {
            least = c;
            best = candidate;
            (lower ? low : high) = part;
          }
        }
      }
    }
    step /= 5;
  }
  return best;
}

}  // namespace octavo
