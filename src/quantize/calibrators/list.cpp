#include "quantize/calibrators/calibrators.h"
#include "support/error.h"

namespace octavo {
namespace {
constexpr Calibrator list[] = {
    {"max", "the extremes of the data", choose_max},
    {"moving_average", "moving averages of each batch's extremes", choose_moving_average},
    {"percentile", "leaves out 0.01% of the values", choose_percentile},
    {"entropy", "least Kullback-Leibler divergence", choose_entropy},
    {"mse", "least mean squared error", choose_mse},
};
}  // namespace

std::span<const Calibrator> calibrators() { return list; }

std::string calibrator_names() {
  std::string names;
  for (const Calibrator& c : list) names += (names.empty() ? "" : ", ") + std::string(c.name);
  return names;
}

const Calibrator& find_calibrator(const std::string& name) {
  for (const Calibrator& c : list)
    if (name == c.name) return c;
  throw UserError(ErrorKind::value, "calibrator", fmt::format("'{}' is not known", name),
                  "use one of: " + calibrator_names());
}

}  // namespace octavo
