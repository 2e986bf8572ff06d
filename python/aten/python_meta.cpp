#include "python_meta.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/jit/python/pybind_utils.h>

#include "meta.h"

namespace octavo::aten {
namespace {

namespace py = pybind11;

// (results, by what) of an operator on meta tensors; undefined results are None.
py::tuple shapes(const std::string& name, const std::string& overload, const py::list& given) {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), overload.c_str());
  torch::jit::Stack stack;
  for (std::size_t n = 0; n < op.schema().arguments().size(); ++n) {
    const c10::Argument& argument = op.schema().arguments()[n];
    stack.push_back(n < given.size() ? torch::jit::toIValue(given[n], argument.real_type())
                                     : argument.default_value().value_or(c10::IValue()));
  }
  const c10::impl::ExcludeDispatchKeyGuard below(
      c10::DispatchKeySet(c10::DispatchKey::Fake) |
      c10::autograd_dispatch_keyset_with_ADInplaceOrView);
  const Rule rule = infer(op, stack);
  py::list results;
  for (const c10::IValue& result : stack)
    results.append(result.isTensor() && !result.toTensor().defined()
                       ? py::none()
                       : torch::jit::toPyObject(result));
  constexpr const char* names[] = {"own", "kernel", "python"};
  return py::make_tuple(results, names[static_cast<std::size_t>(rule)]);
}

constexpr ShapingEntries entries{
    []() -> void* { return new Shaping; },
    [](void* pointer) {
      const std::unique_ptr<const Shaping> shaping(static_cast<const Shaping*>(pointer));
      return shaping->python_rules();
    }};

}  // namespace

void add_meta_bindings(py::module_& module) {
  module.add_object("_shaping", py::capsule(&entries, "octavo._aten._shaping"));
  module.def("shapes", shapes, py::arg("name"), py::arg("overload"), py::arg("arguments"),
             "What the tracer takes an operator to give, and who said so.");
}

}  // namespace octavo::aten
