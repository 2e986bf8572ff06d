// Elements at regular steps of a tensor.
#pragma once
#include "graph/op_def.h"

namespace octavo::ops {

// Element i of an output is x[start + sum i_d * steps_d], in elements of x.
struct StridedView {
  int64_t start = 0;
  std::vector<int64_t> steps;
};
StridedView slice_view(const Node& node, const Dims& x);

}  // namespace octavo::ops
