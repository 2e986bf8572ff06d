// Shape rules for operators whose meta kernel exists in Python only.
#pragma once

#include <ATen/core/operator_name.h>
#include <ATen/core/stack.h>

namespace octavo::aten {

/// Replaces the arguments by the results and gives true, or leaves them and gives false where the
/// rule does not hold.
using ShapeRule = bool (*)(torch::jit::Stack&);

/// Null where there is none.
ShapeRule shape_rule(const c10::OperatorName& name);

}  // namespace octavo::aten
