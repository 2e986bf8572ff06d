// Shape rules in C++ for the operators that models are made of.
//
// A process that has imported torch runs most meta kernels in Python, about 0.1 ms each. These
// rules say what an operator gives without calling it, where that is plain: contiguous operands of
// floating-point or equal types. Everything else goes to torch's own meta kernel.
#pragma once
#include <optional>
#include <string>

#include "tracer.h"

namespace octavo::capture {

struct Shape {
  std::vector<Dim> sizes;
  at::ScalarType dtype = at::kFloat;
  // The operand that the operator returns as it is, or has written into.
  std::shared_ptr<Tensor> same;
  bool writes = false;
};

// By the function, or by the method's name where `function` is null.
std::optional<Shape> shape_rule(Tracer& tracer, PyObject* function, const std::string& method,
                                const Call& call);

}  // namespace octavo::capture
