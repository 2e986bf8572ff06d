// Products of other precisions than static INT8: which of them can have theirs on a target.
#pragma once
#include <string>
#include <vector>

#include "quantize/placement/placement.h"

namespace octavo {

// Adds to `placement` the products to which the rules give a dynamic or weight-only precision; one
// that cannot have it is skipped, with the reason. UserError (unsupported) if the target has no
// form of a precision.
void place_precisions(const Graph& graph, const Rules& rules, const TargetFacts& facts,
                      Placement& placement);

// Every product of the graph and what a placement makes of it, in graph order; then the gathers
// whose tables become integers.
struct ProductPrecision {
  std::string node, op;
  Precision precision;
  int64_t group_size = 0;
  bool by_row = false;
};
std::vector<ProductPrecision> product_precisions(const Graph& graph, const Placement& placement);

}  // namespace octavo
