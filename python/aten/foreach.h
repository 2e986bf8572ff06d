// Operators over lists of tensors ("_foreach_*") as plain operators, one for each element: what
// their kernels on the CPU do.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <cstddef>
#include <vector>

namespace octavo::aten {

struct Foreach {
  struct Parameter {
    int from = -1;      // the list operator's argument; -1: `fallback`
    bool each = false;  // its elements, one by one
    c10::IValue fallback;
  };
  c10::OperatorHandle plain;
  std::vector<Parameter> parameters;  // of `plain`
  std::size_t list = 0;               // an argument that is a list

  /// The arguments of `plain` for one element; `arguments` are the list operator's.
  torch::jit::Stack element(const c10::IValue* arguments, std::size_t index) const;
};

/// Null for any other operator, and where there is no plain form.
const Foreach* foreach_of(const c10::OperatorHandle& op);

}  // namespace octavo::aten
