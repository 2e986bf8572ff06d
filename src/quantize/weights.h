// How the weights of a product become integers.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quantize/apply.h"

namespace octavo {

// A product's weights as rows of one output channel each.
struct WeightRows {
  size_t channels = 0, length = 0;
  std::vector<float> values;  // [channels, length]; of a conv, length runs over [C/group, KH, KW]
};
WeightRows weight_rows(const Tensor& weights, int64_t output_axis);
// Rows of integers back in the layout of `like`.
Tensor integer_tensor(const std::vector<int8_t>& rows, const Tensor& like, int64_t output_axis);

// The least scale a channel may have: its bias must fit the int32 accumulator with room for the
// sum.
float least_scale(float bias, float x_scale);

// Symmetric scales in [-127, 127], one per channel: the largest magnitude, or the scale of least
// squared error among 80 from 0.6 to 1 of that.
std::vector<float> max_scales(const WeightRows& rows);
std::vector<float> mse_scales(const WeightRows& rows);

std::vector<int8_t> round_to_nearest(const WeightRows& rows, std::span<const float> scales);

// "max, mse" for help texts.
std::string weight_method_names();

}  // namespace octavo
