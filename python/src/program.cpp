#include "runtime/program.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"
#include "codegen/compile.h"
#include "evaluate/dataset.h"
#include "support/error.h"

namespace octavo::python {

std::map<std::string, Tensor> to_named_tensors(const nb::dict& dict, const std::string& where) {
  std::map<std::string, Tensor> arrays;
  for (const auto& [key, value] : dict) {
    std::string name;
    if (!nb::try_cast(key, name))
      throw nb::type_error((where + ": the keys of the dictionary must be input names").c_str());
    arrays.emplace(name, to_tensor(value, fmt::format("{}: input '{}'", where, name).c_str()));
  }
  return arrays;
}

std::vector<Tensor> gather_inputs(const Program& program, const nb::args& args) {
  const auto& names = program.signature().input_names;
  if (args.size() == 1 && nb::isinstance<nb::dict>(args[0]))
    return order_by_name(to_named_tensors(nb::cast<nb::dict>(args[0]), "program"), names,
                         ErrorKind::value, "program");
  if (args.size() != names.size())
    throw UserError(ErrorKind::value, "program",
                    fmt::format("takes {} inputs, {} were given", names.size(), args.size()),
                    fmt::format("the inputs are: {}", fmt::join(names, ", ")));
  std::vector<Tensor> inputs;
  for (size_t i = 0; i < args.size(); ++i)
    inputs.push_back(to_tensor(args[i], fmt::format("input '{}'", names[i]).c_str()));
  return inputs;
}

namespace {

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
                      "A compiled network.\n\n"
                      "``program(x, ...)`` or ``program({name: x, ...})`` returns a tuple of NumPy "
                      "arrays.\nInputs are NumPy arrays or anything with ``__dlpack__`` on the "
                      "CPU, of the dtypes and shapes\nthat ``inputs`` lists, (name, type); dense, "
                      "aligned ones are read in place, others copied once.\nThe GIL is released "
                      "while it runs. Calls from several threads are allowed.\n\n"
                      "Raises TypeError for what is no array, UserError (a ValueError) for a wrong "
                      "count, name,\ndtype or shape.")
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
      [](const Graph& graph, int threads, bool optimize, bool keep_denormals) {
        if (threads < 0 || threads > 1024)
          throw UserError(ErrorKind::value, "threads",
                          fmt::format("{} is not in 0 to 1024", threads),
                          "0 takes what affinity and cgroup allow");
        return compile(
            graph.clone(),
            {.threads = threads, .optimize = optimize, .keep_denormals = keep_denormals});
      },
      nb::arg("graph"), nb::arg("threads") = 0, nb::arg("optimize") = true,
      nb::arg("keep_denormals") = false, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace octavo::python
