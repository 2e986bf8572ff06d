// pad: elements added around a tensor, or taken away by negative numbers.
#pragma once
#include <optional>
#include <string>

#include "graph/op_def.h"

namespace octavo::ops {

// For each axis how many before it and after it.
struct PadAmounts {
  Ints before, after;
};
// Nothing if they are not known yet.
std::optional<PadAmounts> pad_amounts(const Node& node);

// The source index of position `at` (0: the first element of x), or -1 for the padding value.
int64_t pad_source(const std::string& mode, int64_t at, int64_t size);

}  // namespace octavo::ops
