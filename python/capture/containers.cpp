// Containers of the traced program: items, iteration, dictionaries and sets.
#include <fmt/format.h>

#include "generator.h"
#include "python_types.h"
#include "scoped.h"
#include "tracer.h"

namespace octavo::capture {
namespace {

// A dict's keys are in order of insertion; a set's in that of its hash table.
std::vector<V> keys_in_order(Tracer& tracer, const Dict& dict) {
  std::vector<V> keys;
  for (const auto& [key, item] : dict.items) keys.push_back(key);
  if (!dict.is_set() || keys.size() < 2) return keys;
  const Ref table = tracer.table_of(dict);
  if (!table) give_up(Reason::unknown_object, "the order of a set");
  if (table.get() == dict.object.get()) return keys;
  const Ref order = Ref::checked(PySequence_List(table.get()));
  std::vector<V> ordered;
  for (Py_ssize_t n = 0; n < PyList_GET_SIZE(order.get()); ++n)
    ordered.push_back(tracer.constant(PyList_GET_ITEM(order.get(), n)));
  return ordered;
}

bool in_torch_optim(Tracer& tracer) {
  return utf8(tracer.frame()->code->object()->co_filename).find("/torch/optim/") !=
         std::string::npos;
}

bool of_typing(PyObject* object) {
  const Ref module = Ref::steal(
      PyObject_GetAttrString(reinterpret_cast<PyObject*>(Py_TYPE(object)), "__module__"));
  if (!module) PyErr_Clear();
  if (!module || !PyUnicode_Check(module.get())) return false;
  const std::string name = utf8(module.get());
  return name == "typing" || (name == "types" && !PyFunction_Check(object));
}

// A constant, a type of module typing, or lists and tuples of them: what stands in List[...].
Ref typing_constant(Tracer& tracer, const V& given) {
  const V value = tracer.real(given);
  if (Ref constant = tracer.python_constant(value)) return constant;
  if (value->kind == Kind::sequence) {
    const auto& sequence = static_cast<Sequence&>(*value);
    const Ref items = Ref::checked(PyList_New(0));
    for (const V& item : sequence.items) {
      const Ref one = typing_constant(tracer, item);
      if (!one) return {};
      check(PyList_Append(items.get(), one.get()));
    }
    return sequence.is_list() ? items : Ref::checked(PyList_AsTuple(items.get()));
  }
  if (value->kind != Kind::object || !of_typing(value->object.get())) return {};
  if (value->source) tracer.sources().guard(value->source, GuardKind::is, value->object.get());
  return value->object;
}

// typing.List[int], collections.abc.Callable[[T], T]; null for other objects.
V subscripted_type(Tracer& tracer, const V& value, const V& key) {
  PyObject* held = value->object.get();
  static PyObject* callable = well_known("collections.abc", "Callable");
  if (!held || (held != callable && (PyType_Check(held) || !of_typing(held)))) return nullptr;
  const Ref of = typing_constant(tracer, key);
  if (!of) return nullptr;
  if (value->source) tracer.sources().guard(value->source, GuardKind::is, held);
  const Ref made = Ref::steal(PyObject_GetItem(held, of.get()));
  if (!made) tracer.raise_python_error();
  return tracer.lazy(made.get(), tracer.sources().fixed(made.get()));
}

// The items of an object whose class derives from list or tuple; null for others.
V items_of_subclass(Tracer& tracer, const V& value) {
  PyObject* object = value->object.get();
  if (!value->source || !(PyList_Check(object) || PyTuple_Check(object))) return nullptr;
  const Py_ssize_t size = PySequence_Fast_GET_SIZE(object);
  tracer.sources().guard(value->source, GuardKind::length, nullptr, size);
  std::vector<V> items;
  for (Py_ssize_t n = 0; n < size; ++n)
    items.push_back(
        tracer.lazy(PySequence_Fast_GET_ITEM(object, n),
                    tracer.sources().of(SourceKind::item, value->source, static_cast<int>(n))));
  return tracer.sequence(PyList_Check(object) ? &PyList_Type : &PyTuple_Type, std::move(items));
}

}  // namespace

std::shared_ptr<Dict> Tracer::new_set(PyTypeObject* type) {
  auto set = make<Dict>();
  set->type = type;
  set->table = Ref::checked(PySet_New(nullptr));
  return set;
}

// A set with the hash table that this one has, or a dict with these keys; null where not all are
// constants.
Ref Tracer::table_of(const Dict& set) {
  if (!set.is_set()) {
    const Ref keys = Ref::checked(PyDict_New());
    for (const auto& [key, value] : set.items) {
      const Ref constant = python_constant(key);
      if (!constant) return {};
      check(PyDict_SetItem(keys.get(), constant.get(), Py_None));
    }
    return keys;
  }
  if (!set.object || set.changed) return set.object ? Ref() : set.table;
  if (set.source) {
    const Ref order = Ref::checked(PySequence_Tuple(set.object.get()));
    keep_.push_back(order);
    trace_.sources.guard(set.source, GuardKind::set_order, order.get());
  }
  return set.object;
}

// A set's items come with its table, another iterable's one by one.
void Tracer::update_set(const std::shared_ptr<Dict>& set, const V& items) {
  const V from = real(items);
  if (from->kind != Kind::dict) {
    for (const V& item : items_of(from)) dict_set(set, item, nullptr);
    return;
  }
  const Ref table = set->table;
  const Ref more = table ? table_of(static_cast<Dict&>(*from)) : Ref();
  set->table = Ref();
  for (const auto& [item, none] : std::vector(static_cast<Dict&>(*from).items))
    dict_set(set, item, nullptr);
  if (!more) return;
  Ref::checked(PyObject_CallMethod(table.get(), "update", "O", more.get()));
  set->table = table;
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
    case Kind::array:
      give_up(Reason::data_dependent, "in " + describe(c));
    case Kind::object:
    case Kind::instance: {
      const Ref name = interned("__contains__");
      PyObject* held = c->object.get();
      if (held && PyType_Check(held) &&
          PyObject_TypeCheck(held,
                             reinterpret_cast<PyTypeObject*>(well_known("enum", "EnumMeta")))) {
        if (V folded = fold(well_known("operator", "contains"), {{c, item}, {}}))
          return truth(folded);
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
  const bool instance = value->kind == Kind::instance && static_cast<Instance&>(*value).items;
  if (!instance && value->kind != Kind::object) return value;
  const auto overrides = [&](const char* name) {
    PyObject* found = lookup(type_of(value), interned(name).get());
    return found && PyFunction_Check(found);
  };
  const std::string_view name = method;
  if (instance) {
    // Where there is no __bool__, __len__ is asked.
    const bool own = overrides(method) || (name == "__bool__" && overrides("__len__"));
    return own ? value : V(static_cast<Instance&>(*value).items);
  }
  if (name == "__setitem__" || name == "__delitem__") return value;
  PyObject* object = value->object.get();
  if (PyType_Check(object) || !(PyList_Check(object) || PyTuple_Check(object))) return value;
  if (overrides(method) || (name == "__bool__" && overrides("__len__"))) return value;
  const V items = items_of_subclass(*this, value);
  return items ? items : value;
}

V Tracer::subscript(const V& container, const V& key) {
  const V c = stored(container, "__getitem__");
  // An instance of a dict's subclass, Counter for one, may answer for the keys it has not.
  if (c->kind == Kind::dict && real(container)->kind == Kind::instance) {
    const Ref name = interned("__missing__");
    PyObject* missing = lookup(type_of(container), name.get());
    if (missing && PyFunction_Check(missing) && !dict_find(static_cast<Dict&>(*c), key))
      return call_method(real(container), "__missing__", {key});
  }
  switch (c->kind) {
    case Kind::tensor: {
      if (index_by_tensors_ > 0) {
        const Scoped<int> plain(index_by_tensors_, 0);
        return call(rewritten("item_by_tensors"), {{c, key}, {}});
      }
      PyObject* getitem = well_known("operator", "getitem");
      if (!is_symbol(key)) return call_tensor_function(constant(getitem), {{c, key}, {}});
      // torch would make the symbol an int.
      return record(
          Node::Op::call_function, Ref::borrow(getitem), {{c, key}, {}},
          [](PyObject* args, PyObject*) {
            const Ref first = Ref::checked(PyLong_FromLong(0));
            return Ref::steal(PyObject_CallFunctionObjArgs(well_known("torch", "select"),
                                                           PyTuple_GET_ITEM(args, 0), first.get(),
                                                           PyTuple_GET_ITEM(args, 1), nullptr));
          },
          nullptr);
    }
    case Kind::array:
      return call_array("operator", "getitem", {{c, key}, {}});
    case Kind::sequence: {
      const auto& sequence = static_cast<Sequence&>(*c);
      const auto size = static_cast<int64_t>(sequence.items.size());
      const V k = real(key);
      if (k->kind == Kind::slice) {
        const Ref slice = python_constant(k);
        Py_ssize_t start = 0, stop = 0, step = 0;
        if (sequence.is_deque())
          raise(PyExc_TypeError, "sequence index must be integer, not 'slice'");
        if (!slice) give_up(Reason::unknown_object, "a slice of tensors");
        if (PySlice_Unpack(slice.get(), &start, &stop, &step) < 0) raise_python_error();
        const Py_ssize_t count = PySlice_AdjustIndices(size, &start, &stop, step);
        std::vector<V> items;
        for (Py_ssize_t n = 0; n < count; ++n)
          items.push_back(sequence.items[static_cast<size_t>(start + n * step)]);
        return this->sequence(sequence.is_list() ? &PyList_Type : object_size_type(sequence.type),
                              std::move(items));
      }
      int64_t at = index(k);
      if (at < 0) at += size;
      if (at < 0 || at >= size)
        raise(PyExc_IndexError,
              fmt::format("{} index out of range", sequence.is_list()    ? "list"
                                                   : sequence.is_deque() ? "deque"
                                                                         : "tuple"));
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
      if (V made = c->kind == Kind::object ? subscripted_type(*this, c, key) : nullptr) return made;
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
    case Kind::array:
      call_array("method", "__setitem__", {{c, key, value}, {}});
      return;
    case Kind::sequence: {
      auto& sequence = static_cast<Sequence&>(*c);
      if (!sequence.is_list() && !sequence.is_deque())
        raise(PyExc_TypeError, "'tuple' object does not support item assignment");
      if (sequence.is_deque() && real(key)->kind == Kind::slice)
        give_up(Reason::wrong_call, "a slice of a deque");
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
      if (at < 0 || at >= size)
        raise(PyExc_IndexError, sequence.is_deque() ? "deque index out of range"
                                                    : "list assignment index out of range");
      sequence.items[static_cast<size_t>(at)] = value;
      changed(c);
      return;
    }
    case Kind::dict:
      if (static_cast<Dict&>(*c).type == &PyDictProxy_Type)
        give_up(Reason::wrong_call, "setting an item of a mappingproxy");
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
    if (static_cast<Dict&>(*c).type == &PyDictProxy_Type)
      give_up(Reason::wrong_call, "deleting an item of a mappingproxy");
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
    call(special(c, "__delitem__"), {{key}, {}});
    return;
  }
  give_up(Reason::unknown_object, "deleting an item of " + describe(c));
}

V Tracer::iterate(const V& given) {
  const V value = stored(given, "__iter__");
  switch (value->kind) {
    case Kind::iterator:
      return value;
    case Kind::sequence:
    case Kind::array: {
      if (value->kind == Kind::array && static_cast<Array&>(*value).tensor->meta.dim() == 0)
        give_up(Reason::wrong_call, "iterating over " + describe(value));
      auto iterator = make<SequenceIterator>();
      iterator->sequence = value;
      if (value->kind == Kind::sequence) iterator->changes = static_cast<Sequence&>(*value).changes;
      return iterator;
    }
    case Kind::dict:
    case Kind::view: {
      auto iterator = make<DictIterator>();
      iterator->dict = value->kind == Kind::view ? static_cast<View&>(*value).dict
                                                 : std::static_pointer_cast<Dict>(value);
      if (value->kind == Kind::view) iterator->what = static_cast<View&>(*value).what;
      if (iterator->dict->is_set()) iterator->of_set = items_of(value);
      iterator->size = iterator->dict->items.size();
      iterator->removals = iterator->dict->removals;
      return iterator;
    }
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
        if (PyErr_Occurred()) {
          PyErr_Clear();
          give_up(Reason::iterator, "a range beyond 64 bits");
        }
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
          PyObject_TypeCheck(held,
                             reinterpret_cast<PyTypeObject*>(well_known("enum", "EnumMeta")))) {
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
      if (value->kind == Kind::object && PyIter_Check(held))
        give_up(Reason::iterator, describe(value));
      const Ref item = interned("__getitem__");
      PyObject* getter = lookup(type_of(value), item.get());
      if (getter && PyFunction_Check(getter)) {
        auto iterator = make<FunctionIterator>();
        int64_t at = 0;
        iterator->step = [value, at](Tracer& tracer) mutable -> V {
          try {
            return tracer.subscript(value, tracer.integer(at++));
          } catch (const Raised& raised) {
            if (!tracer.matches_exception(raised.exception, tracer.constant(PyExc_IndexError)))
              throw;
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

}  // namespace octavo::capture
