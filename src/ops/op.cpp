#include "ops/op.h"

namespace octavo::ops {

void fail(const Node& node, const std::string& message) {
  throw UserError(ErrorKind::value, node.where(), message);
}

void require(const Node& node, bool condition, const char* message) {
  if (!condition) fail(node, message);
}

const TensorType& float_input(const Node& node, size_t i) {
  const TensorType& type = node.input(i)->type();
  if (!is_float(type.dtype))
    fail(node, fmt::format("input {} is {}, not floating point", i, type.str()));
  return type;
}

}  // namespace octavo::ops
