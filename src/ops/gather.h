// Indices of gather and scatter.
#pragma once
#include "graph/op_def.h"

namespace octavo::ops {

// Input i holds i64 or i32.
void require_indices(const Node& node, size_t i);
// In [0, size); negative ones count from the end, others are a UserError.
int64_t checked_index(const Node& node, int64_t index, int64_t size);

}  // namespace octavo::ops
