#pragma once

// A program of ATen operators as the joint tracer writes it and the lowering reads it: functional
// (no operator writes to a value), in order of execution, shapes fixed.

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

#include <cstdint>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "in_place.h"

namespace octavo::aten {

/// Index into Graph::values.
using ValueId = std::int32_t;

/// What is known of a tensor before the program runs. Sizes and strides are in elements.
struct ValueInfo {
  at::ScalarType dtype = at::kFloat;
  std::vector<std::int64_t> sizes;
  std::vector<std::int64_t> strides;
};

/// A constant; a tensor; a list of tensors (nullopt where a Tensor?[] holds None).
using Argument = std::variant<c10::IValue, ValueId, std::vector<std::optional<ValueId>>>;

/// One call. `arguments` has one entry for each argument of the operator's schema, defaults filled
/// in.
struct Node {
  c10::OperatorHandle op;
  std::vector<Argument> arguments;
  std::vector<ValueId> outputs;          ///< every tensor returned, lists flattened, in order
  std::optional<InPlace> in_place = {};  ///< torch calls it so
};

struct Graph {
  std::vector<ValueInfo> values;
  std::vector<ValueId> inputs;
  std::vector<std::pair<ValueId, at::Tensor>> constants;  ///< tensors the program holds
  std::vector<Node> nodes;
  std::vector<ValueId> outputs;
  /// (index into inputs, value): after the run the input holds the value (in-place operators).
  std::vector<std::pair<std::size_t, ValueId>> writes;
};

}  // namespace octavo::aten
