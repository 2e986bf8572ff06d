#include "python_program.h"

#include <ATen/ScalarOps.h>
#include <torch/csrc/jit/python/pybind_utils.h>

#include "program.h"
#include "support/error.h"

namespace py = pybind11;

namespace octavo::aten {
namespace {

// A value of a graph, as Python holds it.
struct Handle {
  ValueId id;
};

ValueInfo info_of(const at::Tensor& tensor) {
  return {tensor.scalar_type(), tensor.sizes().vec(), tensor.strides().vec()};
}

class GraphBuilder {
 public:
  Handle input(const at::Tensor& example) {
    const Handle handle = add(example);
    graph_.inputs.push_back(handle.id);
    return handle;
  }
  Handle constant(const at::Tensor& tensor) {
    const Handle handle = add(tensor);
    graph_.constants.emplace_back(handle.id, tensor);
    return handle;
  }
  void output(const Handle& value) { graph_.outputs.push_back(value.id); }
  void write(std::size_t input, const Handle& value) {
    graph_.writes.emplace_back(input, value.id);
  }

  // `examples`: what the call gave; handles of its tensors come back, None where it gave none.
  std::vector<std::optional<Handle>> call(const std::string& name, const std::string& overload,
                                          const py::list& arguments, const py::dict& keywords,
                                          const std::vector<std::optional<at::Tensor>>& examples) {
    Node node{
        c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), overload.c_str()), {}, {}};
    const auto& schema = node.op.schema().arguments();
    for (std::size_t i = 0; i < schema.size(); ++i) {
      py::object value;
      if (i < arguments.size())
        value = arguments[i];
      else if (keywords.contains(schema[i].name().c_str()))
        value = keywords[schema[i].name().c_str()];
      if (!value)
        node.arguments.emplace_back(schema[i].default_value().value_or(c10::IValue()));
      else
        node.arguments.push_back(argument(value, schema[i]));
    }
    std::vector<std::optional<Handle>> handles;
    for (const auto& example : examples) {
      handles.emplace_back();
      if (!example) continue;
      handles.back() = add(*example);
      node.outputs.push_back(handles.back()->id);
    }
    graph_.nodes.push_back(std::move(node));
    return handles;
  }

  const Graph& graph() const { return graph_; }

 private:
  Handle add(const at::Tensor& like) {
    graph_.values.push_back(info_of(like));
    return {static_cast<ValueId>(graph_.values.size()) - 1};
  }

  Argument argument(const py::object& value, const c10::Argument& schema) {
    if (py::isinstance<Handle>(value)) return value.cast<Handle>().id;
    if (schema.type()->kind() == c10::TypeKind::TensorType && !value.is_none()) {
      at::Tensor number =
          at::scalar_to_tensor(torch::jit::toIValue(value, c10::NumberType::get()).toScalar());
      number.unsafeGetTensorImpl()->set_wrapped_number(true);
      return constant(number).id;
    }
    const bool list = py::isinstance<py::list>(value) || py::isinstance<py::tuple>(value);
    bool tensors = false;
    if (list)
      for (const auto& element : value) tensors = tensors || py::isinstance<Handle>(element);
    if (!tensors) return torch::jit::toIValue(value, schema.real_type());
    std::vector<std::optional<ValueId>> ids;
    for (const auto& element : value) {
      if (element.is_none())
        ids.emplace_back();
      else
        ids.emplace_back(element.cast<Handle>().id);
    }
    return ids;
  }

  Graph graph_;
};

py::dict summary_of(const Program& program) {
  const Program::Summary& s = program.summary();
  py::dict result;
  result["nodes"] = s.nodes;
  result["lowered"] = s.lowered;
  result["views"] = s.views;
  result["regions"] = s.regions;
  result["opaque"] = s.opaque;
  result["refused"] = s.refused;
  result["in_place"] = s.in_place;
  return result;
}

}  // namespace

void add_program_bindings(py::module_& module) {
  const py::class_<Handle> handle(module, "Handle");
  py::class_<GraphBuilder>(module, "GraphBuilder")
      .def(py::init<>())
      .def("input", &GraphBuilder::input)
      .def("constant", &GraphBuilder::constant)
      .def("output", &GraphBuilder::output)
      .def("write", &GraphBuilder::write)
      .def("call", &GraphBuilder::call);
  py::class_<Program>(module, "Program")
      .def(py::init([](const GraphBuilder& builder) { return Program(builder.graph()); }))
      .def("run", &Program::run, py::call_guard<py::gil_scoped_release>())
      .def("summary", &summary_of);
}

}  // namespace octavo::aten
