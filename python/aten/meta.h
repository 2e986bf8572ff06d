// What an operator would return, without running it: tensors on the meta device.
//
// Importing torch replaces most of the dispatcher's C++ meta kernels by Python ones, some 0.1 ms a
// call. The C++ kernels are still registered behind them and are called directly; some operators
// have rules of Octavo's (meta_rules.h); the rest goes to Python and is counted.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

namespace octavo::aten {

enum class Rule : std::uint8_t { own, kernel, python };

/// Replaces the arguments on `stack`, whose tensors are on the meta device, by the results.
/// Throws what the kernel throws (shapes that do not fit, an operator without meta kernel).
/// Catches no operator itself: the dispatch key Fake is excluded by the caller.
Rule infer(const c10::OperatorHandle& op, torch::jit::Stack& stack);

/// While it lives, operators on meta tensors of this thread have their shapes from infer(), and
/// nothing is recorded: those of kernels made of others, and of capture.
class Shaping {
 public:
  Shaping();
  Shaping(const Shaping&) = delete;
  Shaping& operator=(const Shaping&) = delete;
  ~Shaping();
  /// Operators whose shape rule ran in Python since.
  int python_rules() const;
  static bool active();

 private:
  bool included_, excluded_, before_;
  int python_rules_;
};

/// An operator that was caught while a Shaping lives. Without meta tensors it runs as always.
void shape_only(const c10::OperatorHandle& op, torch::jit::Stack& stack);

/// What octavo._capture finds in the capsule octavo._aten._shaping.
struct ShapingEntries {
  void* (*begin)();
  int (*end)(void* shaping);  ///< gives python_rules()
};

}  // namespace octavo::aten
