#include "python_joint.h"

#include "captured.h"
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
    for (const Stage& stage : joint.stages) {
      for (const auto& gradient : stage.gradients)
        if (gradient) joint.graph.outputs.push_back(*gradient);
      for (const InnerGradient& inner : stage.inner) joint.graph.outputs.push_back(inner.gradient);
    }
    for (const Write& write : joint.writes)
      joint.graph.writes.emplace_back(write.input, joint.results[write.result].value);
    return py::make_tuple(to_text(joint.graph), joint.python_rules);
  });
}

}  // namespace

void add_joint_bindings(py::module_& module) {
  py::register_exception<Untraceable>(module, "Untraceable", PyExc_NotImplementedError);
  py::class_<Captured>(module, "Captured", "A captured graph, compiled; call it.")
      .def(py::init(
               [](const py::object& forward, const py::object& examples, std::vector<bool> held) {
                 return translated([&] {
                   return std::make_unique<Captured>(capture::Ref::borrow(forward.ptr()),
                                                     capture::Ref::borrow(examples.ptr()),
                                                     std::move(held));
                 });
               }),
           py::arg("forward"), py::arg("examples"), py::arg("held") = std::vector<bool>())
      .def("__call__",
           [](const Captured& self, const py::args& args) {
             return translated([&] {
               std::vector<PyObject*> items;
               for (const auto& item : args) items.push_back(item.ptr());
               return py::reinterpret_steal<py::object>(
                   self.call(items.data(), items.size()).release());
             });
           })
      .def_property_readonly("reason", &Captured::reason,
                             "Why torch runs the graph instead; empty if it does not.")
      .def_property_readonly("forward_ops", &Captured::forward_ops)
      .def_property_readonly("backward_ops", &Captured::backward_ops)
      .def_property_readonly("replayed", &Captured::replayed,
                             "Why torch runs each operator of a program; empty if it does not.")
      .def_property_readonly("lowered", &Captured::lowered, "Operators that are Octavo's own.")
      .def_property_readonly("regions", &Captured::regions, "Programs of Octavo's own they lie in.")
      .def_property_readonly("in_place", &Captured::in_place,
                             "Inputs that the program writes without a copy.")
      .def_property_readonly("constants", &Captured::constants,
                             "Parameters and buffers that are constants of the program now.")
      .def_property_readonly("opaque", &Captured::opaque, "Calls of torch, by operator.")
      .def_property_readonly("stages", &Captured::stages, "Programs of the backward pass.")
      .def_property_readonly("saved", &Captured::saved, "Tensors made in forward for backward.")
      .def_property_readonly("python_rules", &Captured::python_rules,
                             "Operators whose shape rule ran in Python.");
  module.def("trace", trace, py::arg("forward"), py::arg("inputs"),
             "The joint graph of a call as text, and how many shape rules ran in Python.");
}

}  // namespace octavo::aten
