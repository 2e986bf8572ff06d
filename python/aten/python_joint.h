#pragma once

#include <torch/csrc/utils/pybind.h>

namespace octavo::aten {

/// Adds what traces captured graphs and runs them.
void add_joint_bindings(pybind11::module_& module);

}  // namespace octavo::aten
