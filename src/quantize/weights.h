// How the weights of a product become integers.
//   max   scale by the largest magnitude, rounded to nearest
//   mse   scale of least squared error, rounded to nearest
//   gptq  scale by the largest magnitude, rounded for the data: algorithms/gptq.h
//   adaround  the same by algorithms/adaround.h; of static products
//   awq   scaled up where activations are large: algorithms/awq.h; of weight-only products
//   awq+gptq  both
#pragma once
#include <cstdint>
#include <map>
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

// All become the largest.
void share_scale(std::vector<float>& scales);

std::vector<int8_t> round_to_nearest(const WeightRows& rows, std::span<const float> scales);
// One channel of them.
void round_row_to_nearest(const WeightRows& rows, size_t channel, float scale,
                          std::vector<int8_t>& q);

// The bias of a product, one value per channel; zeros if it has none.
std::vector<float> bias_of(const Node& product, size_t channels);

// Scales by the method ("mse" or by magnitude, no less than the bias allows), one for all channels
// where placed per tensor, rounded to nearest; the bias as it was.
WeightParams nearest_weights(const PlacedWeights& placed,
                             const std::map<std::string, ActivationParams>& activations,
                             const std::string& method);

// 10 log10(sum w^2 / sum (w - q s)^2); infinite where nothing is lost.
double weight_sqnr_db(const PlacedWeights& placed, const WeightParams& params);

// What a method leaves of the squared output error of rounding to nearest, about: 1 of max and mse.
double weight_error_left(const std::string& method);

// Whether the method fits weights to data.
bool looks_at_data(const std::string& method);

// "max, mse, …" for help texts; UserError unless `name` is one of them.
std::string weight_method_names();
void check_weight_method(const std::string& name);

}  // namespace octavo
