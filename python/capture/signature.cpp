// inspect.signature of functions that existed.
#include <fmt/format.h>

#include "call_table.h"
#include "python_types.h"
#include "tracer.h"

namespace octavo::capture {
namespace {

// What a signature is made from: the function itself, and its defaults. False for other callables.
bool guard_signature(Tracer& t, PyObject* function, Source* source) {
  if (!PyFunction_Check(function)) return false;
  Sources& sources = t.sources();
  sources.guard(source, GuardKind::is, function);
  const Ref own = interned("__signature__"), wrapped = interned("__wrapped__");
  if (own_attribute(function, own.get())) return false;
  sources.guard(source, GuardKind::lacks_attribute, own.get());
  if (PyObject* inner = own_attribute(function, wrapped.get()))
    return guard_signature(t, inner, sources.of(SourceKind::attribute, source, wrapped.get()));
  sources.guard(source, GuardKind::lacks_attribute, wrapped.get());
  PyObject* defaults = PyFunction_GET_DEFAULTS(function);
  const Py_ssize_t count = defaults ? PyTuple_GET_SIZE(defaults) : 0;
  for (Py_ssize_t n = 0; n < count; ++n)
    sources.guard(sources.of(SourceKind::function_default, source, static_cast<int>(n)),
                  GuardKind::is, PyTuple_GET_ITEM(defaults, n));
  sources.guard(sources.of(SourceKind::function_default, source, static_cast<int>(count)),
                GuardKind::lacks_item);
  if (PyObject* named = PyFunction_GET_KW_DEFAULTS(function))
    t.look(t.lazy(named, sources.of(SourceKind::function_kwdefaults, source)));
  return true;
}

V signature(Tracer& t, Call& call) {
  const auto refuse = [&]() {
    give_up(Reason::unknown_call, "inspect.signature of " + t.describe(call.args.at(0)));
  };
  if (call.args.size() != 1 || !call.keywords.empty()) refuse();
  const V given = t.real(call.args[0]);
  const bool bound = given->kind == Kind::method;
  const V function = bound ? t.real(static_cast<Method&>(*given).function) : given;
  if (function->kind != Kind::object) refuse();
  PyObject* held = function->object.get();
  Source* source = function->source ? function->source : t.sources().fixed(held);
  if (!guard_signature(t, held, source)) refuse();
  const Ref callable = bound ? Ref::checked(PyMethod_New(held, Py_None)) : function->object;
  const Ref made =
      Ref::steal(PyObject_CallOneArg(well_known("inspect", "signature"), callable.get()));
  if (!made) t.raise_python_error();
  return t.lazy(made.get(), t.sources().fixed(made.get()));
}

}  // namespace

V signature_parameters(Tracer& t, PyObject* signature) {
  const Ref proxy = attribute(signature, "parameters");
  const Ref items = Ref::checked(PyMapping_Items(proxy.get()));
  auto made = t.make<Dict>();
  made->type = &PyDictProxy_Type;
  for (Py_ssize_t n = 0; n < PyList_GET_SIZE(items.get()); ++n) {
    PyObject* pair = PyList_GET_ITEM(items.get(), n);
    PyObject* parameter = PyTuple_GET_ITEM(pair, 1);
    made->items.emplace_back(t.constant(PyTuple_GET_ITEM(pair, 0)),
                             t.lazy(parameter, t.sources().fixed(parameter)));
  }
  return made;
}

void add_signature(CallTable& table) {
  table.handlers[well_known("inspect", "signature")] = signature;
}

}  // namespace octavo::capture
