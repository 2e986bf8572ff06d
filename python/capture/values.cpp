// Making values, looking into lazy ones, and turning them back into Python constants.
#include <fmt/format.h>
#include <torch/csrc/Device.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/DynamicTypes.h>
#include <torch/csrc/Layout.h>
#include <torch/csrc/MemoryFormat.h>
#include <torch/csrc/Size.h>
#include <torch/csrc/autograd/python_variable.h>

#include "arrays.h"
#include "python_types.h"
#include "tracer.h"

namespace octavo::capture {
namespace {

bool is_literal(PyObject* object) {
  return object == Py_None || PyBool_Check(object) || PyLong_CheckExact(object) ||
         PyFloat_CheckExact(object) || PyUnicode_CheckExact(object) || PyBytes_CheckExact(object) ||
         PyComplex_CheckExact(object) || object == Py_Ellipsis || object == Py_NotImplemented;
}

bool is_torch_constant(PyObject* object) {
  return THPDtype_Check(object) || THPLayout_Check(object) || THPMemoryFormat_Check(object) ||
         THPDevice_Check(object) || Py_TYPE(object) == known_type("torch", "finfo") ||
         Py_TYPE(object) == known_type("torch", "iinfo") || is_array_number(object) ||
         is_array_dtype(object);
}

}  // namespace

V Tracer::lazy(PyObject* object, Source* source) {
  auto value = std::make_shared<Lazy>();
  value->object = Ref::borrow(object);
  value->source = source;
  return value;
}

V Tracer::loaded(PyObject* object, Source* source) {
  trace_.sources.guard(source, GuardKind::there);
  return lazy(object, source);
}

V Tracer::constant(Ref object) {
  if (PyTuple_CheckExact(object.get())) {
    std::vector<V> items;
    for (Py_ssize_t n = 0; n < PyTuple_GET_SIZE(object.get()); ++n)
      items.push_back(constant(PyTuple_GET_ITEM(object.get(), n)));
    V made = tuple(std::move(items));
    made->object = std::move(object);
    return made;
  }
  if (PyFrozenSet_CheckExact(object.get())) {
    auto set = make<Dict>();
    set->type = &PyFrozenSet_Type;
    const Ref items = Ref::checked(PySequence_List(object.get()));
    for (Py_ssize_t n = 0; n < PyList_GET_SIZE(items.get()); ++n)
      set->items.emplace_back(constant(PyList_GET_ITEM(items.get(), n)), nullptr);
    set->object = std::move(object);
    return set;
  }
  const bool literal =
      is_literal(object.get()) || is_torch_constant(object.get()) || PyRange_Check(object.get());
  auto value = make<Value>(literal ? Kind::constant : Kind::object);
  value->object = std::move(object);
  return value;
}

V Tracer::sequence(PyTypeObject* type, std::vector<V> items) {
  auto made = make<Sequence>();
  made->type = type;
  made->items = std::move(items);
  return made;
}

V Tracer::look(const V& given) {
  if (!given) give_up(Reason::unknown_object, "a value that is not there");
  if (given->kind != Kind::lazy) return given;
  auto& lazy = static_cast<Lazy&>(*given);
  if (lazy.resolved) return lazy.resolved;
  PyObject* object = lazy.object.get();
  Source* source = lazy.source;
  Sources& sources = trace_.sources;
  const auto finish = [&](const V& value) {
    value->source = source;
    value->born = 0;
    if (!value->object) value->object = lazy.object;
    lazy.resolved = value;
    return value;
  };
  PyTypeObject* type = Py_TYPE(object);
  auto* type_object = reinterpret_cast<PyObject*>(type);
  const bool fixed = source && source->kind == SourceKind::fixed;

  // What is identical wherever it is found.
  if (object == Py_None || PyBool_Check(object) || object == Py_Ellipsis ||
      object == Py_NotImplemented || THPDtype_Check(object) || THPLayout_Check(object) ||
      THPMemoryFormat_Check(object)) {
    if (!fixed) sources.guard(source, GuardKind::is, object);
    return finish(constant(object));
  }
  if (PyLong_CheckExact(object))
    if (V symbol = dynamic_integer(object, source)) return finish(symbol);
  if ((PyFloat_CheckExact(object) || is_array_number(object)) &&
      differs_between_calls(object, source))
    give_up(Reason::tensor_to_python, "a number that differs from call to call");
  if (is_literal(object) || THPDevice_Check(object) || PyRange_Check(object) ||
      is_array_number(object) || is_array_dtype(object)) {
    if (!fixed) sources.guard(source, GuardKind::equals, object);
    return finish(constant(object));
  }
  if (PyType_Check(object) || PyModule_Check(object) || PyCFunction_CheckExact(object) ||
      Py_TYPE(object) == &PyMethodDescr_Type || Py_TYPE(object) == &PyWrapperDescr_Type ||
      Py_TYPE(object) == &PyGetSetDescr_Type || Py_TYPE(object) == &PyMemberDescr_Type ||
      Py_TYPE(object) == &PyProperty_Type || is_enum_member(object)) {
    // Bound builtin methods are made anew at each look.
    const bool bound = PyCFunction_CheckExact(object) && PyCFunction_GET_SELF(object) &&
                       !PyModule_Check(PyCFunction_GET_SELF(object)) &&
                       !PyType_Check(PyCFunction_GET_SELF(object));
    if (!bound) {
      if (!fixed) sources.guard(source, GuardKind::is, object);
      return finish(make<Value>(Kind::object));
    }
    PyObject* self = PyCFunction_GET_SELF(object);
    const Ref name = octavo::capture::attribute(object, "__name__");
    PyObject* descriptor = _PyType_Lookup(Py_TYPE(self), name.get());
    if (descriptor && Py_TYPE(descriptor) == &PyMethodDescr_Type) {
      sources.guard(source, GuardKind::c_method, object);
      auto method = make<Method>();
      method->self = this->lazy(self, sources.of(SourceKind::method_self, source));
      method->function = constant(descriptor);
      return finish(method);
    }
  }

  // What has identity: the same object is the same value, however it is reached.
  if (const auto known = lifted_.find(object); known != lifted_.end()) {
    if (known->second->source != source && source && known->second->source)
      sources.same(source, known->second->source);
    lazy.resolved = known->second;
    return known->second;
  }
  const auto remember = [&](const V& value) {
    finish(value);
    lifted_[object] = value;
    keep_.push_back(lazy.object);
    return value;
  };
  if (is_tensor_object(object)) {
    if (V tensor = lift_tensor(object, source)) return remember(tensor);
    sources.guard(source, GuardKind::type, type_object);
    return remember(make<Value>(Kind::object));
  }
  if (PyFunction_Check(object)) {
    if (!fixed)
      sources.guard(source, GuardKind::code, PyFunction_GET_CODE(object), 0,
                    PyFunction_GET_GLOBALS(object));
    return remember(make<Value>(Kind::object));
  }
  if (is_array(object))
    if (V array = lift_array(object, source)) return remember(array);
  if (!fixed) sources.guard(source, GuardKind::type, type_object);
  if (type == &PyMethod_Type) {
    auto method = make<Method>();
    method->self =
        this->lazy(PyMethod_GET_SELF(object), sources.of(SourceKind::method_self, source));
    method->function =
        this->lazy(PyMethod_GET_FUNCTION(object), sources.of(SourceKind::method_function, source));
    return remember(method);
  }
  if (type == &PyCell_Type) {
    auto cell = make<Cell>();
    Source* contents = sources.of(SourceKind::cell_contents, source);
    if (PyObject* held = PyCell_GET(object)) {
      cell->content = this->lazy(held, contents);
    } else {
      sources.guard(contents, GuardKind::lacks_item);
    }
    return remember(cell);
  }
  if (type == &PyList_Type || type == &PyTuple_Type || is_named_tuple(type) ||
      object_is_size(object)) {
    auto sequence = make<Sequence>();
    sequence->type = type;
    const Py_ssize_t size = PySequence_Fast_GET_SIZE(object);
    sources.guard(source, GuardKind::length, nullptr, size);
    for (Py_ssize_t n = 0; n < size; ++n)
      sequence->items.push_back(
          this->lazy(PySequence_Fast_GET_ITEM(object, n),
                     sources.of(SourceKind::item, source, static_cast<int>(n))));
    return remember(sequence);
  }
  if (type == deque_type()) {
    auto deque = make<Sequence>();
    deque->type = type;
    const Ref most = octavo::capture::attribute(object, "maxlen");
    deque->most = constant(most);
    const Py_ssize_t size = PySequence_Size(object);
    sources.guard(source, GuardKind::length, most.get(), size);
    for (Py_ssize_t n = 0; n < size; ++n)
      deque->items.push_back(this->lazy(Ref::checked(PySequence_GetItem(object, n)).get(),
                                        sources.of(SourceKind::item, source, static_cast<int>(n))));
    return remember(deque);
  }
  if (type == &PyDict_Type || type == &PyODict_Type || type == default_dict_type()) {
    // Names of code that runs: other code, and capture itself, add names at any time.
    if (PyDict_GetItemString(object, "__builtins__")) return remember(make<Value>(Kind::object));
    auto dict = make<Dict>();
    dict->type = type;
    const Ref keys = Ref::checked(PyTuple_New(PyDict_GET_SIZE(object)));
    Py_ssize_t n = 0;
    for_each_item(object, [&](PyObject* key, PyObject* value) {
      PyTuple_SET_ITEM(keys.get(), n++, Py_NewRef(key));
      Source* item = sources.of(SourceKind::dict_item, source, key);
      // A tensor or an object as key is the one it was: the keys are guarded by identity.
      V name = is_literal(key) ? constant(key) : this->lazy(key, sources.fixed(key));
      dict->items.emplace_back(name, this->lazy(value, item));
    });
    keep_.push_back(keys);
    sources.guard(source, GuardKind::keys, keys.get());
    if (type == default_dict_type())
      dict->factory =
          this->lazy(octavo::capture::attribute(object, "default_factory").get(),
                     sources.of(SourceKind::attribute, source, interned("default_factory").get()));
    return remember(dict);
  }
  if (type == &PySet_Type || type == &PyFrozenSet_Type) {
    const Ref items = Ref::checked(PySequence_List(object));
    // Functions and enum members are equal to nothing but themselves.
    const auto known = [](PyObject* item) {
      return is_literal(item) || PyType_Check(item) || is_torch_constant(item) ||
             PyFunction_Check(item) || PyCFunction_CheckExact(item) || is_enum_member(item);
    };
    for (Py_ssize_t n = 0; n < PyList_GET_SIZE(items.get()); ++n)
      if (!known(PyList_GET_ITEM(items.get(), n))) return remember(make<Value>(Kind::object));
    auto set = make<Dict>();
    set->type = type;
    const Ref copy = Ref::checked(type == &PySet_Type ? PySet_New(object) : Py_NewRef(object));
    keep_.push_back(copy);
    sources.guard(source, GuardKind::equals, copy.get());
    for (Py_ssize_t n = 0; n < PyList_GET_SIZE(items.get()); ++n)
      if (PyObject* item = PyList_GET_ITEM(items.get(), n); is_literal(item))
        set->items.emplace_back(constant(item), nullptr);
      else
        set->items.emplace_back(this->lazy(item, sources.fixed(item)), nullptr);
    return remember(set);
  }
  if (type == &PySlice_Type) {
    sources.guard(source, GuardKind::equals, object);
    auto slice = make<Slice>();
    auto* real = reinterpret_cast<PySliceObject*>(object);
    slice->start = constant(real->start);
    slice->stop = constant(real->stop);
    slice->step = constant(real->step);
    return finish(slice);
  }
  return remember(make<Value>(Kind::object));
}

Ref Tracer::python_constant(const V& given) {
  const V value = real(given);
  switch (value->kind) {
    case Kind::constant:
      return value->object;
    case Kind::object:
      // Classes, functions, modules and enum members are what they are.
      if (PyType_Check(value->object.get()) || PyModule_Check(value->object.get()) ||
          PyFunction_Check(value->object.get()) || PyCFunction_Check(value->object.get()) ||
          Py_TYPE(value->object.get()) == &PyMethodDescr_Type ||
          Py_TYPE(value->object.get()) == &PyWrapperDescr_Type ||
          is_enum_member(value->object.get()) || PyCode_Check(value->object.get()))
        return value->object;
      return {};
    case Kind::sequence: {
      const auto& sequence = static_cast<Sequence&>(*value);
      if (sequence.is_list() || sequence.is_deque()) return {};
      Ref made = Ref::checked(PyTuple_New(static_cast<Py_ssize_t>(sequence.items.size())));
      for (size_t n = 0; n < sequence.items.size(); ++n) {
        Ref item = python_constant(sequence.items[n]);
        if (!item) return {};
        PyTuple_SET_ITEM(made.get(), static_cast<Py_ssize_t>(n), item.release());
      }
      if (sequence.type != &PyTuple_Type) return make_named_tuple(sequence.type, made);
      return made;
    }
    case Kind::slice: {
      const auto& slice = static_cast<Slice&>(*value);
      const Ref start = python_constant(slice.start), stop = python_constant(slice.stop),
                step = python_constant(slice.step);
      if (!start || !stop || !step) return {};
      return Ref::checked(PySlice_New(start.get(), stop.get(), step.get()));
    }
    case Kind::dict: {
      const auto& dict = static_cast<Dict&>(*value);
      if (dict.type != &PyFrozenSet_Type) return {};
      const Ref items = Ref::checked(PyList_New(0));
      for (const auto& [key, none] : dict.items) {
        const Ref item = python_constant(key);
        if (!item) return {};
        check(PyList_Append(items.get(), item.get()));
      }
      return Ref::checked(PyFrozenSet_New(items.get()));
    }
    default:
      return {};
  }
}

bool Tracer::truth(const V& given) {
  if (is_symbol(given))
    if (const V answer = symbol_compare(3, given, integer(0)))
      return answer->object.get() == Py_True;
  const V value = stored(stored(given, "__bool__"), "__len__");
  switch (value->kind) {
    case Kind::constant: {
      const int truth = PyObject_IsTrue(value->object.get());
      if (truth < 0) raise_python_error();
      return truth == 1;
    }
    case Kind::tensor:
    case Kind::array:
      give_up(Reason::data_dependent, "the truth of " + describe(value));
    case Kind::sequence:
      return !static_cast<Sequence&>(*value).items.empty();
    case Kind::dict:
      return !static_cast<Dict&>(*value).items.empty();
    case Kind::view:
      return !static_cast<View&>(*value).dict->items.empty();
    case Kind::object:
    case Kind::instance: {
      PyTypeObject* type = type_of(value);
      if (PyType_Check(value->object.get() ? value->object.get() : Py_None)) return true;
      for (const char* name : {"__bool__", "__len__"}) {
        const Ref key = interned(name);
        PyObject* found = lookup(type, key.get());
        if (!found) continue;
        if (!PyFunction_Check(found)) {
          if (value->kind == Kind::instance) continue;
          give_up(Reason::unknown_object, "the truth of " + describe(value));
        }
        return truth(call(attribute(value, key.get()), {}));
      }
      return true;
    }
    default:
      return true;
  }
}

int64_t Tracer::index(const V& given) {
  const V value = real(given);
  if (value->kind == Kind::constant && PyIndex_Check(value->object.get())) {
    const Py_ssize_t index = PyNumber_AsSsize_t(value->object.get(), PyExc_OverflowError);
    if (index == -1 && PyErr_Occurred()) raise_python_error();
    return index;
  }
  if (value->kind == Kind::tensor || value->kind == Kind::array)
    give_up(Reason::tensor_to_python, describe(value) + " as an index");
  if (value->kind == Kind::instance || value->kind == Kind::object)
    return index(call(special(value, "__index__"), {}));
  raise(PyExc_TypeError, describe(value) + " cannot be interpreted as an integer");
}

PyTypeObject* Tracer::type_of(const V& given) {
  const V value = look(given);
  switch (value->kind) {
    case Kind::symbol:
      return static_cast<Symbol&>(*value).hint.real ? &PyFloat_Type : &PyLong_Type;
    case Kind::constant:
    case Kind::object:
      return Py_TYPE(value->object.get());
    case Kind::tensor:
      return static_cast<Tensor&>(*value).type;
    case Kind::array:
      return type_of_array(static_cast<Array&>(*value));
    case Kind::sequence:
      return static_cast<Sequence&>(*value).type;
    case Kind::dict:
      return static_cast<Dict&>(*value).type;
    case Kind::instance:
      return static_cast<Instance&>(*value).type;
    case Kind::slice:
      return &PySlice_Type;
    case Kind::function:
      return &PyFunction_Type;
    case Kind::method:
      return &PyMethod_Type;
    case Kind::cell:
      return &PyCell_Type;
    case Kind::view: {
      const View::What what = static_cast<View&>(*value).what;
      return what == View::What::keys     ? &PyDictKeys_Type
             : what == View::What::values ? &PyDictValues_Type
                                          : &PyDictItems_Type;
    }
    case Kind::super:
      return &PySuper_Type;
    case Kind::traceback:
      return &PyTraceBack_Type;
    case Kind::iterator:
      give_up(Reason::iterator, "the type of an iterator");
    default:
      give_up(Reason::unknown_object, "the type of " + describe(value));
  }
}

V Tracer::type_value(const V& value) {
  return constant(reinterpret_cast<PyObject*>(type_of(value)));
}

bool Tracer::same_object(const V& left, const V& right) {
  V a = look(left), b = look(right);
  if (a == b) return true;
  // A number is not None; which small ints are one object depends on what they are.
  if (a->kind == Kind::symbol || b->kind == Kind::symbol) {
    if (type_of(a) != type_of(b)) return false;
    a = real(a);
    b = real(b);
  }
  const bool constants = (a->kind == Kind::constant || a->kind == Kind::object) &&
                         (b->kind == Kind::constant || b->kind == Kind::object);
  if (constants) return a->object.get() == b->object.get();
  // One constant tuple of the code.
  if (a->kind == Kind::sequence && a->object && a->object.get() == b->object.get()) return true;
  // Two empty tuples are one object in CPython.
  if (a->kind == Kind::sequence && b->kind == Kind::sequence && type_of(a) == &PyTuple_Type &&
      type_of(b) == &PyTuple_Type && static_cast<Sequence&>(*a).items.empty() &&
      static_cast<Sequence&>(*b).items.empty())
    return true;
  if (a->kind == Kind::method || b->kind == Kind::method) return false;
  // Two objects that the frame had: they must stay two.
  if (a->source && b->source && a->kind == b->kind)
    trace_.distinct.emplace_back(a->source, b->source);
  return false;
}

std::string Tracer::describe(const V& given) {
  const V value = given->kind == Kind::lazy && static_cast<Lazy&>(*given).resolved
                      ? static_cast<Lazy&>(*given).resolved
                      : given;
  static constexpr const char* names[] = {"NULL",
                                          "a value",
                                          "",
                                          "",
                                          "a tensor",
                                          "a sequence",
                                          "a dict",
                                          "a slice",
                                          "a function",
                                          "a method",
                                          "a cell",
                                          "an iterator",
                                          "an instance",
                                          "super()",
                                          "a dict's view",
                                          "an array",
                                          "a traceback",
                                          "a number"};
  if (value->kind == Kind::instance)
    return std::string("an instance of ") + static_cast<Instance&>(*value).type->tp_name;
  if (value->kind == Kind::constant || value->kind == Kind::lazy) return repr(value->object.get());
  if (value->kind == Kind::object) {
    PyObject* object = value->object.get();
    if (PyType_Check(object) || PyCallable_Check(object) || PyModule_Check(object))
      return repr(object);
    return std::string("a ") + Py_TYPE(object)->tp_name;
  }
  return names[static_cast<size_t>(value->kind)];
}

void Tracer::changed(const V& container) {
  ++effects_;
  if (container->kind == Kind::dict) {
    auto& dict = static_cast<Dict&>(*container);
    dict.changed = true;
    if (const auto owner = dict.owner.lock()) {
      owner->attributes.clear();
      for (const auto& [key, value] : dict.items)
        owner->attributes.emplace_back(intern(key), value);
    }
  }
  if (!container->source && !container->object) return;
  for (const V& known : trace_.changed)
    if (known == container) return;
  trace_.changed.push_back(container);
}

void Tracer::set_grad_enabled(bool enabled) {
  ++effects_;
  trace_.grad_enabled = enabled;
  trace_.changed_grad = true;
}

}  // namespace octavo::capture
