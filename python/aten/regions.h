#pragma once

// How a program of ATen operators is cut: regions that Octavo's ops express, calls of torch for the
// rest between them, and views, which cost torch nothing.

#include <unordered_set>

#include "lower.h"

namespace octavo::aten {

/// One step of a program, in order of execution.
struct PlannedStep {
  enum class Kind {
    region,  ///< `nodes` as one compiled graph, from `inputs` to `outputs`
    opaque,  ///< nodes[0], a call of torch
    view,    ///< nodes[0], a call of torch that copies nothing
  };
  Kind kind = Kind::region;
  std::vector<std::size_t> nodes;  ///< indices into Graph::nodes, in order
  std::vector<ValueId> inputs, outputs;
};

/// `refused`: nodes that are left to torch whatever the rules say.
std::vector<PlannedStep> cut(const Facts& facts, const std::unordered_set<std::size_t>& refused);

/// The graph of a region. An input whose strides are those of a permutation of dense memory
/// comes as that memory; see `order_of`. `constants` become constants.
IrGraph lower_region(const Facts& facts, const PlannedStep& step);

/// For strides of dense memory in another order of axes: the axes from the slowest to the fastest.
/// The identity for row-major strides; empty if the memory is not dense.
std::vector<std::int64_t> order_of(const ValueInfo& info);

}  // namespace octavo::aten
