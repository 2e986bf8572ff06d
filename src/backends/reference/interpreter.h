// Runs a graph node by node with the ops' plain definitions. Slow and trusted: the judge of every
// other path, and what constant folding uses.
#pragma once
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "graph/graph.h"

namespace octavo {

// Called with each value once it is known, inputs included; may be empty.
using ValueObserver = std::function<void(const Value& value, const Tensor& tensor)>;

// UserError if the number, types or shapes of `inputs` do not fit the graph's (symbols are bound
// and must agree). A tensor is freed after its last use.
std::vector<Tensor> interpret(const Graph& graph, std::span<const Tensor> inputs,
                              const ValueObserver& observe = {});

// One node on known tensors (null where an input is left out). The output dims are inferred from
// the tensors. Types of the node's own values are not read.
std::vector<Tensor> interpret_node(const Node& node, std::span<const Tensor* const> inputs);

// The same, unless an output would have more than `most_elements`: then none.
std::optional<std::vector<Tensor>> fold_node(const Node& node,
                                             std::span<const Tensor* const> inputs,
                                             int64_t most_elements);

}  // namespace octavo
