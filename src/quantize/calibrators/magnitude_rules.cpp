#include <algorithm>
#include <cmath>
#include <limits>

#include "quantize/calibrators/magnitudes.h"
#include "support/error.h"

namespace octavo {
namespace {

constexpr float zero_amax = 0x1p-24F;  // an absolute maximum up to here quantizes all to 0
constexpr double infinity = std::numeric_limits<double>::infinity();

void check_filled(const MagnitudeHistogram& h) {
  if (h.empty())
    throw UserError(ErrorKind::value, "calibration", "nothing was collected",
                    "call collect with data first");
}

void check_candidates(const MagnitudeHistogram& h, int stride, int start_bin, size_t stop) {
  check_filled(h);
  if (stride < 1 || start_bin < 1)
    throw UserError(ErrorKind::value, "calibration",
                    fmt::format("stride {} from bin {}", stride, start_bin), "both start at 1");
  if (static_cast<size_t>(start_bin) >= stop)
    throw UserError(ErrorKind::value, "calibration",
                    fmt::format("there is no bin {} in {}", start_bin, h.counts().size()),
                    "lower start_bin or collect into more bins");
}

void check_bits(int bits) {
  if (bits < 2 || bits > 16)
    throw UserError(ErrorKind::value, "calibration", fmt::format("{} bits", bits), "use 2 to 16");
}

// Prefix sums, element i of the first i bins.
struct Prefix {
  std::vector<double> of;
  template <class Value>
  Prefix(size_t n, Value value) : of(n + 1, 0) {
    for (size_t i = 0; i < n; ++i) of[i + 1] = of[i] + value(i);
  }
  double operator()(size_t from, size_t to) const { return of[to] - of[from]; }
};

// The cheapest centre: sum of counts * (centre - quantized centre)^2 where the positive values that
// can be represented are grid[k] * amax / grid.back(), as value(k, amax) rounds them, and
// nearest(x) is the k whose grid[k] is nearest to x. Sums over levels, not over bins, where those
// are fewer.
template <class Nearest, class Value>
float search_mse(const MagnitudeHistogram& h, int stride, int start_bin,
                 const std::vector<double>& grid, Nearest nearest, Value value) {
  const auto counts = h.counts();
  const size_t n = counts.size();
  check_candidates(h, stride, start_bin, n);
  if (h.last_edge() == 0) return 0;
  const std::vector<float> edges = h.edges();
  std::vector<float> centres(n);
  for (size_t i = 0; i < n; ++i) centres[i] = (edges[i] + edges[i + 1]) / 2;
  const auto count = [&](size_t i) { return static_cast<double>(static_cast<float>(counts[i])); };
  const auto c = [&](size_t i) { return static_cast<double>(centres[i]); };
  const Prefix zeroth(n, count);
  const Prefix first(n, [&](size_t i) { return count(i) * c(i); });
  const Prefix second(n, [&](size_t i) { return count(i) * c(i) * c(i); });
  const double bins_per_unit = static_cast<double>(n) / static_cast<double>(edges[n]);
  // The first centre that is not below x.
  const auto position = [&](double x) {
    size_t i = std::min(static_cast<size_t>(x * bins_per_unit + 0.5), n);
    while (i > 0 && c(i - 1) >= x) --i;
    while (i < n && c(i) < x) ++i;
    return i;
  };
  std::vector<double> midpoint(grid.size() - 1);  // of level k and the next
  for (size_t k = 0; k < midpoint.size(); ++k) midpoint[k] = (grid[k] + grid[k + 1]) / 2;
  double least = infinity;
  float best = centres[static_cast<size_t>(start_bin)];
  for (size_t i = static_cast<size_t>(start_bin); i < n; i += static_cast<size_t>(stride)) {
    const float amax = centres[i];
    double cost = 0;
    const auto add = [&](size_t from, size_t to, double v) {
      if (from < to) cost += second(from, to) - 2 * v * first(from, to) + v * v * zeroth(from, to);
    };
    if (amax <= zero_amax) {
      add(0, n, 0);
    } else {
      const double unit = static_cast<double>(amax) / grid.back();
      // What is clipped first: most candidates lose by that alone.
      const size_t top = grid.size() - 1;
      const size_t clipped = position(midpoint[top - 1] * unit);
      add(clipped, n, value(top, amax));
      size_t k = 0;
      for (size_t from = 0; from < clipped && cost < least; ++k) {
        if (c(from) > midpoint[k] * unit) k = std::min(nearest(c(from) / unit), top - 1);
        const size_t to = std::clamp(position(midpoint[k] * unit), from + 1, clipped);
        add(from, to, value(k, amax));
        from = to;
      }
    }
    if (cost < least) {
      least = cost;
      best = amax;
    }
  }
  return best;
}

}  // namespace

float mse_amax(const MagnitudeHistogram& h, int bits, bool is_unsigned, int stride, int start_bin) {
  check_bits(bits);
  std::vector<double> grid(size_t{1} << static_cast<unsigned>(bits - 1 + (is_unsigned ? 1 : 0)));
  for (size_t k = 0; k < grid.size(); ++k) grid[k] = static_cast<double>(k);
  const auto bound = static_cast<float>(grid.back());
  return search_mse(
      h, stride, start_bin, grid, [](double x) { return static_cast<size_t>(x + 0.5); },
      [&](size_t k, float amax) {
        return static_cast<double>(static_cast<float>(k) / (bound / amax));
      });
}

float mse_amax_e4m3(const MagnitudeHistogram& h, int stride, int start_bin) {
  std::vector<double> grid;  // multiples of 2^-9 below 2^-6, then eight to each power of two
  grid.reserve(128);
  for (int k = 0; k < 8; ++k) grid.push_back(std::ldexp(k, -9));
  for (int e = -6; e <= 8; ++e)
    for (int m = 8; m < 16; ++m) grid.push_back(std::ldexp(m, e - 3));
  grid.pop_back();  // 480 is NaN's pattern
  const auto nearest = [&](double x) {
    const auto above = static_cast<size_t>(std::ranges::lower_bound(grid, x) - grid.begin());
    if (above == 0 || above == grid.size()) return above;
    return x - grid[above - 1] < grid[above] - x ? above - 1 : above;
  };
  return search_mse(h, stride, start_bin, grid, nearest, [&](size_t k, float amax) {
    return static_cast<double>(static_cast<float>(grid[k]) / (448.0F / amax));
  });
}

float entropy_amax(const MagnitudeHistogram& h, int bits, bool is_unsigned, int stride,
                   int start_bin) {
  check_bits(bits);
  check_candidates(h, stride, start_bin, h.counts().size() + 1);
  if (h.last_edge() == 0) return 0;
  const size_t n = h.counts().size();
  std::vector<double> data(n);
  for (size_t i = 0; i < n; ++i) data[i] = static_cast<double>(h.counts()[i]);
  if (n > 1) data[0] = data[1];
  const auto plogp = [](double p) { return p > 0 ? p * std::log(p) : 0; };
  const Prefix mass(n, [&](size_t i) { return data[i]; });
  const Prefix places(n, [&](size_t i) { return data[i] > 0 ? 1.0 : 0.0; });
  const Prefix entropy(n, [&](size_t i) { return plogp(data[i]); });
  const size_t levels = size_t{1} << static_cast<unsigned>(bits - 1 + (is_unsigned ? 1 : 0));
  // A level holds i / levels bins or one more. What it adds, sum p log(p / q), depends on its bins
  // alone and is looked up for the two lengths in turn.
  constexpr double unknown = -1;  // a term is never negative, but for rounding
  std::vector<double> term[2] = {std::vector<double>(n, unknown), std::vector<double>(n, unknown)};
  size_t length[2] = {0, 0};
  const auto level_term = [&](size_t from, size_t to) {
    const size_t size = to - from, row = size % 2;
    if (length[row] != size) {
      std::ranges::fill(term[row], unknown);
      length[row] = size;
    }
    double& t = term[row][from];
    if (t == unknown) {
      const double m = mass(from, to);
      t = m > 0 ? std::max(entropy(from, to) - m * std::log(m / places(from, to)), 0.0) : 0;
    }
    return t;
  };
  const double total = mass(0, n);
  double least = infinity;
  size_t best = static_cast<size_t>(start_bin);
  for (size_t i = static_cast<size_t>(start_bin); i <= n; i += static_cast<size_t>(stride)) {
    // Level k begins at the first bin that is not below k * i / levels.
    double divergence = 0;
    size_t from = 0, last_from = i - 1;
    for (size_t k = 1; k <= levels && levels < i; ++k) {  // else no level holds two bins
      const size_t to = (k * i + levels - 1) / levels;
      if (to == from) continue;
      divergence += level_term(from, to);
      last_from = from;
      from = to;
    }
    const double inside = mass(0, i), beyond = total - inside;
    if (inside <= 0) {
      divergence = infinity;
    } else {
      if (beyond > 0) {  // the last bin's p counts what lies beyond, its q does not
        const double p = data[i - 1];
        if (p <= 0) {
          divergence = infinity;
        } else {
          const double q = mass(last_from, i) / places(last_from, i);
          divergence += (p + beyond) * std::log((p + beyond) / q) - p * std::log(p / q);
        }
      }
      divergence = divergence / total + std::log(inside / total);
    }
    if (divergence <= least) {
      least = divergence;
      best = i;
    }
  }
  return h.edges()[best];
}

float percentile_amax(const MagnitudeHistogram& h, double percent) {
  check_filled(h);
  if (!(percent >= 0 && percent <= 100))
    throw UserError(ErrorKind::value, "calibration", fmt::format("percentile {}", percent),
                    "give 0 to 100");
  const auto counts = h.counts();
  const double wanted = percent / 100;
  double share = 0;
  size_t i = 0;
  for (; i < counts.size(); ++i) {
    share += static_cast<double>(counts[i]) / static_cast<double>(h.total());
    if (share >= wanted) break;
  }
  return h.edges()[i];
}

}  // namespace octavo
