#include "python_joint.h"

PYBIND11_MODULE(_aten, module) { octavo::aten::add_joint_bindings(module); }
