// Q/DQ into a graph, from a placement and its parameters.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "quantize/placement/placement.h"

namespace octavo {

struct ActivationParams {
  float scale = 1;
  int32_t zero_point = 0;
  DType dtype = DType::u8;
};

// Integer weights of one product; the scale and the values belong together, since methods may round
// in other ways than to nearest.
struct WeightParams {
  std::vector<float> scales;  // one per output channel; equal ones where placed per tensor
  Tensor values;              // i8, the shape of the float weights
  Tensor bias;                // f32 [channels], corrected or as it was; empty: none
};

// A copy of the placement's graph in which each placed value `v` is read by integer ops through
// v/quantized and v/dequantized, and weights are i8 constants behind a dequantize, biases i32 ones.
// Parameters are by value name (activations) and by node name (weights).
Graph apply_quantization(const Graph& graph, const Placement& placement,
                         const std::map<std::string, ActivationParams>& activations,
                         const std::map<std::string, WeightParams>& weights);

// The name of the dequantized twin of a placed value.
std::string dequantized_name(const std::string& value);

}  // namespace octavo
