// Integers of 4 bits, as constants of a graph hold them: u8 [..., bytes], two to a byte along the
// last axis, the first one in the low half; where the axis is odd the last high half is 0. Only
// dequantize and the kernels that take its place read them.
#pragma once
#include <string_view>

#include "graph/graph.h"

namespace octavo {

// Whether a dequantize reads packed integers, and what they are once unpacked: i8 or u8.
bool is_packed(const Node& dequantize);
DType integer_type(const Node& dequantize);
// The shape of a dequantize's elements; UserError where the attributes do not fit the input.
Shape unpacked_shape(const Node& dequantize);

// i8 values in [-8, 7] or u8 values in [0, 15], at least one axis. UserError (where) for others.
Tensor pack_nibbles(const Tensor& integers, const std::string& where);
// `type` is i8 or u8, `dims` are those of the elements.
Tensor unpack_nibbles(const Tensor& packed, const Dims& dims, DType type);

}  // namespace octavo
