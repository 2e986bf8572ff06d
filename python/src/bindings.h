// What the binding files share: one file per C++ area, each with a function that module.cpp calls.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>  // in every file: one caster for a type

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "evaluate/dataset.h"
#include "graph/tensor.h"
#include "quantize/progress.h"
#include "quantize/rules.h"
#include "quantize/scores.h"
#include "runtime/program.h"

namespace octavo::python {

namespace nb = nanobind;

void bind_graph(nb::module_& module);
void bind_program(nb::module_& module);
void bind_quantize(nb::module_& module);
void bind_numerics(nb::module_& module);
void bind_statistics(nb::module_& module);
void bind_sensitivity(nb::module_& module);
void bind_search(nb::module_& module);
void bind_magnitudes(nb::module_& module);
void bind_scores(nb::module_& module);

using AnyArray = nb::ndarray<nb::ro, nb::device::cpu>;  // read-only ones too

// A tensor over the array's memory where it is dense and row-major, kept alive by it; else a copy.
// UserError on an element type Octavo lacks.
Tensor to_tensor(const AnyArray& array, const char* what);
// Whatever DLPack or the buffer protocol gives; TypeError otherwise.
Tensor to_tensor(nb::handle object, const char* what);
std::map<std::string, Tensor> to_named_tensors(const nb::dict& dict, const std::string& where);
// Positional arrays, or one dictionary by input name, in the order of the inputs.
std::vector<Tensor> gather_inputs(const Program& program, const nb::args& args);
// A path, or an iterable of samples (held in memory: they are looked at more than once).
std::unique_ptr<Dataset> to_dataset(nb::handle data, const Program::Signature& signature,
                                    const std::string& preprocessing, const std::string& what);
// A Python callback (phase, done, total) from code that runs without the GIL; Ctrl-C interrupts.
Progress to_progress(const nb::object& callback);
// metric(outputs, index, load) as a metric; load() gives the inputs of a sample of `data`, which
// must outlive it.
Metric to_metric(const nb::object& callback, const Dataset& data);
// A rules file, or its content: that begins with a brace. Empty: no rules.
Rules to_rules(const std::string& text);
// A NumPy array over the tensor's memory.
nb::object to_numpy(const Tensor& tensor);

}  // namespace octavo::python
