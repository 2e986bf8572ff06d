// Equality of graphs, for tests and round trips.
#pragma once
#include <string>

#include "graph/graph.h"

namespace octavo {

struct SameGraphOptions {
  bool names = true;      // of values, nodes and the graph
  bool constants = true;  // their elements; types are always compared
};

// The same nodes in the same order with bit-equal attributes and constants. If not, `difference`
// (may be null) says where they first part.
bool same_graph(const Graph& a, const Graph& b, std::string* difference = nullptr,
                const SameGraphOptions& what = {});

// Bit-equal (NaN equals itself, -0.0 differs from 0.0).
bool same_attribute(const Attribute& a, const Attribute& b);

}  // namespace octavo
