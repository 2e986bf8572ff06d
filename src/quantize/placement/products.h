// Products (conv, gemm, matmul) whose weights can become integers.
#pragma once
#include <optional>
#include <string>

#include "graph/graph.h"

namespace octavo {

// The axis of the output channels in a product's constant weights; none, with `why` set, if it has
// no integer form.
std::optional<int64_t> product_weight_axis(const Node& node, std::string& why);

}  // namespace octavo
