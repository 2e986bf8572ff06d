#include "quantize/integer_bias.h"

#include <algorithm>
#include <cmath>

#include "support/error.h"

namespace octavo {

IntegerBias integer_bias(std::span<const float> bias, float x_scale,
                         std::span<const float> w_scales) {
  OCTAVO_CHECK(bias.size() == w_scales.size());
  IntegerBias result;
  for (size_t c = 0; c < bias.size(); ++c) {
    const auto step = static_cast<float>(static_cast<double>(x_scale) * w_scales[c]);
    constexpr double most = 2147483647.0;
    result.steps.push_back(step);
    result.values.push_back(static_cast<int32_t>(
        std::clamp(std::nearbyint(bias[c] / static_cast<double>(step)), -most, most)));
  }
  return result;
}

}  // namespace octavo
