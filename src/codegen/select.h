// From a node of the lowered graph to the kernel that runs it.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "runtime/step.h"

namespace octavo {

struct Selected {
  std::unique_ptr<const StepKernel> kernel;
  std::vector<std::string> declined;  // "kernel: reason" of those asked before
  // Inputs that the kernel holds copies of (packed weights): the step passes null for them.
  std::vector<size_t> absorbed;
};

struct Selector {
  std::string_view op;
  // A kernel, or null with a line in `selected.declined`.
  void (*select)(const Node& node, Selected& selected);
};

// One row per op that has kernels; the rest run on the reference kernel.
std::span<const Selector> selectors();

// Never null: the reference kernel takes what all others decline.
Selected select_kernel(const Node& node);

}  // namespace octavo
