// Operators that a program wrote in place. Functionalisation gives their functional forms, which
// may lay memory out anew; what is seen of that is the strides of later results, and random
// numbers, which are drawn in the order of memory.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace octavo::aten {

/// How a Node's functional operator was called in place.
struct InPlace {
  c10::OperatorHandle op;
  std::vector<std::int64_t> strides;  ///< of the tensor written, in elements
};

/// Draws random numbers.
bool is_random(const c10::OperatorHandle& op);
/// Whether `functional` is the functional form of the operator `in_place`.
bool is_form_of(const c10::OperatorHandle& functional, const c10::OperatorHandle& in_place);

/// Calls `op` with its arguments on the stack; where `how` is given, its operator in place instead,
/// on a copy of the first argument that has its strides. A result that is not dense is copied to a
/// dense one in the same order.
void call_as(const c10::OperatorHandle& op, const std::optional<InPlace>& how,
             torch::jit::Stack& stack);

}  // namespace octavo::aten
