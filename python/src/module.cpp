#include <nanobind/stl/string.h>

#include "bindings.h"
#include "support/buffer.h"
#include "support/cpu.h"
#include "support/error.h"

namespace octavo::python {
namespace {

// The exception types live in octavo.errors; looked up when the first error is thrown.
void translate(const std::exception_ptr& pointer, void*) {
  const auto raise = [](const char* type, const std::exception& error) {
    const nb::object exception = nb::module_::import_("octavo.errors").attr(type);
    PyErr_SetString(exception.ptr(), error.what());
  };
  try {
    std::rethrow_exception(pointer);
  } catch (const UserError& error) {
    constexpr const char* types[] = {"UserError", "FileError", "UnsupportedError"};
    raise(types[static_cast<size_t>(error.kind())], error);
  } catch (const InternalError& error) {
    raise("InternalError", error);
  }
}

void bind(nb::module_& m) {
  m.doc() = "liboctavo for Python; use the package octavo.";
  nb::register_exception_translator(translate);
  m.def("best_isa", [] { return isa_name(best_isa()); });
  m.def("hardware_isa", [] { return isa_name(hardware_isa()); });
  m.def(
      "set_isa_limit", [](const std::string& name) { set_isa_limit(parse_isa(name)); },
      nb::arg("name"));
  m.def("available_cpus", &available_cpus);
  m.def("release_free_memory", &release_free_memory);
  bind_graph(m);
  bind_program(m);
  bind_quantize(m);
  bind_numerics(m);
  bind_statistics(m);
  bind_sensitivity(m);
  bind_search(m);
  bind_magnitudes(m);
  bind_scores(m);
}

}  // namespace
}  // namespace octavo::python

NB_MODULE(_core, m) { octavo::python::bind(m); }
