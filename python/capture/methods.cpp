// Methods of lists, tuples, dicts, sets, strings and iterators.
#include <fmt/format.h>

#include "call_table.h"
#include "deque.h"
#include "generator.h"
#include "known_calls.h"
#include "python_types.h"
#include "tracer.h"

namespace octavo::capture {
namespace {

[[noreturn]] void key_error(Tracer& tracer, const V& key) {
  auto error = tracer.make<Instance>();
  error->type = reinterpret_cast<PyTypeObject*>(PyExc_KeyError);
  error->args = tracer.tuple({key});
  throw Raised{error};
}

V list_method(Tracer& t, const std::shared_ptr<Sequence>& self, const std::string& name, Call& call,
              bool& known) {
  auto& items = self->items;
  const auto size = static_cast<int64_t>(items.size());
  const auto at = [&](size_t n) -> const V& {
    if (n >= call.args.size()) give_up(Reason::wrong_call, name);
    return call.args[n];
  };
  if (name == "index" || name == "count") {
    int64_t found = 0;
    const auto bound = [&](size_t n, int64_t fallback) {
      const int64_t given = call.args.size() > n ? t.index(call.args[n]) : fallback;
      return std::clamp<int64_t>(given < 0 ? given + size : given, 0, size);
    };
    const int64_t last = bound(2, size);
    for (int64_t n = bound(1, 0); n < last && n < static_cast<int64_t>(items.size()); ++n) {
      const V item = items[static_cast<size_t>(n)];
      if (!t.same_object(item, at(0)) && !t.equal(item, at(0))) continue;
      if (name == "index") return t.integer(n);
      ++found;
    }
    if (name == "count") return t.integer(found);
    t.raise(PyExc_ValueError, "value is not in list");
  }
  if (name == "__getitem__") return t.subscript(self, at(0));
  if (name == "__len__") return t.integer(size);
  if (name == "__contains__") return t.boolean(t.contains(self, at(0)));
  if (name == "__iter__") return t.iterate(self);
  if (name == "__add__") return t.binary(0, self, at(0));
  if (name == "__eq__") return t.compare(2, self, at(0));
  if (name == "numel" && object_size_type(self->type) != &PyTuple_Type) {
    int64_t count = 1;
    for (const V& item : items) count *= t.index(item);
    return t.integer(count);
  }
  if (name == "_replace" || name == "_asdict" || !self->is_list()) {
    known = false;
    return nullptr;
  }
  if (name == "append") {
    items.push_back(at(0));
  } else if (name == "extend" || name == "__iadd__") {
    if (t.look(at(0))->kind == Kind::sequence) {  // perhaps itself
      const std::vector<V> more = t.items_of(at(0));
      items.insert(items.end(), more.begin(), more.end());
    } else {  // a generator sees what it has given so far
      const V more = t.iterate(at(0));
      while (const V item = next_or_null(t, more)) {
        items.push_back(item);
        t.changed(self);
      }
    }
  } else if (name == "insert") {
    int64_t where = t.index(at(0));
    if (where < 0) where = std::max<int64_t>(0, where + size);
    items.insert(items.begin() + std::min(where, size), at(1));
  } else if (name == "pop") {
    int64_t where = call.args.empty() ? size - 1 : t.index(at(0));
    if (where < 0) where += size;
    if (size == 0) t.raise(PyExc_IndexError, "pop from empty list");
    if (where < 0 || where >= size) t.raise(PyExc_IndexError, "pop index out of range");
    V item = items[static_cast<size_t>(where)];
    items.erase(items.begin() + where);
    t.changed(self);
    return item;
  } else if (name == "remove") {
    for (size_t n = 0; n < items.size(); ++n)
      if (t.same_object(items[n], at(0)) || t.equal(items[n], at(0))) {
        items.erase(items.begin() + static_cast<ptrdiff_t>(n));
        t.changed(self);
        return t.none();
      }
    t.raise(PyExc_ValueError, "list.remove(x): x not in list");
  } else if (name == "clear") {
    items.clear();
  } else if (name == "reverse") {
    std::reverse(items.begin(), items.end());
  } else if (name == "copy") {
    return t.list(items);
  } else if (name == "sort") {
    Call sort{{self}, call.keywords};
    const V sorted = t.call(t.constant(well_known("builtins", "sorted")), sort);
    items = static_cast<Sequence&>(*sorted).items;
  } else if (name == "__setitem__") {
    t.set_subscript(self, at(0), at(1));
    return t.none();
  } else {
    known = false;
    return nullptr;
  }
  t.changed(self);
  return t.none();
}

V dict_method(Tracer& t, const std::shared_ptr<Dict>& self, const std::string& name, Call& call,
              bool& known) {
  const auto at = [&](size_t n) -> const V& {
    if (n >= call.args.size()) give_up(Reason::wrong_call, name);
    return call.args[n];
  };
  if (name == "get") {
    const V found = t.dict_get(*self, at(0));
    return found ? found : call.args.size() > 1 ? call.args[1] : t.none();
  }
  if (name == "keys" || name == "values" || name == "items") {
    auto view = t.make<View>();
    view->dict = self;
    view->what = name == "keys"     ? View::What::keys
                 : name == "values" ? View::What::values
                                    : View::What::items;
    return view;
  }
  if (name == "__getitem__") return t.subscript(self, at(0));
  if (name == "__len__") return t.integer(static_cast<int64_t>(self->items.size()));
  if (name == "__contains__") return t.boolean(t.contains(self, at(0)));
  if (name == "__iter__") return t.iterate(self);
  if (name == "__setitem__") {
    t.dict_set(self, at(0), at(1));
    return t.none();
  }
  if (name == "setdefault") {
    if (V found = t.dict_get(*self, at(0))) return found;
    const V value = call.args.size() > 1 ? call.args[1] : t.none();
    t.dict_set(self, at(0), value);
    return value;
  }
  if (name == "pop") {
    if (V found = t.dict_get(*self, at(0))) {
      t.dict_remove(self, at(0));
      return found;
    }
    if (call.args.size() > 1) return call.args[1];
    key_error(t, at(0));
  }
  if (name == "popitem" && !self->items.empty() && call.args.empty() && call.keywords.empty()) {
    const auto last = self->items.back();
    self->items.pop_back();
    ++self->removals;
    t.changed(self);
    return t.tuple({last.first, last.second});
  }
  if (name == "clear") {
    self->items.clear();
    ++self->removals;
    t.changed(self);
    return t.none();
  }
  if (name == "copy") {
    auto copy = t.make<Dict>();
    copy->type = self->type;
    copy->factory = self->factory;
    copy->items = self->items;
    return copy;
  }
  if (name == "update") {
    Call make{call.args, call.keywords};
    const V more = t.call(t.constant(well_known("builtins", "dict")), make);
    for (const auto& [key, value] : std::vector(static_cast<Dict&>(*more).items))
      t.dict_set(self, key, value);
    return t.none();
  }
  if (name == "move_to_end") {
    const V value = t.dict_get(*self, at(0));
    const V last = call.args.size() > 1 ? call.args[1] : keyword(call, "last");
    if (!value) key_error(t, at(0));
    const V key = t.real(at(0));
    t.dict_remove(self, at(0));
    const bool front = last && !t.truth(last);
    self->items.emplace(front ? self->items.begin() : self->items.end(), key, value);
    t.changed(self);
    return t.none();
  }
  known = false;
  return nullptr;
}

V set_method(Tracer& t, const std::shared_ptr<Dict>& self, const std::string& name, Call& call,
             bool& known) {
  const auto at = [&](size_t n) -> const V& {
    if (n >= call.args.size()) give_up(Reason::wrong_call, name);
    return call.args[n];
  };
  const auto other_set = [&](const V& items) {
    return t.call(t.constant(well_known("builtins", "set")), {{items}, {}});
  };
  if (name == "__contains__") return t.boolean(t.contains(self, at(0)));
  if (name == "__len__") return t.integer(static_cast<int64_t>(self->items.size()));
  if (name == "__iter__") return t.iterate(self);
  if (name == "copy" || ((name == "union" || name == "difference" || name == "intersection" ||
                          name == "symmetric_difference"))) {
    const auto copy = t.new_set(self->type);
    t.update_set(copy, self);
    V result = copy;
    const int operation = name == "union"          ? 7
                          : name == "difference"   ? 10
                          : name == "intersection" ? 1
                                                   : 12;
    for (const V& given : call.args) {
      const V other = t.real(given);
      const bool set = other->kind == Kind::dict && static_cast<Dict&>(*other).is_set();
      result = t.binary(operation, result, set ? other : other_set(other));
      // Another iterable's items are taken one by one.
      if (!set) static_cast<Dict&>(*result).table = Ref();
    }
    return result;
  }
  if (name == "issubset") return t.compare(1, self, other_set(at(0)));
  if (name == "issuperset") return t.compare(5, self, other_set(at(0)));
  if (name == "isdisjoint") {
    for (const V& item : t.items_of(at(0)))
      if (t.dict_find(*self, item)) return t.boolean(false);
    return t.boolean(true);
  }
  if (self->type == &PyFrozenSet_Type) {
    known = false;
    return nullptr;
  }
  if (name == "add") {
    t.dict_set(self, at(0), nullptr);
  } else if (name == "update") {
    for (const V& other : call.args) t.update_set(self, other);
  } else if (name == "discard") {
    t.dict_remove(self, at(0));
  } else if (name == "remove") {
    if (!t.dict_remove(self, at(0))) key_error(t, at(0));
  } else if (name == "clear") {
    self->items.clear();
    ++self->removals;
    if (self->table) self->table = Ref::checked(PySet_New(nullptr));
    t.changed(self);
  } else {
    // pop() takes an item in the order of the set's hash table.
    known = false;
    return nullptr;
  }
  return t.none();
}

}  // namespace

namespace {

V builtin_method(Tracer& t, const V& self, const std::string& name, Call& call, bool& known) {
  if (self->kind == Kind::sequence && static_cast<Sequence&>(*self).is_deque())
    return deque_method(t, std::static_pointer_cast<Sequence>(self), name, call, known);
  if (self->kind == Kind::sequence)
    return list_method(t, std::static_pointer_cast<Sequence>(self), name, call, known);
  if (self->kind == Kind::dict) {
    const auto dict = std::static_pointer_cast<Dict>(self);
    return dict->is_set() ? set_method(t, dict, name, call, known)
                          : dict_method(t, dict, name, call, known);
  }
  if (self->kind == Kind::constant && PyUnicode_Check(self->object.get()) && name == "join") {
    const V list = t.list(t.items_of(call.args.at(0)));
    Ref items = Ref::checked(PyList_New(0));
    for (const V& item : static_cast<Sequence&>(*list).items) {
      const Ref constant = t.python_constant(item);
      if (!constant) give_up(Reason::unknown_object, "str.join");
      check(PyList_Append(items.get(), constant.get()));
    }
    const Ref joined = Ref::steal(PyUnicode_Join(self->object.get(), items.get()));
    if (!joined) t.raise_python_error();
    return t.constant(joined);
  }
  known = false;
  return nullptr;
}

}  // namespace

V Tracer::call_builtin_method(const V& self, PyObject* name, Call& call, bool& known) {
  const std::string text = utf8(name);
  known = true;
  try {
    return builtin_method(*this, self, text, call, known);
  } catch (const Raised& raised) {
    // Half done then, by Python's own order of steps.
    for (const char* steps : {"sort", "extend", "extendleft", "__iadd__", "update"})
      if (text == steps) give_up(Reason::exception, text + ": " + describe(raised.exception));
    throw;
  }
}

V Tracer::fold_bound(PyObject* bound, const Call& call) {
  const Ref args = Ref::checked(PyTuple_New(static_cast<Py_ssize_t>(call.args.size())));
  for (size_t n = 0; n < call.args.size(); ++n) {
    const V value = real(call.args[n]);
    const bool is_class = value->object && PyType_Check(value->object.get());
    Ref arg = value->kind == Kind::object && !is_class ? Ref() : python_constant(value);
    if (!arg) return nullptr;
    PyTuple_SET_ITEM(args.get(), static_cast<Py_ssize_t>(n), arg.release());
  }
  const Ref keywords = Ref::checked(PyDict_New());
  for (const auto& [name, value] : call.keywords) {
    const Ref constant = python_constant(value);
    if (!constant) return nullptr;
    check(PyDict_SetItem(keywords.get(), name.get(), constant.get()));
  }
  const Ref result = Ref::steal(PyObject_Call(bound, args.get(), keywords.get()));
  if (!result) raise_python_error();
  if (PyList_CheckExact(result.get())) {
    std::vector<V> items;
    for (Py_ssize_t n = 0; n < PyList_GET_SIZE(result.get()); ++n)
      items.push_back(constant(PyList_GET_ITEM(result.get(), n)));
    return list(std::move(items));
  }
  V made = constant(result);
  if (made->kind == Kind::object && !PyType_Check(result.get())) return nullptr;
  return made;
}

V Tracer::call_iterator_method(const V& self, const std::string& name, Call& call) {
  if (name == "__iter__") return self;
  if (name == "__next__" || name == "send") {
    V returned, item;
    if (name == "send" && !call.args.empty())
      item = send(*this, self, call.args[0], returned);
    else
      item = next_or_null(*this, self);
    if (item) return item;
    auto stop = make<Instance>();
    stop->type = reinterpret_cast<PyTypeObject*>(PyExc_StopIteration);
    stop->args = returned && !is_none(returned) ? tuple({returned}) : tuple({});
    throw Raised{stop};
  }
  give_up(Reason::generator, "an iterator's " + name);
}

}  // namespace octavo::capture
