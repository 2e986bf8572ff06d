// Calls of classes, and of what builtin classes have: objects are made, members of enums found.
#include <fmt/format.h>

#include "python_types.h"
#include "tracer.h"

namespace octavo::capture {
namespace {

// A builtin class of exceptions that keeps its arguments and does nothing else with them: OSError
// chooses a subclass by them, UnicodeError checks them.
bool keeps_arguments(const PyTypeObject* type) {
  const auto* plain = reinterpret_cast<PyTypeObject*>(PyExc_BaseException);
  if (type->tp_new != plain->tp_new) return false;
  for (PyObject* one :
       {PyExc_BaseException, PyExc_StopIteration, PyExc_AttributeError, PyExc_NameError})
    if (type->tp_init == reinterpret_cast<PyTypeObject*>(one)->tp_init) return true;
  return false;
}

}  // namespace

// The member of a class of enum's own ways that a constant stands for; null where it is no such
// class. A member that the look-up makes, as of flags together, it makes once.
V Tracer::enum_member(PyTypeObject* type, const Call& call) {
  if (call.args.size() != 1 || !call.keywords.empty()) return nullptr;
  const auto stock = [](const char* cls, PyObject* name) {
    return _PyType_Lookup(reinterpret_cast<PyTypeObject*>(well_known("enum", cls)), name);
  };
  static PyObject* call_name = interned("__call__").release();
  static PyObject* missing_name = interned("_missing_").release();
  PyObject* missing = lookup(type, missing_name);
  if (lookup(Py_TYPE(type), call_name) != stock("EnumMeta", call_name) ||
      (missing != stock("Enum", missing_name) && missing != stock("Flag", missing_name)))
    return nullptr;
  const V value = real(call.args[0]);
  const Ref constant = value->kind == Kind::constant ? python_constant(value) : Ref();
  if (!constant) return nullptr;
  const Ref member =
      Ref::steal(PyObject_CallOneArg(reinterpret_cast<PyObject*>(type), constant.get()));
  if (!member) raise_python_error();
  return is_enum_member(member.get()) ? lazy(member.get(), trace_.sources.fixed(member.get()))
                                      : this->constant(member);
}

V Tracer::call_type(const V& callee, Call call) {
  auto* type = reinterpret_cast<PyTypeObject*>(callee->object.get());
  if (V folded = fold(callee->object.get(), call)) return folded;
  if (V member = enum_member(type, call)) return member;
  static PyObject* call_name = interned("__call__").release();
  PyObject* meta_call = lookup(Py_TYPE(type), call_name);
  if (meta_call && PyFunction_Check(meta_call))
    return this->call(class_attribute(callee, Py_TYPE(type), call_name, meta_call, callee),
                      std::move(call));
  return make_object(callee, std::move(call));
}

V Tracer::make_object(const V& callee, Call call) {
  auto* type = reinterpret_cast<PyTypeObject*>(callee->object.get());
  static PyObject* new_name = interned("__new__").release();
  static PyObject* init_name = interned("__init__").release();
  PyObject* maker = lookup(type, new_name);
  V made;
  bool own_new = false;
  if (maker && (Py_TYPE(maker) == &PyStaticMethod_Type || PyFunction_Check(maker))) {
    own_new = true;
    Call with_class = call;
    with_class.args.insert(with_class.args.begin(), callee);
    made = real(this->call(class_attribute(callee, type, new_name, maker, nullptr), with_class));
  } else if (maker && PyCFunction_Check(maker)) {
    Call with_class = call;
    with_class.args.insert(with_class.args.begin(), callee);
    made = call_new(reinterpret_cast<PyTypeObject*>(PyCFunction_GET_SELF(maker)), with_class);
  } else {
    give_up(Reason::unknown_call, describe(callee));
  }
  PyObject* init = lookup(type, init_name);
  if (made->kind != Kind::instance || !PyType_IsSubtype(type_of(made), type)) {
    if (made->kind == Kind::sequence && type_of(made) == type && init && PyFunction_Check(init))
      give_up(Reason::unknown_call, fmt::format("__init__ of {}", type->tp_name));
    return made;
  }
  if (init && PyFunction_Check(init)) {
    const V result =
        this->call(class_attribute(made, type, init_name, init, made), std::move(call));
    if (!is_none(result)) raise(PyExc_TypeError, "__init__() should return None");
  } else if (const auto& items = static_cast<Instance&>(*made).items) {
    bool known = false;
    call_builtin_method(items, interned("update").get(), call, known);
  } else if (!static_cast<Instance&>(*made).args && !own_new &&
             (!call.args.empty() || !call.keywords.empty())) {
    raise(PyExc_TypeError, fmt::format("{}() takes no arguments", type->tp_name));
  }
  return made;
}

// `base.__new__(cls, ...)` of a builtin base.
V Tracer::call_new(PyTypeObject* base, Call& call) {
  if (call.args.empty()) give_up(Reason::wrong_call, "__new__");
  const V cls = real(call.args[0]);
  if (cls->kind != Kind::object || !PyType_Check(cls->object.get()))
    give_up(Reason::wrong_call, "__new__");
  auto* type = reinterpret_cast<PyTypeObject*>(cls->object.get());
  if (base == &PyBaseObject_Type) {
    // Only what has no C state of its own can be made and given attributes.
    for (Py_ssize_t n = 0; n < PyTuple_GET_SIZE(type->tp_mro); ++n) {
      auto* one = reinterpret_cast<PyTypeObject*>(PyTuple_GET_ITEM(type->tp_mro, n));
      if (one != &PyBaseObject_Type && !(one->tp_flags & Py_TPFLAGS_HEAPTYPE))
        give_up(Reason::unknown_call, fmt::format("making a {}", type->tp_name));
    }
    if (type->tp_flags & Py_TPFLAGS_IS_ABSTRACT) give_up(Reason::wrong_call, type->tp_name);
    auto made = make<Instance>();
    made->type = type;
    return made;
  }
  if (PyType_IsSubtype(base, reinterpret_cast<PyTypeObject*>(PyExc_BaseException))) {
    if (!keeps_arguments(base))
      give_up(Reason::unknown_call, fmt::format("making a {}", type->tp_name));
    auto made = make<Instance>();
    made->type = type;
    if (!call.keywords.empty() && type->tp_init == base->tp_init)
      give_up(Reason::wrong_call, type->tp_name);
    made->args = tuple({call.args.begin() + 1, call.args.end()});
    return made;
  }
  if (base == &PyDict_Type || base == &PyODict_Type) {
    auto made = make<Instance>();
    made->type = type;
    made->items = make<Dict>();
    made->items->type = base;
    return made;
  }
  if (base == &PyTuple_Type && PyType_IsSubtype(type, &PyTuple_Type))
    return sequence(type, call.args.size() > 1 ? items_of(call.args[1]) : std::vector<V>());
  give_up(Reason::unknown_call, fmt::format("making a {}", type->tp_name));
}

// A C method of a type, taken from the type: list.append(x, 1), object.__init__(self).
V Tracer::call_descriptor(const V& callee, Call& call) {
  PyObject* descriptor = callee->object.get();
  auto* owner = reinterpret_cast<PyDescrObject*>(descriptor)->d_type;
  const Ref name = Ref::borrow(reinterpret_cast<PyDescrObject*>(descriptor)->d_name);
  const V self = real(call.args[0]);
  Call rest;
  rest.args.assign(call.args.begin() + 1, call.args.end());
  rest.keywords = call.keywords;
  const std::string text = utf8(name.get());
  if (self->kind == Kind::tensor) return call_tensor_method(self, name.get(), rest);
  if (self->kind == Kind::array) return call_array_method(self, text, rest);
  if (owner == &PyType_Type && text == "__call__" && self->kind == Kind::object &&
      PyType_Check(self->object.get()))
    return make_object(self, std::move(rest));
  if (owner == &PyBaseObject_Type) {
    if (text == "__init__") return none();
    if (text == "__setattr__" && rest.args.size() == 2) {
      set_own_attribute(self, intern(rest.args[0]).get(), rest.args[1]);
      return none();
    }
    if (text == "__getattribute__" && rest.args.size() == 1) {
      const Ref wanted = intern(rest.args[0]);
      if (self->kind == Kind::instance) return instance_attribute(self, wanted.get());
      const bool plain = self->kind == Kind::object && !PyType_Check(self->object.get()) &&
                         !PyModule_Check(self->object.get()) &&
                         !PyFunction_Check(self->object.get());
      return plain ? object_attribute(self, wanted.get()) : attribute(self, wanted.get());
    }
    if (text == "__eq__" && rest.args.size() == 1)
      return same_object(self, rest.args[0]) ? boolean(true) : constant(Py_NotImplemented);
    if (text == "__init_subclass__") return none();
    give_up(Reason::unknown_call, "object." + text);
  }
  if (PyType_IsSubtype(owner, reinterpret_cast<PyTypeObject*>(PyExc_BaseException)) &&
      self->kind == Kind::instance) {
    if (text == "__init__") {
      static_cast<Instance&>(*self).args = tuple(rest.args);
      return none();
    }
    give_up(Reason::exception, "an exception's " + text);
  }
  bool known = false;
  if (self->kind == Kind::instance && static_cast<Instance&>(*self).items &&
      PyType_IsSubtype(owner, &PyDict_Type)) {
    const std::shared_ptr<Dict>& items = static_cast<Instance&>(*self).items;
    const V result = call_builtin_method(
        items, text == "__init__" ? interned("update").get() : name.get(), rest, known);
    if (known) return result;
    give_up(Reason::unknown_call, fmt::format("{}.{}", owner->tp_name, text));
  }
  V result = call_builtin_method(self, name.get(), rest, known);
  if (known) return result;
  if (self->kind == Kind::constant) {
    // A constant's methods have no effect.
    Call all;
    all.args.push_back(constant(name));
    const Ref bound = Ref::steal(PyObject_GetAttr(self->object.get(), name.get()));
    if (!bound) raise_python_error();
    if (V folded = fold_bound(bound.get(), rest)) return folded;
  }
  give_up(Reason::unknown_call, fmt::format("{}.{}", owner->tp_name, text));
}

}  // namespace octavo::capture
