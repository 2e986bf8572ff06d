#include "runtime/program.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"
#include "codegen/compile.h"
#include "support/error.h"

namespace octavo::python {
namespace {

// Positional arrays, or one dictionary by input name.
std::vector<Tensor> gather_inputs(const Program& program, const nb::args& args) {
  const auto& names = program.signature().input_names;
  std::vector<Tensor> inputs;
  if (args.size() == 1 && nb::isinstance<nb::dict>(args[0])) {
    const auto dict = nb::cast<nb::dict>(args[0]);
    for (const std::string& name : names) {
      if (!dict.contains(name.c_str()))
        throw UserError(ErrorKind::value, fmt::format("input '{}'", name),
                        "is missing from the dictionary");
      inputs.push_back(to_tensor(dict[name.c_str()], name.c_str()));
    }
    if (dict.size() != names.size())
      throw UserError(
          ErrorKind::value, "program",
          fmt::format("takes {} inputs, the dictionary has {}", names.size(), dict.size()));
    return inputs;
  }
  for (size_t i = 0; i < args.size(); ++i)
    inputs.push_back(to_tensor(args[i], i < names.size() ? names[i].c_str() : "input"));
  return inputs;
}

nb::tuple to_tuple(const std::vector<Tensor>& outputs) {
  nb::list list;
  for (const Tensor& output : outputs) list.append(to_numpy(output));
  return nb::tuple(list);
}

std::vector<std::pair<std::string, std::string>> describe(const std::vector<std::string>& names,
                                                          const std::vector<TensorType>& types) {
  std::vector<std::pair<std::string, std::string>> list;
  for (size_t i = 0; i < names.size(); ++i) list.emplace_back(names[i], types[i].str());
  return list;
}

}  // namespace

void bind_program(nb::module_& m) {
  nb::class_<Program>(m, "Program",
                      "A compiled network; call it with arrays, or with {name: array}.")
      .def_prop_ro("inputs",
                   [](const Program& p) {
                     return describe(p.signature().input_names, p.signature().input_types);
                   })
      .def_prop_ro("outputs",
                   [](const Program& p) {
                     return describe(p.signature().output_names, p.signature().output_types);
                   })
      .def_prop_ro("threads", &Program::threads)
      .def("__call__",
           [](Program& program, const nb::args& args) {
             const std::vector<Tensor> inputs = gather_inputs(program, args);
             std::vector<Tensor> outputs;
             {
               const nb::gil_scoped_release release;
               outputs = program.run(inputs);
             }
             return to_tuple(outputs);
           })
      .def(
          "profile",
          [](Program& program, const nb::args& args) {
            const std::vector<Tensor> inputs = gather_inputs(program, args);
            std::vector<StepProfile> steps;
            {
              const nb::gil_scoped_release release;
              program.run_profiled(inputs, steps);
            }
            nb::list list;
            for (const StepProfile& s : steps) {
              nb::dict row;
              row["node"] = s.node;
              row["op"] = s.op;
              row["kernel"] = s.kernel;
              row["isa"] = s.isa;
              row["microseconds"] = s.microseconds;
              row["macs"] = s.macs;
              row["bytes"] = s.bytes;
              list.append(row);
            }
            return list;
          },
          "One call, timed step by step: a list of {node, op, kernel, isa, microseconds, macs, "
          "bytes}.");
  m.def(
      "compile_graph",
      [](const Graph& graph, int threads, bool optimize) {
        return compile(graph.clone(), {.threads = threads, .optimize = optimize});
      },
      nb::arg("graph"), nb::arg("threads") = 0, nb::arg("optimize") = true,
      nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace octavo::python
