// Attributes of nodes: a small closed set of types.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "graph/tensor.h"

namespace octavo {

using Ints = std::vector<int64_t>;
using Floats = std::vector<double>;

// Text form: 3, 0.5 (always with a point or exponent), "text", [1, 2], [0.5, 1.0], tensor literal.
using Attribute = std::variant<int64_t, double, std::string, Ints, Floats, Tensor>;
using Attributes = std::map<std::string, Attribute, std::less<>>;

enum class AttributeKind {
  integer,
  real,
  text,
  integers,
  reals,
  tensor
};  // index() of the variant
const char* attribute_kind_name(AttributeKind kind);

}  // namespace octavo
