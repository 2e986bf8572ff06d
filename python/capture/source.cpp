#include "source.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "guards.h"
#include "python_types.h"

namespace octavo::capture {

PyObject* own_attribute(PyObject* object, PyObject* name) {
  if (PyModule_Check(object)) return PyDict_GetItemWithError(PyModule_GetDict(object), name);
  if (PyType_Check(object)) {
    PyObject* dict = reinterpret_cast<PyTypeObject*>(object)->tp_dict;
    return dict ? PyDict_GetItemWithError(dict, name) : nullptr;
  }
  PyObject** dict = _PyObject_GetDictPtr(object);
  return dict && *dict ? PyDict_GetItemWithError(*dict, name) : nullptr;
}

namespace {

// repr() of a tensor prints its values.
std::string short_repr(PyObject* object) {
  if (is_tensor_object(object))
    return fmt::format("<{} at {}>", Py_TYPE(object)->tp_name, fmt::ptr(object));
  return repr(object);
}

}  // namespace

std::string source_name(const Source& source, PyCodeObject* code) {
  const std::string base = source.base ? source_name(*source.base, code) : "";
  switch (source.kind) {
    case SourceKind::slot: {
      if (source.index >= code->co_nlocalsplus)
        return fmt::format("L['___stack{}']", source.index - code->co_nlocalsplus);
      return fmt::format("L['{}']", utf8(PyTuple_GET_ITEM(code->co_localsplusnames, source.index)));
    }
    case SourceKind::closure: {
      const Py_ssize_t first = code->co_nlocalsplus - code->co_nfreevars;
      return fmt::format("C['{}']",
                         utf8(PyTuple_GET_ITEM(code->co_localsplusnames, first + source.index)));
    }
    case SourceKind::fixed:
      if (PyDict_Check(source.key.get())) return "G";
      if (PyModule_Check(source.key.get())) return utf8(PyModule_GetNameObject(source.key.get()));
      return short_repr(source.key.get());
    case SourceKind::attribute:
      return base + "." + utf8(source.key.get());
    case SourceKind::tensor_grad:
      return base + ".grad";
    case SourceKind::item:
      return fmt::format("{}[{}]", base, source.index);
    case SourceKind::dict_item:
      // Optimizers key their state by parameter.
      return is_tensor_object(source.key.get())
                 ? fmt::format("{}[<tensor {}>]", base, source.id)
                 : fmt::format("{}[{}]", base, repr(source.key.get()));
    case SourceKind::type:
      return "type(" + base + ")";
    case SourceKind::cell_contents:
      return base + ".cell_contents";
    case SourceKind::function_cell:
      return fmt::format("{}.__closure__[{}]", base, source.index);
    case SourceKind::function_default:
      return fmt::format("{}.__defaults__[{}]", base, source.index);
    case SourceKind::function_kwdefaults:
      return base + ".__kwdefaults__";
    case SourceKind::method_self:
      return base + ".__self__";
    case SourceKind::method_function:
      return base + ".__func__";
    case SourceKind::dictionary:
      return base + ".__dict__";
    case SourceKind::exception_args:
      return base + ".args";
    case SourceKind::context_variable:
      return base + ".get()";
  }
  return base;
}

Source* Sources::make(SourceKind kind, Source* base, Ref key, int index) {
  // Equal keys of equal types are one place; str keys are interned so that identity does.
  if (key && PyUnicode_CheckExact(key.get())) {
    PyObject* text = key.release();
    PyUnicode_InternInPlace(&text);
    key = Ref::steal(text);
  }
  const auto name = std::make_tuple(static_cast<int>(kind), base ? base->id : -1, key.get(), index);
  const auto found = known_.find(name);
  if (found != known_.end()) return found->second;
  sources_.push_back(
      {static_cast<int>(sources_.size()), kind, base, std::move(key), index, false, -1, {}});
  return known_[name] = &sources_.back();
}

void Sources::guard(Source* source, GuardKind kind, PyObject* object, int64_t number,
                    PyObject* other) {
  if (!source) return;
  for (const Guard& guard : source->guards)
    if (guard.kind == kind && guard.object.get() == object && guard.number == number) return;
  source->guards.push_back({kind, Ref::borrow(object), Ref::borrow(other), number, nullptr});
}

std::string GuardProgram::describe(const Source& source, const Guard& guard, PyCodeObject* code) {
  const std::string name = source_name(source, code);
  const auto object = [&] {
    if (PyTuple_Check(guard.object.get())) {
      std::vector<std::string> items;
      for (Py_ssize_t n = 0; n < PyTuple_GET_SIZE(guard.object.get()); ++n)
        items.push_back(short_repr(PyTuple_GET_ITEM(guard.object.get(), n)));
      return fmt::format("({}{})", fmt::join(items, ", "), items.size() == 1 ? "," : "");
    }
    return short_repr(guard.object.get());
  };
  switch (guard.kind) {
    case GuardKind::is:
      return fmt::format("{} is {}", name, object());
    case GuardKind::type:
      return fmt::format("type({}) is {}", name, object());
    case GuardKind::equals:
      return fmt::format("{} == {}", name, object());
    case GuardKind::set_order:
      return fmt::format("tuple({}) == {}", name, object());
    case GuardKind::length:
      return fmt::format("len({}) == {}", name, guard.number);
    case GuardKind::keys:
      return fmt::format("list({}) == {}", name, object());
    case GuardKind::lacks_key:
      return fmt::format("{} not in {}", object(), name);
    case GuardKind::lacks_attribute:
      return fmt::format("not hasattr({}, {})", name, object());
    case GuardKind::there:
      return fmt::format("{} is there", name);
    case GuardKind::lacks_item:
      return fmt::format("{} is not there", name);
    case GuardKind::c_method:
      return fmt::format("{} is the method {}", name, object());
    case GuardKind::code:
      return fmt::format("{}.__code__ is {}", name, object());
    case GuardKind::type_lookup:
      return fmt::format("{}.{} is {}", name, utf8(guard.object.get()),
                         guard.other ? repr(guard.other.get()) : "not there");
    case GuardKind::no_leaf:
      return fmt::format("{} is no leaf", name);
    case GuardKind::not_tensor_grad:
      return fmt::format("{}.grad is None", name);
    case GuardKind::array:
      return fmt::format("{} is a{} array of {}, sizes [{}], strides [{}]", name,
                         guard.tensor->requires_grad ? "n" : " read-only",
                         c10::toString(guard.tensor->dtype), fmt::join(guard.tensor->sizes, ", "),
                         fmt::join(guard.tensor->strides, ", "));
    case GuardKind::tensor: {
      const TensorGuard& t = *guard.tensor;
      const std::string layout = t.order.empty()
                                     ? fmt::format("strides [{}]", fmt::join(t.strides, ", "))
                                     : fmt::format("dense in order [{}]", fmt::join(t.order, ", "));
      return fmt::format("{} is a {} of {} on {}, sizes [{}], {}, requires_grad={}", name,
                         t.type->tp_name, c10::toString(t.dtype), t.device.str(),
                         fmt::join(t.sizes, ", "), layout, t.requires_grad);
    }
  }
  return name;
}

std::string GuardProgram::describe(PyCodeObject* code) const {
  std::string text;
  for (const Source& source : sources_.all())
    for (const Guard& guard : source.guards) text += describe(source, guard, code) + "\n";
  for (const auto& [a, b] : distinct_)
    text += source_name(*a, code) + " is not " + source_name(*b, code) + "\n";
  for (size_t n = 0; n < sizes_.symbols.size(); ++n) {
    text += fmt::format("s{}", n);
    for (const SymbolPlace& place : sizes_.symbols[n]) {
      const std::string name = source_name(*place.source, code);
      text += " == " + (place.dim < 0 ? name : fmt::format("{}.size({})", name, place.dim));
    }
    text += "\n";
  }
  for (const Condition& condition : sizes_.conditions) text += to_string(condition) + "\n";
  return text;
}

std::string GuardProgram::describe(const GuardFailure& failure, PyCodeObject* code) {
  if (failure.condition) return to_string(*failure.condition);
  if (failure.source && failure.guard) return describe(*failure.source, *failure.guard, code);
  if (failure.source) return "the identity or the sizes of " + source_name(*failure.source, code);
  return "its inputs' identities";
}

}  // namespace octavo::capture
