// All that a placement says, into a graph: static products, dynamic ones, weight-only products and
// tables.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "quantize/apply.h"
#include "quantize/apply_dynamic.h"
#include "quantize/integer_weights.h"

namespace octavo {

// A copy of the placement's graph. `integers` holds at least the placement's weight-only products
// and tables; dynamic products get their weights by `weight_method`: max, or else mse. `reports`,
// if given, receives theirs.
Graph apply_placement(const Graph& graph, const Placement& placement,
                      const std::map<std::string, ActivationParams>& activations,
                      const std::map<std::string, WeightParams>& weights,
                      const RowsByNode& integers, const std::string& weight_method,
                      std::vector<DynamicReport>* reports = nullptr);

}  // namespace octavo
