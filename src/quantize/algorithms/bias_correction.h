// Mean errors that a bias takes away for nothing at run time.
#pragma once
#include <vector>

#include "quantize/algorithms/product_input.h"
#include "quantize/apply.h"

namespace octavo {

// The tensor that is added to a product's output at once, and known before: a residual. The bias
// makes good its mean error too. Null members: there is none.
struct Residual {
  const Node* addition = nullptr;
  size_t index = 0;  // of the residual among the addition's inputs
  const Value* value() const { return addition->input(index); }
  explicit operator bool() const { return addition != nullptr; }
};
Residual residual_of(const Graph& graph, const Node& product);

// Sums of each channel of a tensor, and how many values each has.
struct ChannelSums {
  std::vector<double> sums;
  double count = 0;
  // Of f32, or of u8 and i8 as (q - zero_point) * scale.
  void add(const Tensor& x, size_t axis, float scale = 1, int32_t zero_point = 0);
  void add(const ChannelSums& other);
  double mean(size_t channel) const { return sums[channel] / count; }
};

// Mean over all positions of what the integers compute for each output channel, without bias.
std::vector<double> integer_means(const ProductShape& product, const InputSums& x, float x_scale,
                                  const std::vector<int8_t>& q, const std::vector<float>& scales);

}  // namespace octavo
