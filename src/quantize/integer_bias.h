// Biases of integer products.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace octavo {

struct IntegerBias {
  std::vector<int32_t> values;
  std::vector<float> steps;  // of the accumulator: the input's scale times the weights'
};
// Rounded to nearest and saturated. `w_scales`: as many as biases.
IntegerBias integer_bias(std::span<const float> bias, float x_scale,
                         std::span<const float> w_scales);

}  // namespace octavo
