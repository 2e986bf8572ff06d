// Constant folding during import, of small values: shape arithmetic, mostly.
#pragma once
#include <optional>
#include <vector>

#include "frontends/onnx/tags.h"
#include "graph/graph.h"

namespace octavo::onnx_import {

// The node's outputs, if they can be known now at little cost.
std::optional<std::vector<Tensor>> fold(const Node& node, Tags& tags);

}  // namespace octavo::onnx_import
