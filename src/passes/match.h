// Small questions that several passes ask of a graph.
#pragma once
#include <optional>

#include "graph/graph.h"

namespace octavo {

// The one node that reads `value`, if it is read once and is no graph output; else null.
inline Node* only_user(const Graph& graph, const Value* value) {
  return value->has_one_use() && !graph.is_output(value) ? value->uses()[0].node : nullptr;
}

// Scale and zero point of a quantize or dequantize whose parameters are constants.
struct QuantInfo {
  DType dtype;                       // of the integers
  std::vector<float> scales;         // one, or one per index of `axis`
  std::vector<int32_t> zero_points;  // as many
  int64_t axis = 0;                  // meaningless for one scale
  bool per_tensor() const { return scales.size() == 1; }
  float scale() const { return scales[0]; }
  int32_t zero_point() const { return zero_points[0]; }
  friend bool operator==(const QuantInfo&, const QuantInfo&) = default;
};
// Of a quantize or dequantize node; none if the parameters are not constant or grouped, or the
// integers packed.
std::optional<QuantInfo> quant_info(const Node& node);

// If `value` is dequantize(integers of 8 bits, one constant scale): the dequantize node.
const Node* byte_dequantize(const Value* value);
// The quantize node (one constant scale, 8 bits) that alone reads `value`; else null.
Node* only_byte_quantize(const Graph& graph, const Value* value);

// relu and clip as bounds; none for other nodes.
struct Bounds {
  double lo, hi;
};
std::optional<Bounds> clamp_bounds(const Node& node);

// The slope of a leaky_relu that a product can take over: above 0 and at most 1.
std::optional<double> fusible_slope(const Node& product, const Node& leaky_relu);

// The single element of a constant; none if it is not constant or has more elements.
std::optional<double> scalar_constant(const Value* value);

// A constant, or a dequantized one; empty otherwise.
Tensor float_constant(const Value* value);

}  // namespace octavo
