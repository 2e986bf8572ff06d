#pragma once

#include <torch/csrc/utils/pybind.h>

namespace octavo::aten {

/// Adds shapes(): tests compare shape rules with what torch gives.
void add_meta_bindings(pybind11::module_& module);

}  // namespace octavo::aten
