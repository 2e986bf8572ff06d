// Arguments against a graph's inputs, and symbols against numbers.
#pragma once
#include <map>
#include <span>
#include <string>

#include "graph/graph.h"

namespace octavo {

using SymbolBinding = std::map<std::string, int64_t, std::less<>>;

// UserError unless count, element types and shapes of `tensors` fit the inputs; the numbers that
// the symbols take.
SymbolBinding check_inputs(const Graph& graph, std::span<const Tensor> tensors);

// A copy in which the bound symbols are numbers, types inferred anew.
Graph bind_symbols(const Graph& graph, const SymbolBinding& binding);

}  // namespace octavo
