// pad: elements added around a tensor, or taken away by negative numbers.
#pragma once
#include <optional>

#include "graph/op_def.h"

namespace octavo::ops {

// For each axis how many before it and after it.
struct PadAmounts {
  Ints before, after;
};
// Nothing if they are not known yet.
std::optional<PadAmounts> pad_amounts(const Node& node);

}  // namespace octavo::ops
