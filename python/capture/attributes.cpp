// Attribute lookup as object.__getattribute__ does it, on values.
#include "attributes.h"

#include <fmt/format.h>

#include "known_calls.h"
#include "python_types.h"
#include "tracer.h"

namespace octavo::capture {
namespace {

// The class looks attributes up as `object` does: builtin classes have wrappers of their own around
// the same C function.
bool plain_getattribute(PyTypeObject* type) {
  static PyObject* name = interned("__getattribute__").release();
  PyObject* found = _PyType_Lookup(type, name);
  return found && Py_TYPE(found) == &PyWrapperDescr_Type &&
         reinterpret_cast<PyWrapperDescrObject*>(found)->d_wrapped ==
             reinterpret_cast<void*>(PyObject_GenericGetAttr);
}

V field_of(const Sequence& sequence, PyObject* name) {
  auto* type = reinterpret_cast<PyObject*>(sequence.type);
  for (const char* list : {"_fields", "__match_args__"}) {
    const Ref fields = Ref::steal(PyObject_GetAttrString(type, list));
    if (!fields) {
      PyErr_Clear();
      continue;
    }
    if (!PyTuple_Check(fields.get())) continue;
    for (Py_ssize_t n = 0; n < PyTuple_GET_SIZE(fields.get()); ++n)
      if (PyUnicode_Compare(PyTuple_GET_ITEM(fields.get(), n), name) == 0)
        return sequence.items.at(static_cast<size_t>(n));
  }
  return nullptr;
}

}  // namespace

PyObject* Tracer::lookup(PyTypeObject* type, PyObject* name) {
  PyObject* found = _PyType_Lookup(type, name);
  // Builtin classes cannot change.
  if (type->tp_flags & Py_TPFLAGS_HEAPTYPE)
    trace_.sources.guard(trace_.sources.fixed(reinterpret_cast<PyObject*>(type)),
                         GuardKind::type_lookup, name, 0, found);
  return found;
}

V Tracer::class_attribute(const V& object, PyTypeObject* type, PyObject* name, PyObject* found,
                          const V& self) {
  const auto held = [&](PyObject* what) { return lazy(what, trace_.sources.fixed(what)); };
  const auto bind = [&](const V& receiver, PyObject* function) {
    auto method = make<Method>();
    method->self = receiver;
    method->function = held(function);
    return method;
  };
  PyTypeObject* kind = Py_TYPE(found);
  if (kind == &PyFunction_Type || kind == &PyMethodDescr_Type || kind == &PyWrapperDescr_Type)
    return self ? V(bind(self, found)) : held(found);
  if (kind == &PyStaticMethod_Type)
    return held(octavo::capture::attribute(found, "__func__").get());
  if (kind == &PyClassMethod_Type) {
    const Ref function = octavo::capture::attribute(found, "__func__");
    return bind(constant(reinterpret_cast<PyObject*>(type)), function.get());
  }
  if (kind == &PyClassMethodDescr_Type)
    return held(Ref::checked(PyObject_GetAttr(reinterpret_cast<PyObject*>(type), name)).get());
  static PyObject* get = interned("__get__").release();
  if (!self) {
    PyObject* getter = kind->tp_flags & Py_TPFLAGS_HEAPTYPE ? _PyType_Lookup(kind, get) : nullptr;
    if (!getter || !PyFunction_Check(getter)) return held(found);
    return call(bind(held(found), getter),
                {{none(), constant(reinterpret_cast<PyObject*>(type))}, {}});
  }
  if (kind == &PyProperty_Type) {
    const Ref getter = octavo::capture::attribute(found, "fget");
    return call(held(getter.get()), {{self}, {}});
  }
  if (kind == &PyMemberDescr_Type) {
    if (object->kind == Kind::instance) no_attribute(*this, type->tp_name, name);
    const Ref value = Ref::steal(PyObject_GenericGetAttr(object->object.get(), name));
    if (!value) raise_python_error();
    if (!object->source) return constant(value);
    return loaded(value.get(), trace_.sources.of(SourceKind::attribute, object->source, name));
  }
  if (kind == &PyGetSetDescr_Type) {
    if (named(name, "args") && object->kind == Kind::object && object->source &&
        reinterpret_cast<PyObject*>(reinterpret_cast<PyDescrObject*>(found)->d_type) ==
            PyExc_BaseException)
      return lazy(reinterpret_cast<PyBaseExceptionObject*>(object->object.get())->args,
                  trace_.sources.of(SourceKind::exception_args, object->source));
    if (named(name, "__dict__") && object->object) {
      if (!object->source) give_up(Reason::attribute, "__dict__ of " + describe(object));
      for (const Write& write : trace_.writes)
        if (write.object->object.get() == object->object.get())
          give_up(Reason::attribute, "__dict__ of a changed object");
      PyObject** dict = _PyObject_GetDictPtr(object->object.get());
      if (!dict || !*dict) give_up(Reason::attribute, "__dict__");
      return lazy(*dict, trace_.sources.of(SourceKind::dictionary, object->source));
    }
    give_up(Reason::attribute, fmt::format("{}.{}", type->tp_name, utf8(name)));
  }
  static PyObject* cached_property = well_known("functools", "cached_property");
  if (reinterpret_cast<PyObject*>(kind) == cached_property) {
    const Ref function = octavo::capture::attribute(found, "func");
    const V value = call(held(function.get()), {{self}, {}});
    set_attribute(object, name, value);
    return value;
  }
  if (PyObject* getter = _PyType_Lookup(kind, get)) {
    if (!PyFunction_Check(getter))
      give_up(Reason::attribute, fmt::format("descriptor {}", kind->tp_name));
    return call(bind(held(found), getter),
                {{self, constant(reinterpret_cast<PyObject*>(type))}, {}});
  }
  return held(found);
}

// An attribute by the class's own __getattribute__, then by its __getattr__; null where it has
// none.
V Tracer::overridden_attribute(const V& object, PyTypeObject* type, PyObject* name) {
  static PyObject* getattribute_name = interned("__getattribute__").release();
  if (plain_getattribute(type) || (PyType_IsSubtype(type, &PyModule_Type) &&
                                   _PyType_Lookup(type, getattribute_name) ==
                                       _PyType_Lookup(&PyModule_Type, getattribute_name)))
    return nullptr;
  static PyObject* getattribute = interned("__getattribute__").release();
  PyObject* found = lookup(type, getattribute);
  if (!PyFunction_Check(found))
    give_up(Reason::attribute, fmt::format("{}.{}", type->tp_name, utf8(name)));
  const V own = class_attribute(object, type, getattribute, found, object);
  static PyObject* getattr = interned("__getattr__").release();
  PyObject* fallback = lookup(type, getattr);
  if (!fallback) return call(own, {{constant(name)}, {}});
  try {
    return call(own, {{constant(name)}, {}});
  } catch (const Raised& raised) {
    if (!matches_exception(raised.exception, constant(PyExc_AttributeError))) throw;
  }
  return call(class_attribute(object, type, getattr, fallback, object), {{constant(name)}, {}});
}

V Tracer::object_attribute(const V& object, PyObject* name) {
  PyObject* real_object = object->object.get();
  PyTypeObject* type = Py_TYPE(real_object);
  if (named(name, "__class__")) return constant(reinterpret_cast<PyObject*>(type));
  PyObject* found = lookup(type, name);
  const auto written = written_.find({real_object, name});
  const bool changed_slot = written != written_.end() && trace_.writes[written->second].value;
  if (found && is_data_descriptor(found) && !changed_slot)
    return class_attribute(object, type, name, found, object);

  if (written != written_.end()) {
    if (trace_.writes[written->second].value) return trace_.writes[written->second].value;
  } else {
    PyObject** dict = _PyObject_GetDictPtr(real_object);
    const auto viewed = dict && *dict ? lifted_.find(*dict) : lifted_.end();
    if (viewed != lifted_.end() && viewed->second->kind == Kind::dict) {
      if (V value = dict_get(static_cast<Dict&>(*viewed->second), constant(name))) return value;
    } else if (PyObject* own = own_attribute(real_object, name)) {
      if (object->source)
        return loaded(own, trace_.sources.of(SourceKind::attribute, object->source, name));
      // An object without a place in the frame is one that cannot change: a C function, a class.
      return constant(own);
    } else if (object->source) {
      trace_.sources.guard(object->source, GuardKind::lacks_attribute, name);
    }
  }
  if (found) return class_attribute(object, type, name, found, object);

  if (is_module(real_object)) {
    for (const char* part : {"_parameters", "_buffers", "_modules"}) {
      const Ref key = interned(part);
      PyObject* held = own_attribute(real_object, key.get());
      if (!held || !object->source) continue;
      const V dict =
          real(lazy(held, trace_.sources.of(SourceKind::attribute, object->source, key.get())));
      if (dict->kind != Kind::dict) continue;
      if (V value = dict_get(static_cast<Dict&>(*dict), constant(name))) return value;
    }
    no_attribute(*this, type->tp_name, name);
  }
  static PyObject* getattr = interned("__getattr__").release();
  if (PyObject* fallback = lookup(type, getattr)) {
    if (!PyFunction_Check(fallback)) give_up(Reason::attribute, utf8(name));
    return call(class_attribute(object, type, getattr, fallback, object), {{constant(name)}, {}});
  }
  no_attribute(*this, type->tp_name, name);
}

// What an exception says is asked for: where Python itself raises it, the words are Python's.
void Tracer::needs_words(const V& exception) {
  if (static_cast<Instance&>(*exception).paraphrased)
    give_up(Reason::exception, describe(exception), raised_at(exception));
}

// A field that a builtin class of exceptions adds.
V Tracer::exception_field(const V& exception, PyObject* descriptor, PyObject* name) {
  const auto* owner = reinterpret_cast<PyDescrObject*>(descriptor)->d_type;
  if (reinterpret_cast<const PyObject*>(owner) == PyExc_StopIteration && named(name, "value")) {
    const V args = real(static_cast<Instance&>(*exception).args);
    const auto& items = static_cast<Sequence&>(*args).items;
    return items.empty() ? none() : items[0];
  }
  give_up(Reason::exception, fmt::format("{} of {}", utf8(name), describe(exception)),
          raised_at(exception));
}

V Tracer::instance_attribute(const V& object, PyObject* name) {
  auto& instance = static_cast<Instance&>(*object);
  if (named(name, "__class__")) return constant(reinterpret_cast<PyObject*>(instance.type));
  PyObject* found = lookup(instance.type, name);
  const bool slot = found && Py_TYPE(found) == &PyMemberDescr_Type;
  if (found && is_data_descriptor(found) && !slot) {
    if (Py_TYPE(found) == &PyGetSetDescr_Type) {
      if (named(name, "args") && instance.args) {
        needs_words(object);
        return instance.args;
      }
      if (named(name, "__dict__")) {
        if (auto known = instance.own_dict.lock()) return known;
        auto dict = make<Dict>();
        dict->type = &PyDict_Type;
        for (const auto& [key, value] : instance.attributes) dict_set(dict, constant(key), value);
        dict->owner = std::static_pointer_cast<Instance>(object);
        instance.own_dict = dict;
        return dict;
      }
      for (const auto& [key, value] : instance.attributes)
        if (PyUnicode_Compare(key.get(), name) == 0) return value;
      if (named(name, "__cause__") || named(name, "__context__") || named(name, "__traceback__"))
        give_up(Reason::exception, utf8(name));
    }
    return class_attribute(object, instance.type, name, found, object);
  }
  for (const auto& [key, value] : instance.attributes)
    if (PyUnicode_Compare(key.get(), name) == 0) return value;
  if (slot && instance.args && !instance.function &&
      !(reinterpret_cast<PyDescrObject*>(found)->d_type->tp_flags & Py_TPFLAGS_HEAPTYPE))
    return exception_field(object, found, name);
  if (instance.function) {  // functools.partial
    if (named(name, "func")) return instance.function;
    if (named(name, "args")) return instance.args;
    if (named(name, "keywords")) return instance.keywords;
  }
  if (found) return class_attribute(object, instance.type, name, found, object);
  static PyObject* getattr = interned("__getattr__").release();
  if (PyObject* fallback = lookup(instance.type, getattr)) {
    if (!PyFunction_Check(fallback)) give_up(Reason::attribute, utf8(name));
    return call(class_attribute(object, instance.type, getattr, fallback, object),
                {{constant(name)}, {}});
  }
  no_attribute(*this, instance.type->tp_name, name);
}

V Tracer::type_attribute(const V& object, PyObject* name) {
  auto* type = reinterpret_cast<PyTypeObject*>(object->object.get());
  for (const char* plain : {"__name__", "__qualname__", "__module__", "__mro__", "__bases__",
                            "__doc__", "__base__", "__match_args__"})
    if (named(name, plain)) {
      const Ref value = Ref::steal(PyObject_GetAttr(object->object.get(), name));
      if (!value) raise_python_error();
      return constant(value);
    }
  if (named(name, "__class__")) return constant(reinterpret_cast<PyObject*>(Py_TYPE(type)));
  PyObject* found = lookup(type, name);
  PyTypeObject* meta = Py_TYPE(type);
  if (PyObject_TypeCheck(object->object.get(),
                         reinterpret_cast<PyTypeObject*>(well_known("enum", "EnumMeta")))) {
    const Ref value = Ref::steal(PyObject_GetAttr(object->object.get(), name));
    if (value && is_enum_member(value.get()))
      return lazy(value.get(), trace_.sources.fixed(value.get()));
    PyErr_Clear();
  }
  if (found) return class_attribute(object, type, name, found, nullptr);
  if (PyObject* of_meta = lookup(meta, name))
    return class_attribute(object, meta, name, of_meta, object);
  raise(PyExc_AttributeError,
        fmt::format("type object '{}' has no attribute '{}'", type->tp_name, utf8(name)));
}

V Tracer::function_attribute(const V& value, PyObject* name) {
  if (value->kind == Kind::function) {
    auto& function = static_cast<Function&>(*value);
    for (const auto& [key, held] : function.attributes)
      if (PyUnicode_Compare(key.get(), name) == 0) return held;
    const auto* code = reinterpret_cast<PyCodeObject*>(function.code.get());
    if (named(name, "__name__")) return constant(code->co_name);
    if (named(name, "__qualname__")) return constant(function.name);
    if (named(name, "__code__")) return constant(function.code);
    if (named(name, "__defaults__")) return function.defaults ? function.defaults : none();
    if (named(name, "__kwdefaults__")) return function.kwdefaults ? function.kwdefaults : none();
    if (named(name, "__module__")) {
      PyObject* module = PyDict_GetItemString(function.globals.get(), "__name__");
      return module ? constant(module) : none();
    }
    if (named(name, "__doc__")) {
      PyObject* constants = code->co_consts;
      PyObject* first = PyTuple_GET_SIZE(constants) ? PyTuple_GET_ITEM(constants, 0) : Py_None;
      return constant(PyUnicode_Check(first) ? first : Py_None);
    }
    if (named(name, "__dict__")) {
      auto dict = make<Dict>();
      dict->type = &PyDict_Type;
      for (const auto& [key, held] : function.attributes) dict_set(dict, constant(key), held);
      return dict;
    }
    if (named(name, "__get__") || named(name, "__call__"))
      give_up(Reason::attribute, "a function's " + utf8(name));
    no_attribute(*this, "function", name);
  }
  PyObject* function = value->object.get();
  for (const char* plain : {"__name__", "__qualname__", "__module__", "__doc__", "__code__"})
    if (named(name, plain)) return constant(Ref::checked(PyObject_GetAttr(function, name)));
  if (named(name, "__defaults__") || named(name, "__kwdefaults__") || named(name, "__closure__") ||
      named(name, "__globals__") || named(name, "__annotations__"))
    give_up(Reason::attribute, "a function's " + utf8(name));
  if (PyObject* own = own_attribute(function, name)) {
    Source* source = value->source ? value->source : trace_.sources.fixed(function);
    return loaded(own, trace_.sources.of(SourceKind::attribute, source, name));
  }
  if (value->source) trace_.sources.guard(value->source, GuardKind::lacks_attribute, name);
  if (PyObject* found = _PyType_Lookup(&PyFunction_Type, name))
    if (Py_TYPE(found) == &PyWrapperDescr_Type || Py_TYPE(found) == &PyMethodDescr_Type)
      return class_attribute(value, &PyFunction_Type, name, found, value);
  no_attribute(*this, "function", name);
}

V Tracer::attribute(const V& given, PyObject* name) {
  const V object = real(given);
  switch (object->kind) {
    case Kind::tensor:
      return tensor_attribute(std::static_pointer_cast<Tensor>(object), name);
    case Kind::array:
      return array_attribute(object, name);
    case Kind::instance:
      if (V value = overridden_attribute(object, type_of(object), name)) return value;
      return instance_attribute(object, name);
    case Kind::function:
      return function_attribute(object, name);
    case Kind::object: {
      PyObject* held = object->object.get();
      if (PyModule_CheckExact(held)) {
        PyObject* dict = PyModule_GetDict(held);
        if (PyObject* found = PyDict_GetItemWithError(dict, name))
          return loaded(found,
                        trace_.sources.of(SourceKind::dict_item, trace_.sources.fixed(dict), name));
        if (PyDict_GetItemString(dict, "__getattr__"))
          give_up(Reason::attribute,
                  fmt::format("module {} makes {} on demand", PyModule_GetName(held), utf8(name)));
        raise(PyExc_AttributeError,
              fmt::format("module '{}' has no attribute '{}'", PyModule_GetName(held), utf8(name)));
      }
      if (PyType_Check(held)) return type_attribute(object, name);
      if (PyFunction_Check(held)) return function_attribute(object, name);
      if (PyCFunction_Check(held) || Py_TYPE(held) == &PyMethodDescr_Type ||
          Py_TYPE(held) == &PyProperty_Type || PyCode_Check(held) || is_enum_member(held)) {
        const Ref value = Ref::steal(PyObject_GetAttr(held, name));
        if (!value) raise_python_error();
        if (is_enum_member(held) && PyMethod_Check(value.get()))
          return object_attribute(object, name);
        return PyFunction_Check(value.get()) ? lazy(value.get(), trace_.sources.fixed(value.get()))
                                             : constant(value);
      }
      if (named(name, "parameters") && Py_TYPE(held) == known_type("inspect", "Signature"))
        return signature_parameters(*this, held);
      if (V value = overridden_attribute(object, Py_TYPE(held), name)) return value;
      return object_attribute(object, name);
    }
    case Kind::method: {
      const auto& method = static_cast<Method&>(*object);
      if (named(name, "__self__")) return method.self;
      if (named(name, "__func__")) return method.function;
      return attribute(method.function, name);
    }
    case Kind::slice: {
      const auto& slice = static_cast<Slice&>(*object);
      if (named(name, "start")) return slice.start;
      if (named(name, "stop")) return slice.stop;
      if (named(name, "step")) return slice.step;
      break;
    }
    case Kind::cell:
      if (named(name, "cell_contents")) {
        const V& content = static_cast<Cell&>(*object).content;
        if (!content) raise(PyExc_ValueError, "Cell is empty");
        return content;
      }
      break;
    case Kind::super: {
      const auto& super = static_cast<Super&>(*object);
      const V self = real(super.self);
      const bool is_class =
          self->kind == Kind::object && PyType_Check(self->object.get()) &&
          PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(self->object.get()), super.after);
      PyTypeObject* start =
          is_class ? reinterpret_cast<PyTypeObject*>(self->object.get()) : type_of(self);
      PyObject* mro = start->tp_mro;
      bool passed = false;
      for (Py_ssize_t n = 0; n < PyTuple_GET_SIZE(mro); ++n) {
        auto* type = reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(mro, n));
        if (passed && type->tp_dict) {
          if (PyObject* found = PyDict_GetItemWithError(type->tp_dict, name)) {
            lookup(type, name);
            if (is_class && Py_TYPE(found) == &PyClassMethod_Type)
              return class_attribute(self, start, name, found, nullptr);
            return class_attribute(self, is_class ? start : type_of(self), name, found,
                                   is_class ? nullptr : self);
          }
        }
        if (type == super.after) passed = true;
      }
      raise(PyExc_AttributeError, "'super' object has no attribute '" + utf8(name) + "'");
    }
    default:
      break;
  }
  // A builtin's method, bound; or a constant's attribute.
  if (object->kind == Kind::iterator) {
    auto method = make<Method>();
    method->self = object;
    method->function = constant(name);
    return method;
  }
  PyTypeObject* type = type_of(object);
  if (named(name, "__class__")) return constant(reinterpret_cast<PyObject*>(type));
  if (object->kind == Kind::sequence)
    if (V field = field_of(static_cast<Sequence&>(*object), name)) return field;
  if (object->kind == Kind::sequence && static_cast<Sequence&>(*object).is_deque() &&
      named(name, "maxlen"))
    return static_cast<Sequence&>(*object).most;
  if (object->kind == Kind::dict && named(name, "default_factory") && type == default_dict_type()) {
    const V& factory = static_cast<Dict&>(*object).factory;
    return factory ? factory : none();
  }
  PyObject* found = lookup(type, name);
  if (!found) no_attribute(*this, type->tp_name, name);
  if (object->kind == Kind::constant && is_data_descriptor(found)) {
    const Ref value = Ref::steal(PyObject_GetAttr(object->object.get(), name));
    if (!value) raise_python_error();
    return constant(value);
  }
  return class_attribute(object, type, name, found, object);
}

V Tracer::attribute_or_null(const V& object, PyObject* name) {
  try {
    return attribute(object, name);
  } catch (const Raised& raised) {
    if (!matches_exception(raised.exception, constant(PyExc_AttributeError))) throw;
    return nullptr;
  }
}

}  // namespace octavo::capture
