// Items of the traced program's dictionaries and sets.
#include <fmt/format.h>

#include "python_types.h"
#include "scoped.h"
#include "tracer.h"

namespace octavo::capture {

std::pair<V, V>* Tracer::dict_find(Dict& dict, const V& key) {
  const V k = real(key);
  if (k->kind == Kind::array) give_up(Reason::unknown_object, "a key that is " + describe(k));
  const Ref constant = python_constant(k);
  if (k->kind == Kind::sequence &&
      (static_cast<Sequence&>(*k).is_list() || static_cast<Sequence&>(*k).is_deque()))
    raise(PyExc_TypeError, fmt::format("unhashable type: '{}'", type_of(k)->tp_name));
  if (k->kind == Kind::dict && static_cast<Dict&>(*k).type != &PyFrozenSet_Type)
    raise(PyExc_TypeError, fmt::format("unhashable type: '{}'", type_of(k)->tp_name));
  for (auto& item : dict.items) {
    if (item.first == key) return &item;
    const V own = real(item.first);
    if (own == k) return &item;
    if (own->object && own->object.get() == k->object.get()) return &item;
    if (!constant ||
        (own->kind != Kind::constant && own->kind != Kind::sequence && own->kind != Kind::object)) {
      if (own->kind == Kind::sequence && k->kind == Kind::sequence && equal(own, k)) return &item;
      continue;
    }
    const Ref other = python_constant(own);
    if (!other) continue;
    if (PyUnicode_CheckExact(other.get()) != PyUnicode_CheckExact(constant.get())) continue;
    const int same = PyObject_RichCompareBool(other.get(), constant.get(), Py_EQ);
    if (same < 0) PyErr_Clear();
    if (same == 1) return &item;
  }
  // An object with its own __eq__ and __hash__ would be asked.
  const bool object =
      k->kind == Kind::object && !PyType_Check(k->object.get()) && !is_enum_member(k->object.get());
  if ((k->kind == Kind::instance || object) && !dict.items.empty()) {
    PyObject* found = lookup(type_of(k), interned("__hash__").get());
    if (found && PyFunction_Check(found))
      give_up(Reason::unknown_object, "a key with its own __hash__");
  }
  return nullptr;
}

V Tracer::dict_get(Dict& dict, const V& key) {
  const auto* found = dict_find(dict, key);
  if (!found) return nullptr;
  return found->second ? found->second : found->first;
}

void Tracer::dict_set(const std::shared_ptr<Dict>& dict, const V& key, const V& value) {
  if (auto* found = dict_find(*dict, key)) {
    if (found->second == value) return;
    found->second = value;
  } else {
    const V k = real(key);
    if (dict->table) {
      const Ref constant = python_constant(k);
      if (constant)
        check(PySet_Add(dict->table.get(), constant.get()));
      else
        dict->table = Ref();
    }
    if (k->kind == Kind::constant || k->kind == Kind::sequence || k->kind == Kind::object ||
        k->kind == Kind::tensor || k->kind == Kind::instance || k->kind == Kind::function ||
        k->kind == Kind::dict)
      dict->items.emplace_back(k, value);
    else
      give_up(Reason::unknown_object, "a key that is " + describe(k));
  }
  changed(dict);
}

bool Tracer::dict_remove(const std::shared_ptr<Dict>& dict, const V& key) {
  auto* found = dict_find(*dict, key);
  if (!found) return false;
  dict->items.erase(dict->items.begin() + (found - dict->items.data()));
  ++dict->removals;
  if (dict->table) {
    const Ref constant = python_constant(key);
    if (!constant || PySet_Discard(dict->table.get(), constant.get()) < 0) {
      PyErr_Clear();
      dict->table = Ref();
    }
  }
  changed(dict);
  return true;
}

}  // namespace octavo::capture
