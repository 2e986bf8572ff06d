#include "python_joint.h"
#include "python_meta.h"
#include "python_program.h"

PYBIND11_MODULE(_aten, module) {
  octavo::aten::add_joint_bindings(module);
  octavo::aten::add_meta_bindings(module);
  octavo::aten::add_program_bindings(module);
}
