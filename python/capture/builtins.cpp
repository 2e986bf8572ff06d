// Python's builtin functions, on values.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "call_table.h"
#include "deque.h"
#include "generator.h"
#include "python_types.h"

namespace octavo::capture {

V keyword(const Call& call, const char* name) {
  for (const auto& [key, value] : call.keywords)
    if (PyUnicode_CompareWithASCIIString(key.get(), name) == 0) return value;
  return nullptr;
}

void expect(Tracer& tracer, const Call& call, const char* name, size_t least, size_t most) {
  if (call.args.size() < least || call.args.size() > most)
    tracer.raise(PyExc_TypeError, fmt::format("{}() takes from {} to {} arguments ({} given)", name,
                                              least, most, call.args.size()));
}

V make_dict(Tracer& tracer, PyTypeObject* type, const Call& call) {
  auto dict = tracer.make<Dict>();
  dict->type = type;
  size_t first = 0;
  if (type == default_dict_type() && !call.args.empty()) dict->factory = call.args[first++];
  if (call.args.size() > first) {
    const V from = tracer.stored(call.args[first], "__iter__");
    if (from->kind == Kind::dict && !static_cast<Dict&>(*from).is_set()) {
      for (const auto& [key, value] : static_cast<Dict&>(*from).items)
        tracer.dict_set(dict, key, value);
    } else {
      for (const V& pair : tracer.items_of(from)) {
        const std::vector<V> parts = tracer.items_of(pair);
        if (parts.size() != 2)
          tracer.raise(PyExc_ValueError,
                       "dictionary update sequence element has the wrong length; 2 is required");
        tracer.dict_set(dict, parts[0], parts[1]);
      }
    }
  }
  for (const auto& [name, value] : call.keywords)
    tracer.dict_set(dict, tracer.constant(name), value);
  return dict;
}

namespace {

V length(Tracer& tracer, const V& given) {
  const V value = tracer.stored(given, "__len__");
  switch (value->kind) {
    case Kind::sequence:
      return tracer.integer(static_cast<int64_t>(static_cast<Sequence&>(*value).items.size()));
    case Kind::dict:
      return tracer.integer(static_cast<int64_t>(static_cast<Dict&>(*value).items.size()));
    case Kind::view:
      return tracer.integer(static_cast<int64_t>(static_cast<View&>(*value).dict->items.size()));
    case Kind::tensor: {
      const at::Tensor& meta = static_cast<Tensor&>(*value).meta;
      if (meta.dim() == 0) tracer.raise(PyExc_TypeError, "len() of a 0-d tensor");
      return tracer.size(static_cast<Tensor&>(*value).sizes()[0]);
    }
    case Kind::array: {
      const at::Tensor& meta = static_cast<Array&>(*value).tensor->meta;
      if (meta.dim() == 0) give_up(Reason::wrong_call, "len() of " + tracer.describe(value));
      return tracer.integer(meta.size(0));
    }
    case Kind::constant: {
      const Py_ssize_t size = PyObject_Size(value->object.get());
      if (size < 0) tracer.raise_python_error();
      return tracer.integer(size);
    }
    case Kind::object:
    case Kind::instance: {
      const V size = tracer.real(tracer.call(tracer.special(value, "__len__"), {}));
      if (size->kind != Kind::constant || !PyLong_Check(size->object.get()))
        give_up(Reason::wrong_call, "__len__() gives " + tracer.describe(size));
      const int64_t number = tracer.index(size);
      if (number < 0) tracer.raise(PyExc_ValueError, "__len__() should return >= 0");
      return tracer.integer(number);
    }
    default:
      give_up(Reason::unknown_object, "len() of " + tracer.describe(value));
  }
}

bool is_instance(Tracer& tracer, const V& value, const V& wanted) {
  const V types = tracer.real(wanted);
  if (types->kind == Kind::sequence) {
    for (const V& one : static_cast<Sequence&>(*types).items)
      if (is_instance(tracer, value, one)) return true;
    return false;
  }
  if (types->kind != Kind::object)
    give_up(Reason::unknown_object, "isinstance() of " + tracer.describe(types));
  const V v = tracer.look(value);
  PyObject* type = types->object.get();
  if (v->kind == Kind::symbol) {
    const int is = PyObject_IsSubclass(reinterpret_cast<PyObject*>(tracer.type_of(v)), type);
    if (is < 0) tracer.raise_python_error();
    return is == 1;
  }
  if (v->kind == Kind::iterator) {
    const bool generator = dynamic_cast<GeneratorIterator*>(v.get()) != nullptr;
    if (type == reinterpret_cast<PyObject*>(&PyGen_Type)) return generator;
    if (type == reinterpret_cast<PyObject*>(tensor_type())) return false;
    if (PyType_Check(type) &&
        (reinterpret_cast<PyTypeObject*>(type)->tp_flags & Py_TPFLAGS_HEAPTYPE) == 0)
      return false;
    give_up(Reason::iterator, "isinstance() of an iterator");
  }
  if (v->kind == Kind::object || v->kind == Kind::constant) {
    // The check may run the class's own __instancecheck__, on the object that is there.
    const int is = PyObject_IsInstance(v->object.get(), type);
    if (is < 0) tracer.raise_python_error();
    return is == 1;
  }
  PyTypeObject* own = tracer.type_of(v);
  if (type == reinterpret_cast<PyObject*>(parameter_type()))
    return PyType_IsSubtype(own, parameter_type());
  if (v->kind == Kind::tensor && v->object) {
    const int is = PyObject_IsInstance(v->object.get(), type);
    if (is < 0) tracer.raise_python_error();
    return is == 1;
  }
  if (PyType_Check(type) && PyType_IsSubtype(own, reinterpret_cast<PyTypeObject*>(type)))
    return true;
  const int is = PyObject_IsSubclass(reinterpret_cast<PyObject*>(own), type);
  if (is < 0) {
    PyErr_Clear();
    give_up(Reason::unknown_object, "isinstance() with " + tracer.describe(types));
  }
  return is == 1;
}

V best(Tracer& tracer, Call& call, bool largest) {
  const V items = tracer.iterate(call.args.size() == 1 ? call.args[0] : tracer.tuple(call.args));
  const V key = keyword(call, "key"), fallback = keyword(call, "default");
  const bool keyed = key && !tracer.is_none(key);
  V chosen, rank;
  while (const V item = next_or_null(tracer, items)) {
    const V other = keyed ? tracer.call(key, {{item}, {}}) : item;
    if (chosen && !tracer.truth(tracer.compare(largest ? 4 : 0, other, rank))) continue;
    chosen = item;
    rank = other;
  }
  if (chosen) return chosen;
  if (fallback) return fallback;
  tracer.raise(PyExc_ValueError, "an empty sequence");
}

V sum(Tracer& tracer, Call& call) {
  V total = call.args.size() > 1 ? call.args[1] : keyword(call, "start");
  if (!total) total = tracer.integer(0);
  const PyTypeObject* type = tracer.type_of(total);
  if (type == &PyUnicode_Type || type == &PyBytes_Type) give_up(Reason::wrong_call, "sum of text");
  const V items = tracer.iterate(call.args.at(0));
  while (const V item = next_or_null(tracer, items)) total = tracer.binary(0, total, item);
  return total;
}

V sorted_list(Tracer& tracer, const std::vector<V>& items, const Call& call) {
  const V key = keyword(call, "key"), reverse = keyword(call, "reverse");
  const bool keyed = key && !tracer.is_none(key);
  if (reverse && !PyType_IsSubtype(tracer.type_of(reverse), &PyLong_Type))
    give_up(Reason::wrong_call, "reverse= that is no int");
  const bool backward = reverse && tracer.truth(reverse);
  std::vector<std::pair<V, V>> ranked;
  bool plain = true;
  for (const V& item : items) {
    ranked.emplace_back(keyed ? tracer.call(key, {{item}, {}}) : item, item);
    plain = plain && tracer.look(ranked.back().first)->kind != Kind::instance &&
            tracer.look(ranked.back().first)->kind != Kind::object;
  }
  if (backward) std::reverse(ranked.begin(), ranked.end());
  // Comparisons of the user's own happen in list.sort's order: up to 63 items it takes the run at
  // the front, and puts each of the others in its place by halving.
  const size_t count = ranked.size();
  if (!plain && count > 63) give_up(Reason::unknown_call, "sorting many objects");
  const auto less = [&](size_t a, size_t b) {
    return tracer.truth(tracer.compare(0, ranked[a].first, ranked[b].first));
  };
  size_t run = std::min<size_t>(count, 1);
  if (count > 1) {
    const bool falls = less(1, 0);
    for (run = 2; run < count && less(run, run - 1) == falls;) ++run;
    if (falls) std::reverse(ranked.begin(), ranked.begin() + static_cast<ptrdiff_t>(run));
  }
  for (; run < count; ++run) {
    size_t low = 0, high = run;
    while (low < high) {
      const size_t middle = low + (high - low) / 2;
      if (less(run, middle))
        high = middle;
      else
        low = middle + 1;
    }
    const auto begin = ranked.begin();
    std::rotate(begin + static_cast<ptrdiff_t>(low), begin + static_cast<ptrdiff_t>(run),
                begin + static_cast<ptrdiff_t>(run) + 1);
  }
  std::vector<V> result;
  for (const auto& [rank, item] : ranked) result.push_back(item);
  if (backward) std::reverse(result.begin(), result.end());
  return tracer.list(std::move(result));
}

V make_set(Tracer& tracer, PyTypeObject* type, const Call& call) {
  const auto set = tracer.new_set(type);
  if (!call.args.empty()) tracer.update_set(set, call.args[0]);
  return set;
}

V zero_argument_super(Tracer& tracer) {
  Frame& frame = *tracer.frame();
  const PyCodeObject* code = frame.code->object();
  auto super = tracer.make<Super>();
  const Py_ssize_t free = code->co_nlocalsplus - code->co_nfreevars;
  for (Py_ssize_t n = 0; n < code->co_nfreevars; ++n) {
    if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(code->co_localsplusnames, free + n),
                                         "__class__") != 0)
      continue;
    const V cell = tracer.real(frame.slots[static_cast<size_t>(free + n)]);
    const V cls = tracer.real(static_cast<Cell&>(*cell).content);
    super->after = reinterpret_cast<PyTypeObject*>(cls->object.get());
  }
  V self = frame.slots.empty() ? nullptr : frame.slots[0];
  if (!super->after || !self) give_up(Reason::unknown_call, "super()");
  self = tracer.real(self);
  if (self->kind == Kind::cell) self = static_cast<Cell&>(*self).content;
  super->self = self;
  return super;
}

V get_attribute(Tracer& tracer, Call& call) {
  expect(tracer, call, "getattr", 2, 3);
  const Ref name = tracer.intern(call.args[1]);
  if (call.args.size() == 2) return tracer.attribute(call.args[0], name.get());
  const V found = tracer.attribute_or_null(call.args[0], name.get());
  return found ? found : call.args[2];
}

V to_number(Tracer& tracer, PyObject* type, Call& call) {
  if (!call.args.empty() && (tracer.is_tensor(call.args[0]) || tracer.holds_array(call.args[0])))
    give_up(Reason::tensor_to_python,
            std::string(reinterpret_cast<PyTypeObject*>(type)->tp_name) + " of a tensor");
  if (V folded = tracer.fold(type, call)) return folded;
  const V value = tracer.real(call.args.at(0));
  if (type == reinterpret_cast<PyObject*>(&PyUnicode_Type)) return tracer.format(value, nullptr, 1);
  give_up(Reason::unknown_object, std::string(reinterpret_cast<PyTypeObject*>(type)->tp_name) +
                                      " of " + tracer.describe(value));
}

}  // namespace

void add_builtins(CallTable& table) {
  const auto on = [&](const char* name, std::function<V(Tracer&, Call&)> handler) {
    table.handlers[well_known("builtins", name)] = std::move(handler);
  };
  on("len", [](Tracer& t, Call& c) {
    expect(t, c, "len", 1, 1);
    return length(t, c.args[0]);
  });
  on("isinstance", [](Tracer& t, Call& c) {
    expect(t, c, "isinstance", 2, 2);
    return t.boolean(is_instance(t, c.args[0], c.args[1]));
  });
  on("issubclass", [](Tracer& t, Call& c) -> V {
    expect(t, c, "issubclass", 2, 2);
    const Ref cls = t.python_constant(c.args[0]), types = t.python_constant(c.args[1]);
    if (!cls || !types) give_up(Reason::unknown_object, "issubclass()");
    const int is = PyObject_IsSubclass(cls.get(), types.get());
    if (is < 0) t.raise_python_error();
    return t.boolean(is == 1);
  });
  on("getattr", get_attribute);
  on("hasattr", [](Tracer& t, Call& c) {
    expect(t, c, "hasattr", 2, 2);
    const V object = t.real(c.args[0]);
    // The dict of an object is made when it is first read.
    if (object->kind == Kind::object && Py_TYPE(object->object.get())->tp_dictoffset != 0 &&
        PyUnicode_CompareWithASCIIString(t.intern(c.args[1]).get(), "__dict__") == 0)
      return t.boolean(true);
    return t.boolean(t.attribute_or_null(c.args[0], t.intern(c.args[1]).get()) != nullptr);
  });
  on("setattr", [](Tracer& t, Call& c) {
    expect(t, c, "setattr", 3, 3);
    t.set_attribute(c.args[0], t.intern(c.args[1]).get(), c.args[2]);
    return t.none();
  });
  on("delattr", [](Tracer& t, Call& c) {
    expect(t, c, "delattr", 2, 2);
    t.set_attribute(c.args[0], t.intern(c.args[1]).get(), nullptr);
    return t.none();
  });
  on("callable", [](Tracer& t, Call& c) {
    expect(t, c, "callable", 1, 1);
    const V value = t.real(c.args[0]);
    if (value->kind == Kind::function || value->kind == Kind::method) return t.boolean(true);
    if (value->kind == Kind::object || value->kind == Kind::constant)
      return t.boolean(PyCallable_Check(value->object.get()) != 0);
    return t.boolean(t.type_of(value)->tp_call != nullptr);
  });
  on("iter", [](Tracer& t, Call& c) -> V {
    if (c.args.size() != 1) give_up(Reason::unknown_call, "iter() with a sentinel");
    return t.iterate(c.args[0]);
  });
  on("next", [](Tracer& t, Call& c) -> V {
    expect(t, c, "next", 1, 2);
    if (V item = next_or_null(t, c.args[0])) return item;
    if (c.args.size() > 1) return c.args[1];
    auto stop = t.make<Instance>();
    stop->type = reinterpret_cast<PyTypeObject*>(PyExc_StopIteration);
    stop->args = t.tuple({});
    throw Raised{stop};
  });
  on("type", [](Tracer& t, Call& c) -> V {
    if (c.args.size() != 1) give_up(Reason::class_body, "type() with three arguments");
    return t.type_value(c.args[0]);
  });
  on("super", [](Tracer& t, Call& c) -> V {
    if (c.args.empty()) return zero_argument_super(t);
    expect(t, c, "super", 2, 2);
    auto super = t.make<Super>();
    super->after = reinterpret_cast<PyTypeObject*>(t.real(c.args[0])->object.get());
    super->self = c.args[1];
    return super;
  });
  on("tuple", [](Tracer& t, Call& c) {
    return t.tuple(c.args.empty() ? std::vector<V>() : t.items_of(c.args[0]));
  });
  on("list", [](Tracer& t, Call& c) {
    return t.list(c.args.empty() ? std::vector<V>() : t.items_of(c.args[0]));
  });
  on("dict", [](Tracer& t, Call& c) { return make_dict(t, &PyDict_Type, c); });
  on("set", [](Tracer& t, Call& c) { return make_set(t, &PySet_Type, c); });
  on("frozenset", [](Tracer& t, Call& c) { return make_set(t, &PyFrozenSet_Type, c); });
  on("slice", [](Tracer& t, Call& c) -> V {
    expect(t, c, "slice", 1, 3);
    auto slice = t.make<Slice>();
    slice->start = c.args.size() > 1 ? c.args[0] : t.none();
    slice->stop = c.args[c.args.size() > 1 ? 1 : 0];
    slice->step = c.args.size() > 2 ? c.args[2] : t.none();
    return slice;
  });
  for (const char* name : {"int", "float", "bool", "str", "complex"}) {
    PyObject* type = well_known("builtins", name);
    if (std::strcmp(name, "bool") == 0)
      on(name, [](Tracer& t, Call& c) { return t.boolean(!c.args.empty() && t.truth(c.args[0])); });
    else
      on(name, [type](Tracer& t, Call& c) { return to_number(t, type, c); });
  }
  on("repr", [](Tracer& t, Call& c) {
    expect(t, c, "repr", 1, 1);
    return t.format(c.args[0], nullptr, 2);
  });
  on("enumerate", [](Tracer& t, Call& c) -> V {
    auto made = t.make<EnumerateIterator>();
    made->inner = t.iterate(c.args.at(0));
    const V start = c.args.size() > 1 ? c.args[1] : keyword(c, "start");
    if (start) made->count = t.index(start);
    return made;
  });
  on("zip", [](Tracer& t, Call& c) -> V {
    auto made = t.make<ZipIterator>();
    for (const V& one : c.args) made->inner.push_back(t.iterate(one));
    const V strict = keyword(c, "strict");
    made->strict = strict && t.truth(strict);
    return made;
  });
  on("map", [](Tracer& t, Call& c) -> V {
    auto made = t.make<MapIterator>();
    made->function = c.args.at(0);
    for (size_t n = 1; n < c.args.size(); ++n) made->inner.push_back(t.iterate(c.args[n]));
    return made;
  });
  on("filter", [](Tracer& t, Call& c) -> V {
    auto made = t.make<FilterIterator>();
    if (!t.is_none(c.args.at(0))) made->function = c.args[0];
    made->inner = t.iterate(c.args.at(1));
    return made;
  });
  on("reversed", [](Tracer& t, Call& c) -> V {
    const V value = t.real(c.args.at(0));
    if (value->kind == Kind::sequence) {
      auto made = t.make<SequenceIterator>();
      made->sequence = value;
      made->changes = static_cast<Sequence&>(*value).changes;
      made->backward = true;
      made->position = static_cast<Sequence&>(*value).items.size();
      return made;
    }
    const bool ordered = value->kind == Kind::constant || value->kind == Kind::view ||
                         (value->kind == Kind::dict && !static_cast<Dict&>(*value).is_set());
    if (!ordered) give_up(Reason::unknown_call, "reversed() of " + t.describe(value));
    std::vector<V> items = t.items_of(value);
    std::reverse(items.begin(), items.end());
    return t.iterate(t.list(std::move(items)));
  });
  on("any", [](Tracer& t, Call& c) {
    const V iterator = t.iterate(c.args.at(0));
    while (V item = next_or_null(t, iterator))
      if (t.truth(item)) return t.boolean(true);
    return t.boolean(false);
  });
  on("all", [](Tracer& t, Call& c) {
    const V iterator = t.iterate(c.args.at(0));
    while (V item = next_or_null(t, iterator))
      if (!t.truth(item)) return t.boolean(false);
    return t.boolean(true);
  });
  on("sum", sum);
  on("max", [](Tracer& t, Call& c) { return best(t, c, true); });
  on("min", [](Tracer& t, Call& c) { return best(t, c, false); });
  on("sorted", [](Tracer& t, Call& c) { return sorted_list(t, t.items_of(c.args.at(0)), c); });
  on("abs", [](Tracer& t, Call& c) -> V {
    if (t.is_tensor(c.args.at(0))) return t.call_method(c.args[0], "abs", {});
    if (V folded = t.fold(well_known("operator", "abs"), c)) return folded;
    return t.call(t.special(t.real(c.args[0]), "__abs__"), {});
  });
  on("print", [](Tracer&, Call&) -> V { give_up(Reason::input_output, "print()"); });
  on("id", [](Tracer& t, Call& c) -> V {
    expect(t, c, "id", 1, 1);
    const V value = t.real(c.args[0]);
    // Of an object that was there before, and stays the one it is.
    if (value->kind != Kind::object || !value->object) give_up(Reason::unknown_call, "id()");
    if (value->source) t.sources().guard(value->source, GuardKind::is, value->object.get());
    return t.constant(Ref::checked(PyLong_FromVoidPtr(value->object.get())));
  });
  for (const char* name : {"range", "round", "divmod", "pow", "ord", "chr", "hash", "bin", "hex",
                           "oct", "ascii", "format", "bytes"})
    table.pure.insert(well_known("builtins", name));
  for (const char* name : {"int", "float", "str", "complex"})
    table.pure.insert(well_known("builtins", name));
  table.pure.insert(well_known("sys", "intern"));
}

}  // namespace octavo::capture
