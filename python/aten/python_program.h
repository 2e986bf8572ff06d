#pragma once

#include <torch/csrc/utils/pybind.h>

namespace octavo::aten {

/// Adds GraphBuilder and Program: tests compile programs without a tracer.
void add_program_bindings(pybind11::module_& module);

}  // namespace octavo::aten
