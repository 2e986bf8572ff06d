// Weight-only quantization: constants of products and gathered tables become integers of 8 or 4
// bits behind a dequantize; activations stay float.
//   8 bits        i8 in [-127, 127], symmetric
//   4 bits        u4 with a zero point, or i4 in [-8, 7] where the target wants none
// A scale (and zero point) is for a channel, a row of a table, or a group of elements along it.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "quantize/placement/placement.h"
#include "quantize/weights.h"

namespace octavo {

struct GroupScheme {
  int bits = 8;
  bool symmetric = true;
  int64_t group = 0;  // elements of a row that share a scale; 0: all
};

struct GroupedRows {
  GroupScheme scheme;
  size_t channels = 0, length = 0, groups = 1;
  std::vector<int8_t> values;  // [channels, length]; u4 in [0, 15]
  std::vector<float> scales;   // [channels, groups]
  std::vector<int8_t> zeros;   // the same; empty: symmetric
  float dequantized(size_t channel, size_t k) const;
};

// Scales by `method`: "max": the range of a group; "mse": of the scales up to that, the one of
// least squared error. Rounded to nearest.
GroupedRows quantize_rows(const WeightRows& rows, const GroupScheme& scheme,
                          const std::string& method);
// Of what `rows` lose.
double sqnr_db(const WeightRows& rows, const GroupedRows& quantized);

// By node name, for every weight-only product and table of a placement.
using IntegerWeights = std::map<std::string, GroupedRows>;
IntegerWeights integer_weights(const Placement& placement, const std::string& method);
WeightRows rows_of(const PlacedProduct& placed);

// Puts them into a graph that has the placement's nodes by name.
void apply_integer_weights(Graph& graph, const Placement& placement, const IntegerWeights& weights);

}  // namespace octavo
