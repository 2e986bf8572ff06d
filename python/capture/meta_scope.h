// Shapes without Python's meta kernels.
#pragma once

namespace octavo::capture {

// While it lives, torch's operators on meta tensors have their shapes by octavo._aten's rules and
// torch's C++ kernels; what neither knows goes to Python as always.
class MetaScope {
 public:
  MetaScope();
  MetaScope(const MetaScope&) = delete;
  MetaScope& operator=(const MetaScope&) = delete;
  ~MetaScope();
  // Ends it; how many operators went to Python.
  int end();

 private:
  void* shaping_;
};

}  // namespace octavo::capture
