// What the ops' own files share: how a file declares its part of ops.def's row, and the small
// checks of shape functions.
#pragma once
#include <string>
#include <vector>

#include "graph/op_def.h"
#include "ops/onnx_rules.h"
#include "support/error.h"

namespace octavo::ops {

// One declaration per row: extern const OpImpl conv; …
#define OP(name, kind, stage, quant) extern const OpImpl op_##name;
#include "ops/ops.def"
#undef OP

// Throws UserError (value) at the node.
[[noreturn]] void fail(const Node& node, const std::string& message);
void require(const Node& node, bool condition, const char* message);
// Input 0's type, checked to be floating point.
const TensorType& float_input(const Node& node, size_t i = 0);

}  // namespace octavo::ops
