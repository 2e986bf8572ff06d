// What an operator would return, without running it: tensors on the meta device.
//
// Importing torch replaces most of the dispatcher's C++ meta kernels by Python ones, some 0.1 ms a
// call. The C++ kernels are still registered behind them and are called directly; the rest
// goes to Python and is counted.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

namespace octavo::aten {

enum class Rule : std::uint8_t { kernel, python };

/// Replaces the arguments on `stack`, whose tensors are on the meta device, by the results.
/// Throws what the kernel throws (shapes that do not fit, an operator without meta kernel).
Rule infer(const c10::OperatorHandle& op, torch::jit::Stack& stack);

}  // namespace octavo::aten
