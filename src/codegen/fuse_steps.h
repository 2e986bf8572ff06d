// Which nodes of a lowered graph run as one step: functions of one element, over tiles.
#pragma once
#include <vector>

#include "graph/graph.h"
#include "runtime/step.h"

namespace octavo {

// One step of a plan: a node, or a group of pointwise ones whose outputs have one shape.
struct StepItem {
  std::vector<const Node*> nodes;
};

// All nodes of the graph, in an order that respects uses.
std::vector<StepItem> fused_steps(const Graph& graph);

struct FusedStep {
  std::unique_ptr<const StepKernel> kernel;
  std::vector<const Value*> inputs, outputs;
};
// Of a group of two nodes or more, or of one that has no kernel of its own.
FusedStep make_fused_step(const Graph& graph, const StepItem& item);
// Whether make_fused_step takes it.
bool is_group(const StepItem& item);

// A node that only repeats elements for groups, which read its input instead.
bool is_absorbed_expand(const Graph& graph, const Node& node);

}  // namespace octavo
