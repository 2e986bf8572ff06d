#include "python_joint.h"

#include "joint.h"
#include "text.h"
#include "trace.h"

namespace octavo::aten {
namespace {

namespace py = pybind11;

// Python's error, where a call of capture's code left one.
template <class F>
auto translated(F body) {
  try {
    return body();
  } catch (const capture::PythonError&) {
    throw py::error_already_set();
  }
}

py::tuple trace(const py::object& forward, const std::vector<at::Tensor>& inputs) {
  return translated([&] {
    Joint joint = trace_joint(forward.ptr(), inputs);
    for (const Result& result : joint.results) joint.graph.outputs.push_back(result.value);
    for (const auto& gradient : joint.gradients)
      if (gradient) joint.graph.outputs.push_back(*gradient);
    for (const Write& write : joint.writes)
      joint.graph.writes.emplace_back(write.input, joint.results[write.result].value);
    return py::make_tuple(to_text(joint.graph), joint.python_rules);
  });
}

}  // namespace

void add_joint_bindings(py::module_& module) {
  py::register_exception<Untraceable>(module, "Untraceable", PyExc_NotImplementedError);
  module.def("trace", trace, py::arg("forward"), py::arg("inputs"),
             "The joint graph of a call as text, and how many shape rules ran in Python.");
}

}  // namespace octavo::aten
