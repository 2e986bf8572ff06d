#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "backends/reference/interpreter.h"
#include "bindings.h"
#include "codegen/compile.h"
#include "export/onnx.h"
#include "frontends/onnx/import.h"
#include "graph/op_def.h"
#include "graph/text.h"
#include "passes/pipeline.h"

namespace octavo::python {

void bind_graph(nb::module_& m) {
  nb::class_<Graph>(m, "Graph", nb::dynamic_attr(),
                    "A network: operations in SSA form with typed values and constants.\n\n"
                    "load_onnx and load read one, quantize makes an INT8 one, compile a Program of "
                    "it.\n``inputs`` and ``outputs`` are lists of (name, type) such as "
                    "('x', 'f32[N, 3, 224, 224]');\n``stage`` is 'captured', 'canonical' or "
                    "'quantized'; ``str(graph)`` is its text form.")
      .def_rw("name", &Graph::name)
      .def_prop_rw(
          "record", [](nb::handle self) { return nb::getattr(self, "_record", nb::dict()); },
          [](nb::handle self, nb::handle value) { nb::setattr(self, "_record", value); },
          nb::for_getter(nb::sig("def record(self, /) -> dict")),
          nb::for_setter(nb::sig("def record(self, value: dict, /) -> None")),
          "The run record of the quantization that made this graph; empty for others.")
      .def_prop_ro("stage", [](const Graph& g) { return stage_name(g.stage); })
      .def_prop_ro("inputs",
                   [](const Graph& g) {
                     std::vector<std::pair<std::string, std::string>> list;
                     for (const Value* v : g.inputs())
                       list.emplace_back(v->name(), v->type().str());
                     return list;
                   })
      .def_prop_ro("outputs",
                   [](const Graph& g) {
                     std::vector<std::pair<std::string, std::string>> list;
                     for (const Value* v : g.outputs())
                       list.emplace_back(v->name(), v->type().str());
                     return list;
                   })
      .def_prop_ro("ops",
                   [](const Graph& g) {
                     std::vector<std::string> ops;
                     g.for_each([&](Node& node) { ops.emplace_back(node.op_name()); });
                     return ops;
                   })
      .def("__str__", [](const Graph& g) { return print_graph(g); })
      .def("clone", &Graph::clone)
      .def("canonicalize", [](Graph& g) { canonicalize(g); });

  m.def("load_onnx", &load_onnx, nb::arg("path"), nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "load_onnx_bytes",
      [](const nb::bytes& bytes, const std::string& folder) {
        const std::span<const std::byte> view(static_cast<const std::byte*>(bytes.data()),
                                              bytes.size());
        const nb::gil_scoped_release release;
        return load_onnx_bytes(view, folder);
      },
      nb::arg("bytes"), nb::arg("folder") = "",
      "A model in memory; external data is looked for in `folder`, none is allowed without one.");
  m.def(
      "export_onnx",
      [](const Graph& graph, const std::string& path, int64_t opset, int64_t ir_version,
         std::optional<bool> external) {
        OnnxExportOptions options{.opset = opset, .ir_version = ir_version};
        if (external)
          options.external_data = *external ? ExternalData::always : ExternalData::never;
        export_onnx(graph, path, options);
      },
      nb::arg("graph"), nb::arg("path"), nb::arg("opset") = 0, nb::arg("ir_version") = 0,
      nb::arg("external_data") = nb::none(), nb::call_guard<nb::gil_scoped_release>(),
      "Writes an ONNX file; external_data: whether weights go to <path>.data (None: only if they "
      "exceed 1.8 GB).");
  m.def(
      "interpret",
      [](const Graph& graph, const nb::sequence& inputs) {
        std::vector<Tensor> tensors;
        for (nb::handle input : inputs) tensors.push_back(to_tensor(input, "input"));
        std::vector<Tensor> outputs;
        {
          const nb::gil_scoped_release release;
          outputs = interpret(graph, tensors);
        }
        nb::list result;
        for (const Tensor& output : outputs) result.append(to_numpy(output));
        return nb::tuple(result);
      },
      nb::arg("graph"), nb::arg("inputs"),
      "Runs a graph with the ops' plain definitions: slow, the judge of the rest.");
  m.def(
      "parse_graph", [](const std::string& text) { return parse_graph(text); }, nb::arg("text"));
  m.def(
      "lowered",
      [](const Graph& graph, const std::vector<Dims>& input_dims) {
        return lowered(graph, input_dims);
      },
      nb::arg("graph"), nb::arg("input_dims"),
      "The lowered form of a graph for these input shapes.");
  m.def("op_names", [] {
    std::vector<std::string> names;
    for (const OpDef& op : all_ops()) names.emplace_back(op.name);
    return names;
  });
}

}  // namespace octavo::python
