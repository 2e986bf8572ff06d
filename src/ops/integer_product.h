// Shapes that the float and the integer products share.
#pragma once
#include "graph/op_def.h"

namespace octavo::ops {

// Of NumPy's matmul.
Shape matmul_shape(const Node& node, const Shape& a, const Shape& b);
// Of a convolution with the node's window and group.
Shape conv_shape(const Node& node, const Shape& x, const Shape& w);

}  // namespace octavo::ops
