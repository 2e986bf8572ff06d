// Python's operators on values.
#include <fmt/format.h>

#include "generator.h"
#include "python_types.h"
#include "tracer.h"

namespace octavo::capture {
namespace {

struct Operator {
  const char* function;  // in module operator
  const char* method;
  const char* reflected;
};

// By BINARY_OP's argument; 13 more are the in-place forms.
constexpr Operator operators[] = {
    {"add", "__add__", "__radd__"},           {"and_", "__and__", "__rand__"},
    {"floordiv", "__floordiv__", "__rfloordiv__"}, {"lshift", "__lshift__", "__rlshift__"},
    {"matmul", "__matmul__", "__rmatmul__"},  {"mul", "__mul__", "__rmul__"},
    {"mod", "__mod__", "__rmod__"},           {"or_", "__or__", "__ror__"},
    {"pow", "__pow__", "__rpow__"},           {"rshift", "__rshift__", "__rrshift__"},
    {"sub", "__sub__", "__rsub__"},           {"truediv", "__truediv__", "__rtruediv__"},
    {"xor", "__xor__", "__rxor__"},
};
constexpr const char* in_place[] = {"iadd",  "iand", "ifloordiv", "ilshift", "imatmul", "imul", "imod",
                                    "ior",   "ipow", "irshift",   "isub",    "itruediv", "ixor"};
constexpr const char* in_place_methods[] = {
    "__iadd__", "__iand__", "__ifloordiv__", "__ilshift__", "__imatmul__", "__imul__", "__imod__",
    "__ior__",  "__ipow__", "__irshift__",   "__isub__",    "__itruediv__", "__ixor__"};

constexpr const char* comparisons[] = {"lt", "le", "eq", "ne", "gt", "ge"};
constexpr const char* comparison_methods[] = {"__lt__", "__le__", "__eq__",
                                              "__ne__", "__gt__", "__ge__"};
constexpr int mirrored[] = {4, 5, 2, 3, 0, 1};

// A dict's keys are in order of insertion; a set's in that of its hash table, which a set of the
// same constants, filled in the same order, has too.
std::vector<V> keys_in_order(Tracer& tracer, const Dict& dict) {
  std::vector<V> keys;
  for (const auto& [key, item] : dict.items) keys.push_back(key);
  if (!dict.is_set() || keys.size() < 2 || (dict.object && !dict.changed)) return keys;
  if (dict.object) give_up(Reason::unknown_object, "the order of a changed set");
  const Ref set = Ref::checked(PySet_New(nullptr));
  for (const V& key : keys) {
    const Ref constant = tracer.python_constant(key);
    if (!constant) give_up(Reason::unknown_object, "the order of a set");
    check(PySet_Add(set.get(), constant.get()));
  }
  const Ref order = Ref::checked(PySequence_List(set.get()));
  std::vector<V> ordered;
  for (Py_ssize_t n = 0; n < PyList_GET_SIZE(order.get()); ++n)
    ordered.push_back(tracer.constant(PyList_GET_ITEM(order.get(), n)));
  return ordered;
}

bool in_torch_optim(Tracer& tracer) {
  return utf8(tracer.frame()->code->object()->co_filename).find("/torch/optim/") != std::string::npos;
}

bool is_container(const V& value) {
  return value->kind == Kind::sequence || value->kind == Kind::dict;
}

}  // namespace

V Tracer::unary(Op op, const V& given) {
  if (op == Op::UNARY_NOT) return boolean(!truth(given));
  const V operand = real(given);
  const char* name = op == Op::UNARY_NEGATIVE ? "neg" : op == Op::UNARY_POSITIVE ? "pos" : "invert";
  PyObject* function = well_known("operator", name);
  if (operand->kind == Kind::tensor) return call_tensor_function(constant(function), {{operand}, {}});
  if (V folded = fold(function, {{operand}, {}})) return folded;
  const std::string method = fmt::format("__{}__", name);
  if (operand->kind == Kind::instance || operand->kind == Kind::object)
    return call_method(operand, method.c_str(), {});
  give_up(Reason::unknown_object, fmt::format("{} of {}", name, describe(operand)));
}

V Tracer::binary(int operation, const V& left, const V& right) {
  const V a = real(left), b = real(right);
  const bool changes = operation >= 13;
  const int base = changes ? operation - 13 : operation;
  PyObject* function =
      well_known("operator", changes ? in_place[base] : operators[base].function);
  const bool grows = changes && base == 0 && a->kind == Kind::sequence && static_cast<Sequence&>(*a).is_list();
  if ((a->kind == Kind::tensor || b->kind == Kind::tensor) && !grows) {
    if (a->kind != Kind::tensor) function = well_known("operator", operators[base].function);
    return call_tensor_function(constant(function), {{a, b}, {}});
  }
  if (a->kind == Kind::sequence) {
    auto& first = static_cast<Sequence&>(*a);
    if (base == 0 && b->kind == Kind::sequence &&
        (first.is_list() == static_cast<Sequence&>(*b).is_list() || changes)) {
      const auto& second = static_cast<Sequence&>(*b).items;
      if (changes && first.is_list()) {
        const std::vector<V> more = second;
        first.items.insert(first.items.end(), more.begin(), more.end());
        changed(a);
        return a;
      }
      if (first.is_list() != static_cast<Sequence&>(*b).is_list())
        give_up(Reason::wrong_call, "adding a list and a tuple");
      std::vector<V> items = first.items;
      items.insert(items.end(), second.begin(), second.end());
      return sequence(first.is_list() ? &PyList_Type : first.type == &PyTuple_Type || first.type != static_cast<Sequence&>(*b).type ? &PyTuple_Type : object_size_type(first.type), std::move(items));
    }
    if (base == 0 && changes && first.is_list()) {
      const std::vector<V> more = items_of(b);
      first.items.insert(first.items.end(), more.begin(), more.end());
      changed(a);
      return a;
    }
  }
  if (base == 5 && (a->kind == Kind::sequence || b->kind == Kind::sequence)) {
    const V& many = a->kind == Kind::sequence ? a : b;
    const V& times = a->kind == Kind::sequence ? b : a;
    if (times->kind == Kind::constant && PyLong_Check(times->object.get())) {
      auto& source = static_cast<Sequence&>(*many);
      const int64_t count = index(times);
      std::vector<V> items;
      if (count > 100000) give_up(Reason::too_long, "repeating a sequence");
      for (int64_t n = 0; n < count; ++n)
        items.insert(items.end(), source.items.begin(), source.items.end());
      if (changes && source.is_list() && many == a) {
        source.items = std::move(items);
        changed(a);
        return a;
      }
      return sequence(source.is_list() ? &PyList_Type : &PyTuple_Type, std::move(items));
    }
  }
  if (a->kind == Kind::dict && b->kind == Kind::dict) {
    const auto first = std::static_pointer_cast<Dict>(a);
    const auto second = std::static_pointer_cast<Dict>(b);
    const bool sets = first->is_set() && second->is_set();
    if (changes && first->type != &PyFrozenSet_Type && (base == 7 || (sets && base == 10))) {
      for (const auto& [key, value] : std::vector(second->items)) {
        if (base == 7)
          dict_set(first, key, value);
        else
          dict_remove(first, key);
      }
      return a;
    }
    if (sets && (base == 1 || base == 7 || base == 10 || base == 12)) {
      auto made = make<Dict>();
      made->type = first->type;
      for (const auto& [key, none] : first->items) {
        const bool in_both = static_cast<bool>(dict_find(*second, key));
        if (base == 7 || (base == 1) == in_both) dict_set(made, key, nullptr);
      }
      if (base == 7 || base == 12)
        for (const auto& [key, none] : second->items)
          if (base == 7 || !dict_find(*first, key)) dict_set(made, key, nullptr);
      return made;
    }
    if (!first->is_set() && !second->is_set() && base == 7) {
      auto made = make<Dict>();
      made->type = first->type;
      for (const auto& [key, value] : first->items) dict_set(made, key, value);
      for (const auto& [key, value] : second->items) dict_set(made, key, value);
      return made;
    }
  }
  if (V folded = fold(function, {{a, b}, {}})) return folded;
  if (base == 6 && a->kind == Kind::constant && PyUnicode_Check(a->object.get()))
    give_up(Reason::unknown_object, "% formatting of " + describe(b));

  const auto user = [&](const V& value) {
    return value->kind == Kind::instance || value->kind == Kind::object;
  };
  const auto attempt = [&](const V& self, const char* method, const V& other) -> V {
    if (!user(self)) return nullptr;
    const Ref name = interned(method);
    PyObject* found = lookup(type_of(self), name.get());
    if (!found) return nullptr;
    if (!PyFunction_Check(found))
      give_up(Reason::unknown_object, fmt::format("{} of {}", method, describe(self)));
    V result = call(class_attribute(self, type_of(self), name.get(), found, self), {{other}, {}});
    return real(result)->object.get() == Py_NotImplemented ? nullptr : result;
  };
  if (changes)
    if (V result = attempt(a, in_place_methods[base], b)) return result;
  if (user(a) && user(b) && type_of(a) != type_of(b) && PyType_IsSubtype(type_of(b), type_of(a)))
    if (V result = attempt(b, operators[base].reflected, a)) return result;
  if (V result = attempt(a, operators[base].method, b)) return result;
  if (V result = attempt(b, operators[base].reflected, a)) return result;
  give_up(Reason::unknown_object, fmt::format("operator {} of {} and {}", operators[base].function,
                                              describe(a), describe(b)));
}

bool Tracer::equal(const V& left, const V& right) {
  const V a = real(left), b = real(right);
  if (a == b) {
    // NaN is not itself.
    if (a->kind != Kind::constant || !PyFloat_Check(a->object.get())) return true;
  }
  if (a->kind == Kind::tensor || b->kind == Kind::tensor)
    give_up(Reason::data_dependent, "comparing tensors in a container");
  return truth(compare(2, a, b));
}

V Tracer::compare(int operation, const V& left, const V& right) {
  const V a = real(left), b = real(right);
  PyObject* function = well_known("operator", comparisons[operation]);
  if (a->kind == Kind::tensor || b->kind == Kind::tensor) {
    const bool is_none_side = a->object.get() == Py_None || b->object.get() == Py_None;
    if (is_none_side && (operation == 2 || operation == 3)) return boolean(operation == 3);
    if (is_container(a) || is_container(b)) give_up(Reason::data_dependent, "comparing a tensor");
    return call_tensor_function(constant(function), {{a, b}, {}});
  }
  if (a->kind == Kind::sequence && b->kind == Kind::sequence) {
    const auto &first = static_cast<Sequence&>(*a).items, &second = static_cast<Sequence&>(*b).items;
    const bool same_kind = static_cast<Sequence&>(*a).is_list() == static_cast<Sequence&>(*b).is_list();
    if (!same_kind) {
      if (operation == 2 || operation == 3) return boolean(operation == 3);
      give_up(Reason::wrong_call, "ordering a list and a tuple");
    }
    for (size_t n = 0; n < first.size() && n < second.size(); ++n)
      if (!same_object(first[n], second[n]) && !equal(first[n], second[n])) {
        if (operation == 2 || operation == 3) return boolean(operation == 3);
        return compare(operation, first[n], second[n]);
      }
    return fold(function, {{integer(static_cast<int64_t>(first.size())),
                            integer(static_cast<int64_t>(second.size()))}, {}});
  }
  if (a->kind == Kind::dict && b->kind == Kind::dict) {
    auto &first = static_cast<Dict&>(*a), &second = static_cast<Dict&>(*b);
    if (first.is_set() != second.is_set()) {
      if (operation == 2 || operation == 3) return boolean(operation == 3);
      give_up(Reason::wrong_call, "ordering a set and a dict");
    }
    const auto inside = [&](Dict& small, Dict& large) {
      for (const auto& [key, value] : small.items) {
        const std::pair<V, V>* found = dict_find(large, key);
        if (!found || (value && !equal(value, found->second))) return false;
      }
      return true;
    };
    const size_t n = first.items.size(), m = second.items.size();
    switch (operation) {
      case 2:
        return boolean(n == m && inside(first, second));
      case 3:
        return boolean(!(n == m && inside(first, second)));
      default:
        break;
    }
    if (!first.is_set()) give_up(Reason::wrong_call, "ordering dicts");
    if (operation == 0) return boolean(n < m && inside(first, second));
    if (operation == 1) return boolean(n <= m && inside(first, second));
    if (operation == 4) return boolean(n > m && inside(second, first));
    return boolean(n >= m && inside(second, first));
  }
  if (V folded = fold(function, {{a, b}, {}})) return folded;
  const auto attempt = [&](const V& self, int op, const V& other) -> V {
    if (self->kind != Kind::instance && self->kind != Kind::object) return nullptr;
    if (self->kind == Kind::object && PyType_Check(self->object.get())) return nullptr;
    const Ref name = interned(comparison_methods[op]);
    PyObject* found = lookup(type_of(self), name.get());
    if (!found || !PyFunction_Check(found)) {
      if (found && Py_TYPE(found) == &PyWrapperDescr_Type &&
          found != _PyType_Lookup(&PyBaseObject_Type, name.get()))
        give_up(Reason::unknown_object, fmt::format("{} of {}", comparison_methods[op], describe(self)));
      // __ne__ of a class with __eq__ alone.
      if (op == 3) {
        const Ref eq = interned("__eq__");
        PyObject* other_found = lookup(type_of(self), eq.get());
        if (other_found && PyFunction_Check(other_found)) {
          V result = call(class_attribute(self, type_of(self), eq.get(), other_found, self), {{other}, {}});
          if (real(result)->object.get() != Py_NotImplemented) return boolean(!truth(result));
        }
      }
      return nullptr;
    }
    V result = call(class_attribute(self, type_of(self), name.get(), found, self), {{other}, {}});
    return real(result)->object.get() == Py_NotImplemented ? nullptr : result;
  };
  if (V result = attempt(a, operation, b)) return result;
  if (V result = attempt(b, mirrored[operation], a)) return result;
  if (operation == 2) return boolean(same_object(a, b));
  if (operation == 3) return boolean(!same_object(a, b));
  give_up(Reason::wrong_call, fmt::format("{} of {} and {}", comparisons[operation], describe(a),
                                          describe(b)));
}

bool Tracer::contains(const V& container, const V& item) {
  const V c = stored(container, "__contains__");
  switch (c->kind) {
    case Kind::sequence: {
      for (const V& one : std::vector(static_cast<Sequence&>(*c).items))
        if (same_object(one, item) || equal(one, item)) return true;
      return false;
    }
    case Kind::dict:
      return dict_find(static_cast<Dict&>(*c), item) != nullptr;
    case Kind::constant: {
      V folded = fold(well_known("operator", "contains"), {{c, item}, {}});
      if (folded) return truth(folded);
      break;
    }
    case Kind::tensor:
      give_up(Reason::data_dependent, "in a tensor");
    case Kind::object:
    case Kind::instance: {
      const Ref name = interned("__contains__");
      PyObject* held = c->object.get();
      if (held && PyType_Check(held) && PyObject_TypeCheck(held, reinterpret_cast<PyTypeObject*>(well_known("enum", "EnumMeta")))) {
        if (V folded = fold(well_known("operator", "contains"), {{c, item}, {}})) return truth(folded);
      }
      PyObject* found = lookup(type_of(c), name.get());
      if (found && PyFunction_Check(found))
        return truth(call(class_attribute(c, type_of(c), name.get(), found, c), {{item}, {}}));
      break;
    }
    case Kind::view:
      for (const V& one : items_of(c))
        if (same_object(one, item) || equal(one, item)) return true;
      return false;
    case Kind::iterator: {
      while (V one = next_or_null(*this, c))
        if (same_object(one, item) || equal(one, item)) return true;
      return false;
    }
    default:
      break;
  }
  give_up(Reason::unknown_object, "in " + describe(c));
}

V Tracer::stored(const V& given, const char* method) {
  const V value = real(given);
  if (value->kind != Kind::instance) return value;
  auto& instance = static_cast<Instance&>(*value);
  if (!instance.items) return value;
  const Ref name = interned(method);
  PyObject* found = lookup(instance.type, name.get());
  return found && PyFunction_Check(found) ? value : V(instance.items);
}

V Tracer::subscript(const V& container, const V& key) {
  const V c = stored(container, "__getitem__");
  switch (c->kind) {
    case Kind::tensor:
      return call_tensor_function(constant(well_known("operator", "getitem")), {{c, key}, {}});
    case Kind::sequence: {
      const auto& sequence = static_cast<Sequence&>(*c);
      const auto size = static_cast<int64_t>(sequence.items.size());
      const V k = real(key);
      if (k->kind == Kind::slice) {
        const Ref slice = python_constant(k);
        Py_ssize_t start = 0, stop = 0, step = 0;
        if (!slice) give_up(Reason::unknown_object, "a slice of tensors");
        if (PySlice_Unpack(slice.get(), &start, &stop, &step) < 0) raise_python_error();
        const Py_ssize_t count = PySlice_AdjustIndices(size, &start, &stop, step);
        std::vector<V> items;
        for (Py_ssize_t n = 0; n < count; ++n)
          items.push_back(sequence.items[static_cast<size_t>(start + n * step)]);
        return this->sequence(sequence.is_list() ? &PyList_Type : object_size_type(sequence.type), std::move(items));
      }
      int64_t at = index(k);
      if (at < 0) at += size;
      if (at < 0 || at >= size)
        raise(PyExc_IndexError, fmt::format("{} index out of range", sequence.is_list() ? "list" : "tuple"));
      return sequence.items[static_cast<size_t>(at)];
    }
    case Kind::dict: {
      auto& dict = static_cast<Dict&>(*c);
      if (V found = dict_get(dict, key)) {
        // Optimizers step a tensor that counts, not a number: one graph fits every step.
        if (real(found)->object.get() == Py_False && in_torch_optim(*this)) {
          const V name = real(key);
          if (name->kind == Kind::constant && PyUnicode_Check(name->object.get()) &&
              PyUnicode_CompareWithASCIIString(name->object.get(), "capturable") == 0)
            return boolean(true);
        }
        return found;
      }
      if (dict.factory && !is_none(dict.factory)) {
        const V made = call(dict.factory, {});
        dict_set(std::static_pointer_cast<Dict>(c), key, made);
        return made;
      }
      const Ref name = python_constant(key);
      auto error = make<Instance>();
      error->type = reinterpret_cast<PyTypeObject*>(PyExc_KeyError);
      error->args = tuple({key});
      throw Raised{error};
    }
    case Kind::constant:
      if (V folded = fold(well_known("operator", "getitem"), {{c, key}, {}})) return folded;
      break;
    case Kind::object:
    case Kind::instance: {
      PyObject* held = c->object.get();
      if (held && PyType_Check(held)) {
        if (V folded = fold(well_known("operator", "getitem"), {{c, key}, {}})) return folded;
        break;
      }
      const Ref name = interned("__getitem__");
      PyObject* found = lookup(type_of(c), name.get());
      if (found && PyFunction_Check(found))
        return call(class_attribute(c, type_of(c), name.get(), found, c), {{key}, {}});
      break;
    }
    default:
      break;
  }
  give_up(Reason::unknown_object, "an item of " + describe(c));
}

void Tracer::set_subscript(const V& container, const V& key, const V& value) {
  const V c = stored(container, "__setitem__");
  switch (c->kind) {
    case Kind::tensor:
      call_tensor_function(constant(well_known("operator", "setitem")), {{c, key, value}, {}});
      return;
    case Kind::sequence: {
      auto& sequence = static_cast<Sequence&>(*c);
      if (!sequence.is_list()) raise(PyExc_TypeError, "'tuple' object does not support item assignment");
      const V k = real(key);
      const auto size = static_cast<int64_t>(sequence.items.size());
      if (k->kind == Kind::slice) {
        const Ref slice = python_constant(k);
        Py_ssize_t start = 0, stop = 0, step = 0;
        if (!slice || PySlice_Unpack(slice.get(), &start, &stop, &step) < 0)
          give_up(Reason::unknown_object, "a slice");
        PySlice_AdjustIndices(size, &start, &stop, step);
        if (step != 1) give_up(Reason::unknown_object, "assigning to a slice with a step");
        const std::vector<V> items = items_of(value);
        stop = std::max(stop, start);
        sequence.items.erase(sequence.items.begin() + start, sequence.items.begin() + stop);
        sequence.items.insert(sequence.items.begin() + start, items.begin(), items.end());
        changed(c);
        return;
      }
      int64_t at = index(k);
      if (at < 0) at += size;
      if (at < 0 || at >= size) raise(PyExc_IndexError, "list assignment index out of range");
      sequence.items[static_cast<size_t>(at)] = value;
      changed(c);
      return;
    }
    case Kind::dict:
      dict_set(std::static_pointer_cast<Dict>(c), key, value);
      return;
    case Kind::object:
    case Kind::instance: {
      const Ref name = interned("__setitem__");
      PyObject* found = lookup(type_of(c), name.get());
      if (found && PyFunction_Check(found)) {
        call(class_attribute(c, type_of(c), name.get(), found, c), {{key, value}, {}});
        return;
      }
      break;
    }
    default:
      break;
  }
  give_up(Reason::unknown_object, "setting an item of " + describe(c));
}

void Tracer::delete_subscript(const V& container, const V& key) {
  const V c = stored(container, "__delitem__");
  if (c->kind == Kind::dict) {
    if (dict_remove(std::static_pointer_cast<Dict>(c), key)) return;
    auto error = make<Instance>();
    error->type = reinterpret_cast<PyTypeObject*>(PyExc_KeyError);
    error->args = tuple({key});
    throw Raised{error};
  }
  if (c->kind == Kind::sequence && static_cast<Sequence&>(*c).is_list()) {
    auto& items = static_cast<Sequence&>(*c).items;
    const V k = real(key);
    const auto size = static_cast<int64_t>(items.size());
    if (k->kind == Kind::slice) {
      const Ref slice = python_constant(k);
      Py_ssize_t start = 0, stop = 0, step = 0;
      if (!slice || PySlice_Unpack(slice.get(), &start, &stop, &step) < 0 || step != 1)
        give_up(Reason::unknown_object, "deleting a slice");
      PySlice_AdjustIndices(size, &start, &stop, step);
      if (stop > start) items.erase(items.begin() + start, items.begin() + stop);
    } else {
      int64_t at = index(k);
      if (at < 0) at += size;
      if (at < 0 || at >= size) raise(PyExc_IndexError, "list assignment index out of range");
      items.erase(items.begin() + at);
    }
    changed(c);
    return;
  }
  if (c->kind == Kind::object || c->kind == Kind::instance) {
    call_method(c, "__delitem__", {key});
    return;
  }
  give_up(Reason::unknown_object, "deleting an item of " + describe(c));
}

V Tracer::iterate(const V& given) {
  const V value = stored(given, "__iter__");
  switch (value->kind) {
    case Kind::iterator:
      return value;
    case Kind::sequence: {
      auto iterator = make<SequenceIterator>();
      iterator->sequence = value;
      return iterator;
    }
    case Kind::dict:
    case Kind::view:
    case Kind::tensor: {
      auto iterator = make<SequenceIterator>();
      iterator->sequence = list(items_of(value));
      return iterator;
    }
    case Kind::constant: {
      if (PyRange_Check(value->object.get())) {
        const auto part = [&](const char* name) {
          return PyLong_AsLongLong(octavo::capture::attribute(value->object.get(), name).get());
        };
        auto iterator = make<RangeIterator>();
        iterator->at = part("start");
        iterator->stop = part("stop");
        iterator->step = part("step");
        if (PyErr_Occurred()) raise_python_error();
        return iterator;
      }
      const Ref items = Ref::steal(PySequence_List(value->object.get()));
      if (!items) raise_python_error();
      std::vector<V> values;
      for (Py_ssize_t n = 0; n < PyList_GET_SIZE(items.get()); ++n)
        values.push_back(constant(PyList_GET_ITEM(items.get(), n)));
      auto iterator = make<SequenceIterator>();
      iterator->sequence = list(std::move(values));
      return iterator;
    }
    case Kind::object:
    case Kind::instance: {
      PyObject* held = value->object.get();
      if (held && PyType_Check(held) &&
          PyObject_TypeCheck(held, reinterpret_cast<PyTypeObject*>(well_known("enum", "EnumMeta")))) {
        const Ref items = Ref::checked(PySequence_List(held));
        std::vector<V> values;
        for (Py_ssize_t n = 0; n < PyList_GET_SIZE(items.get()); ++n)
          values.push_back(constant(PyList_GET_ITEM(items.get(), n)));
        auto iterator = make<SequenceIterator>();
        iterator->sequence = list(std::move(values));
        return iterator;
      }
      const Ref name = interned("__iter__");
      PyObject* found = lookup(type_of(value), name.get());
      if (found && PyFunction_Check(found))
        return real(call(class_attribute(value, type_of(value), name.get(), found, value), {}));
      if (value->kind == Kind::object && PyIter_Check(held)) give_up(Reason::iterator, describe(value));
      const Ref item = interned("__getitem__");
      PyObject* getter = lookup(type_of(value), item.get());
      if (getter && PyFunction_Check(getter)) {
        auto iterator = make<FunctionIterator>();
        int64_t at = 0;
        iterator->step = [value, at](Tracer& tracer) mutable -> V {
          try {
            return tracer.subscript(value, tracer.integer(at++));
          } catch (const Raised& raised) {
            if (!tracer.matches_exception(raised.exception, tracer.constant(PyExc_IndexError))) throw;
            return nullptr;
          }
        };
        return iterator;
      }
      break;
    }
    default:
      break;
  }
  give_up(Reason::unknown_object, "iterating over " + describe(value));
}

std::vector<V> Tracer::items_of(const V& given) {
  const V value = stored(given, "__iter__");
  switch (value->kind) {
    case Kind::sequence:
      return static_cast<Sequence&>(*value).items;
    case Kind::dict:
      return keys_in_order(*this, static_cast<Dict&>(*value));
    case Kind::view: {
      const auto& view = static_cast<View&>(*value);
      std::vector<V> items;
      for (const auto& [key, item] : view.dict->items)
        items.push_back(view.what == View::What::keys     ? key
                        : view.what == View::What::values ? item
                                                          : tuple({key, item}));
      return items;
    }
    case Kind::tensor: {
      const auto& meta = static_cast<Tensor&>(*value).meta;
      if (meta.dim() == 0) raise(PyExc_TypeError, "iteration over a 0-d tensor");
      const Ref name = interned("unbind");
      return items_of(call_tensor_method(value, name.get(), {}));
    }
    default: {
      const V iterator = iterate(value);
      std::vector<V> items;
      while (V item = next_or_null(*this, iterator)) {
        items.push_back(item);
        if (items.size() > 1000000) give_up(Reason::too_long, "an endless iterator");
      }
      return items;
    }
  }
}

// --- dictionaries and sets ------------------------------------------------------------------------

std::pair<V, V>* Tracer::dict_find(Dict& dict, const V& key) {
  const V k = real(key);
  const Ref constant = python_constant(k);
  if (k->kind == Kind::sequence && static_cast<Sequence&>(*k).is_list())
    raise(PyExc_TypeError, "unhashable type: 'list'");
  if (k->kind == Kind::dict && static_cast<Dict&>(*k).type != &PyFrozenSet_Type)
    raise(PyExc_TypeError, fmt::format("unhashable type: '{}'", type_of(k)->tp_name));
  for (auto& item : dict.items) {
    if (item.first == key) return &item;
    const V own = real(item.first);
    if (own == k) return &item;
    if (own->object && own->object.get() == k->object.get()) return &item;
    if (!constant || (own->kind != Kind::constant && own->kind != Kind::sequence && own->kind != Kind::object)) {
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
  if (k->kind == Kind::instance) {
    const Ref name = interned("__hash__");
    PyObject* found = lookup(type_of(k), name.get());
    if (found && PyFunction_Check(found)) give_up(Reason::unknown_object, "a key with its own __hash__");
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
  changed(dict);
  return true;
}

V Tracer::format(const V& given, const V& spec, int conversion) {
  const V value = real(given);
  const Ref constant_value = python_constant(value);
  if (!constant_value) {
    if (value->kind == Kind::instance || value->kind == Kind::object) {
      const char* method = conversion == 2 || conversion == 3 ? "__repr__" : "__str__";
      const Ref name = interned(method);
      PyObject* found = lookup(type_of(value), name.get());
      if (found && PyFunction_Check(found) && (!spec || !truth(spec)))
        return call(class_attribute(value, type_of(value), name.get(), found, value), {});
    }
    give_up(value->kind == Kind::tensor ? Reason::tensor_to_python : Reason::unknown_object,
            "formatting " + describe(value));
  }
  if (value->kind == Kind::object) give_up(Reason::unknown_object, "formatting " + describe(value));
  Ref text = constant_value;
  if (conversion == 1) text = Ref::steal(PyObject_Str(text.get()));
  if (conversion == 2) text = Ref::steal(PyObject_Repr(text.get()));
  if (conversion == 3) text = Ref::steal(PyObject_ASCII(text.get()));
  if (!text) raise_python_error();
  const Ref format = spec ? python_constant(spec) : Ref();
  Ref result = Ref::steal(PyObject_Format(text.get(), format.get()));
  if (!result) raise_python_error();
  return constant(result);
}

}  // namespace octavo::capture
