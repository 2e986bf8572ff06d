// The op whose result is known as soon as the shape of its input is.
#pragma once
#include "graph/op_def.h"

namespace octavo::ops {

// The axes of input 0 whose sizes `shape` lists.
Ints shape_axes(const Node& node);

}  // namespace octavo::ops
