// Weight-only quantization: constants of products and gathered tables become integers of 8 or 4
// bits behind a dequantize; activations stay float.
//   8 bits        i8 in [-127, 127], symmetric
//   4 bits        u4 with a zero point, or i4 in [-8, 7] where the target wants none
// A scale (and zero point) is for a channel, a row of a table, or a group of elements along it.
#pragma once
#include <map>
#include <span>
#include <string>
#include <utility>
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
  std::vector<int8_t> values;                    // [channels, length]; u4 in [0, 15]
  std::vector<float> scales;                     // [channels, groups]
  std::vector<int8_t> zeros;                     // the same; empty: symmetric
  size_t place(size_t channel, size_t k) const;  // of its scale and zero point
  float scale(size_t channel, size_t k) const { return scales[place(channel, k)]; }
  int zero(size_t channel, size_t k) const { return zeros.empty() ? 0 : zeros[place(channel, k)]; }
  float dequantized(size_t channel, size_t k) const;
  std::pair<int, int> bounds() const;  // of the values
};

// Scales by `method`: "max": the range of a group; all others: of the scales up to that, the one of
// least squared error, in which element k counts `importance`[k] times if that is given. Rounded to
// nearest.
GroupedRows quantize_rows(const WeightRows& rows, const GroupScheme& scheme,
                          const std::string& method, std::span<const double> importance = {});
// Of a placed product or table.
GroupScheme scheme_of(const PlacedProduct& placed, const Placement& placement);
// Of what `rows` lose.
double sqnr_db(const WeightRows& rows, const GroupedRows& quantized);

// By node name, for every weight-only product and table of a placement.
using RowsByNode = std::map<std::string, GroupedRows>;
RowsByNode integer_weights(const Placement& placement, const std::string& method);
WeightRows rows_of(const PlacedProduct& placed);

// Puts them into a graph that has the placement's nodes by name.
void apply_integer_weights(Graph& graph, const Placement& placement, const RowsByNode& weights);

}  // namespace octavo
