// A quantized graph cut before each of its products, so that it can be run piece by piece for many
// inputs: what lies between one cut and the next is a graph of its own.
#pragma once
#include <string>
#include <vector>

#include "graph/graph.h"

namespace octavo {

// What each product needs at its turn.
struct Demand {
  const Node* product;
  std::vector<const Value*> values;  // defined before it
};

// For each demand the values to hold when it is the product's turn: what it demands, and what later
// products follow from. A value behind a dequantize of a tensor is held as integers. Products in
// graph order.
std::vector<std::vector<std::string>> cuts(const Graph& graph, const std::vector<Demand>& demands);

// The value that is held for `value`: the integers behind it if there are any.
const Value* held(const Value* value);

// The part of the graph that computes `outputs` from `inputs` (values by name) and constants; it
// takes those of the inputs that count, in their order.
Graph extract(const Graph& graph, const std::vector<std::string>& inputs,
              const std::vector<std::string>& outputs);

}  // namespace octavo
