#include "quantize/calibrators/least_norm.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/error.h"

namespace octavo {
namespace {

// The whole part of a / b rounded down, from the exact remainder.
float floor_divide(float a, float b) {
  const float rest = std::fmod(a, b);
  float quotient = (a - rest) / b;
  if (rest != 0 && (b < 0) != (rest < 0)) quotient -= 1;
  if (quotient == 0) return 0;
  float whole = std::floor(quotient);
  if (quotient - whole > 0.5f) whole += 1;
  return whole;
}

// Integral of density * x^2 from `begin` to `end`.
float norm(float begin, float end, float density) {
  return density * ((end * end * end - begin * begin * begin) / 3);
}

double error_of(std::span<const float> counts, BinRange range, double bin_width, int levels) {
  const double level_width = bin_width * static_cast<double>(range.last - range.first + 1) / levels;
  if (level_width == 0) return 0;
  const auto bin = static_cast<float>(bin_width), level = static_cast<float>(level_width);
  const auto half = static_cast<float>(level_width / 2);
  const auto most = static_cast<float>(levels - 1);
  double sum = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] == 0) continue;
    const float begin = static_cast<float>(static_cast<int64_t>(i) - range.first) * bin;
    const float end = begin + bin;
    const float first = std::clamp(floor_divide(begin, level), 0.0f, most);
    const float last = std::clamp(floor_divide(end, level), 0.0f, most);
    const float density = counts[i] / bin;
    const float first_center = (first + 0.5f) * level, last_center = last * level + half;
    float error = norm(begin - first_center, half, density);
    error += (last - first - 1) * norm(-half, half, density);
    error += norm(-half, end - last_center, density);
    sum += error;
  }
  return sum;
}

}  // namespace

BinRange least_norm_range(std::span<const float> counts, std::span<const float> cumulated,
                          double total, double min, double max, int levels) {
  if (counts.empty() || counts.size() != cumulated.size() || levels < 2)
    throw UserError(ErrorKind::value, "histogram", "no bins, or sums of another size",
                    "give as many sums as bins");
  if (!(std::isfinite(min) && std::isfinite(max) && min <= max))
    throw UserError(ErrorKind::value, "histogram", fmt::format("range [{}, {}]", min, max),
                    "give finite bounds in order");
  constexpr double step = 1e-5;
  const double bin_width = (max - min) / static_cast<double>(counts.size());
  double low = 0, high = 1, least = std::numeric_limits<double>::infinity();
  BinRange best{0, static_cast<int64_t>(counts.size()) - 1};
  while (low < high) {
    const double next_low = low + step, next_high = high - step;
    int64_t l = best.first, r = best.last;
    const auto below = static_cast<float>(next_low * total);
    const auto above = static_cast<float>(next_high * total);
    while (l < best.last && cumulated[static_cast<size_t>(l)] < below) ++l;
    while (r > best.first && cumulated[static_cast<size_t>(r)] > above) --r;
    BinRange next = best;
    if (l - best.first > best.last - r) {
      next.first = l;
      low = next_low;
    } else {
      next.last = r;
      high = next_high;
    }
    if (next.first == best.first && next.last == best.last) continue;
    const double error = error_of(counts, next, bin_width, levels);
    if (error > least) break;
    least = error;
    best = next;
  }
  return best;
}

}  // namespace octavo
