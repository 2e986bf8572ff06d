#include "dynamo_marks.h"

#include <array>
#include <string_view>

#include "source.h"

namespace octavo::capture {
namespace {

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

// The ids in a set of torch._dynamo.trace_rules; null where that is not imported.
PyObject* ids(PyObject*& known, const char* name) {
  if (known) return known;
  PyObject* modules = PyImport_GetModuleDict();  // borrowed
  PyObject* rules = PyDict_GetItemString(modules, "torch._dynamo.trace_rules");
  if (!rules || !PyModule_Check(rules)) return nullptr;
  PyObject* held = PyDict_GetItemString(PyModule_GetDict(rules), name);
  if (!held) return nullptr;
  Ref set = Ref::steal(PyObject_GetAttrString(held, "function_ids"));
  if (!set) PyErr_Clear();
  // None until a first mark is set; from then on the same set.
  if (!set || !PySet_Check(set.get())) return nullptr;
  known = set.release();
  return known;
}

bool holds_id(PyObject* set, PyObject* object) {
  if (!set || PySet_GET_SIZE(set) == 0) return false;
  const int found = PySet_Contains(set, Ref::checked(PyLong_FromVoidPtr(object)).get());
  if (found < 0) throw PythonError{};
  return found > 0;
}

}  // namespace

DynamoMark dynamo_mark(PyObject* function) {
  if (!PyFunction_Check(function)) return DynamoMark::none;
  const auto* code = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(function));
  const std::string file = utf8(code->co_filename), name = utf8(code->co_name);
  if (ends_with(file, "/torch/_dynamo/external_utils.py"))
    return name == "is_compiling" ? DynamoMark::compiling : DynamoMark::none;
  if (!ends_with(file, "/torch/_dynamo/decorators.py")) return DynamoMark::none;
  for (const char* one : {"graph_break", "skip_frame", "step_unsupported"})
    if (name == one) return DynamoMark::breaks;
  if (name.rfind("mark_", 0) == 0 || name.rfind("maybe_mark_", 0) == 0) return DynamoMark::ignored;
  return DynamoMark::none;
}

bool dynamo_allows(PyObject* callable) {
  static PyObject* set = nullptr;
  return holds_id(ids(set, "_allowed_callable_ids"), callable);
}

bool dynamo_disallows(PyObject* callable) {
  static PyObject* set = nullptr;
  return holds_id(ids(set, "_disallowed_callable_ids"), callable);
}

bool dynamo_constant(PyObject* function) {
  static PyObject* marker = interned("_dynamo_marked_constant").release();
  return own_attribute(function, marker) == Py_True;
}

bool is_index_by_tensors(PyObject* object) {
  if (!PyType_Check(object)) return false;
  auto* type = reinterpret_cast<PyTypeObject*>(object);
  if (std::string_view(type->tp_name) != "TransformGetItemToIndex") return false;
  const Ref module = attribute(object, "__module__");
  return utf8(module.get()) == "torch._dynamo._trace_wrapped_higher_order_op";
}

bool is_dynamos_own(PyCodeObject* code) {
  if (!ends_with(utf8(code->co_filename), "/torch/_dynamo/eval_frame.py")) return false;
  const std::string name = utf8(code->co_qualname);
  return name == "DisableContext.__call__.<locals>._fn" ||
         name == "_TorchDynamoContext.__call__.<locals>.compile_wrapper";
}

PyObject* disabled_optimizer(PyObject* function) {
  static PyObject* wrapped = interned("_torchdynamo_orig_callable").release();
  PyObject* inner = own_attribute(function, wrapped);
  if (!inner || !PyFunction_Check(inner)) return nullptr;
  const auto* code = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(inner));
  const bool optimizer = utf8(code->co_filename).find("/torch/optim/") != std::string::npos;
  return optimizer ? inner : nullptr;
}

}  // namespace octavo::capture
