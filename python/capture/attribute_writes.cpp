// Setting and deleting attributes as object.__setattr__ does it, on values.
#include "attributes.h"
#include "python_types.h"

namespace octavo::capture {
namespace {

// torch refuses another type or shape, and the tensor itself.
bool fits_as_gradient(Tracer& tracer, const V& given, const V& value) {
  if (value->kind != Kind::tensor || value == given) return false;
  const auto &tensor = static_cast<Tensor&>(*given), &grad = static_cast<Tensor&>(*value);
  const std::vector<Dim> sizes = tensor.sizes(), other = grad.sizes();
  if (sizes.size() != other.size() || tensor.device != grad.device ||
      tensor.meta.scalar_type() != grad.meta.scalar_type())
    return false;
  for (size_t d = 0; d < sizes.size(); ++d)
    if (!tracer.equal(sizes[d], other[d])) return false;
  return true;
}

}  // namespace

void Tracer::set_attribute(const V& given, PyObject* name, const V& value) {
  ++effects_;
  const V object = real(given);
  if (object->kind == Kind::tensor) {
    if (!named(name, "grad") || !object->source)
      give_up(Reason::side_effect, "a tensor's attribute " + utf8(name));
    const V grad = value ? real(value) : none();
    if (!is_none(grad) && !fits_as_gradient(*this, object, grad))
      give_up(Reason::wrong_call, describe(grad) + " as a gradient");
    const auto key = std::make_pair(static_cast<const void*>(object->object.get()), name);
    if (const auto known = written_.find(key); known != written_.end()) {
      trace_.writes[known->second].value = value ? value : none();
    } else {
      written_[key] = trace_.writes.size();
      trace_.writes.push_back(
          {Write::Kind::grad, object, Ref::borrow(name), value ? value : none()});
    }
    return;
  }
  if (object->kind == Kind::function && value) {
    auto& attributes = static_cast<Function&>(*object).attributes;
    if (named(name, "__defaults__") || named(name, "__code__") || named(name, "__kwdefaults__"))
      give_up(Reason::side_effect, "a function's " + utf8(name));
    for (auto& [key, held] : attributes)
      if (PyUnicode_Compare(key.get(), name) == 0) {
        held = value;
        return;
      }
    attributes.emplace_back(Ref::borrow(name), value);
    return;
  }
  if (object->kind != Kind::instance && object->kind != Kind::object)
    give_up(Reason::side_effect, "attribute " + utf8(name) + " of " + describe(object));
  PyObject* held = object->object.get();
  if (held && (PyType_Check(held) || PyModule_Check(held) || PyFunction_Check(held)))
    give_up(Reason::side_effect, "attribute " + utf8(name) + " of " + describe(object));

  PyTypeObject* type = type_of(object);
  static PyObject* setattr = interned("__setattr__").release();
  static PyObject* delattr = interned("__delattr__").release();
  PyObject* own_setter = lookup(type, value ? setattr : delattr);
  const bool module = object->kind == Kind::object && is_module(held);
  if (module && value) {
    for (const char* part : {"_parameters", "_buffers", "_modules"}) {
      const Ref key = interned(part);
      PyObject* dict_object = own_attribute(held, key.get());
      if (!dict_object || !object->source) give_up(Reason::side_effect, utf8(name));
      const V dict = real(
          lazy(dict_object, trace_.sources.of(SourceKind::attribute, object->source, key.get())));
      if (dict->kind != Kind::dict) give_up(Reason::side_effect, utf8(name));
      if (!dict_get(static_cast<Dict&>(*dict), constant(name))) continue;
      const bool buffer = std::string_view(part) == "_buffers";
      const bool fits =
          buffer ? is_tensor(value) || is_none(value)
                 : is_none(value) || (is_tensor(value) && type_of(value) == parameter_type());
      if (!fits || std::string_view(part) == "_modules")
        give_up(Reason::side_effect, "a module's " + utf8(name));
      dict_set(std::static_pointer_cast<Dict>(dict), constant(name), value);
      return;
    }
    const V held_value = real(value);
    if ((held_value->kind == Kind::tensor && type_of(held_value) == parameter_type()) ||
        (held_value->kind == Kind::object && is_module(held_value->object.get())))
      give_up(Reason::side_effect, "registering " + utf8(name) + " in a module");
  } else if (PyFunction_Check(own_setter)) {
    const V setter = class_attribute(object, type, setattr, own_setter, object);
    if (value)
      call(setter, {{constant(name), value}, {}});
    else
      call(setter, {{constant(name)}, {}});
    return;
  } else if (Py_TYPE(own_setter) != &PyWrapperDescr_Type || module) {
    give_up(Reason::side_effect, "attribute " + utf8(name) + " of " + describe(object));
  }
  set_own_attribute(object, name, value);
}

void Tracer::set_own_attribute(const V& object, PyObject* name, const V& value) {
  ++effects_;
  PyTypeObject* type = type_of(object);
  PyObject* found = lookup(type, name);
  if (found && is_data_descriptor(found)) {
    if (Py_TYPE(found) == &PyProperty_Type) {
      const Ref setter = octavo::capture::attribute(found, value ? "fset" : "fdel");
      if (setter.get() == Py_None)
        raise(PyExc_AttributeError,
              fmt::format("property '{}' of '{}' object has no {}", utf8(name), type->tp_name,
                          value ? "setter" : "deleter"));
      const V function = lazy(setter.get(), trace_.sources.fixed(setter.get()));
      if (value)
        call(function, {{object, value}, {}});
      else
        call(function, {{object}, {}});
      return;
    }
    static PyObject* set = interned("__set__").release();
    PyObject* setter = _PyType_Lookup(Py_TYPE(found), set);
    if (setter && PyFunction_Check(setter) && value) {
      call(lazy(setter, trace_.sources.fixed(setter)),
           {{lazy(found, trace_.sources.fixed(found)), object, value}, {}});
      return;
    }
    const bool exception_field = object->kind == Kind::instance && named(name, "__cause__");
    if (Py_TYPE(found) != &PyMemberDescr_Type && !exception_field)
      give_up(Reason::side_effect, "attribute " + utf8(name) + " of " + describe(object));
  }
  // Its slots are all that it has.
  if (type->tp_dictoffset == 0 && (!found || !is_data_descriptor(found)))
    give_up(Reason::wrong_call, "attribute " + utf8(name) + " of " + describe(object));
  if (object->kind == Kind::instance) {
    auto& attributes = static_cast<Instance&>(*object).attributes;
    if (auto dict = static_cast<Instance&>(*object).own_dict.lock()) {
      if (value)
        dict_set(dict, constant(name), value);
      else if (!dict_remove(dict, constant(name)))
        no_attribute(*this, type->tp_name, name);
      return;
    }
    for (size_t n = 0; n < attributes.size(); ++n)
      if (PyUnicode_Compare(attributes[n].first.get(), name) == 0) {
        if (value)
          attributes[n].second = value;
        else
          attributes.erase(attributes.begin() + static_cast<ptrdiff_t>(n));
        return;
      }
    if (!value) no_attribute(*this, type->tp_name, name);
    attributes.emplace_back(Ref::borrow(name), value);
    return;
  }
  PyObject* held = object->object.get();
  if (!object->source)
    give_up(Reason::side_effect, "attribute " + utf8(name) + " of " + describe(object));
  PyObject** dict = _PyObject_GetDictPtr(held);
  const auto viewed = dict && *dict ? lifted_.find(*dict) : lifted_.end();
  if (viewed != lifted_.end() && viewed->second->kind == Kind::dict) {
    const auto model = std::static_pointer_cast<Dict>(viewed->second);
    if (value)
      dict_set(model, constant(name), value);
    else if (!dict_remove(model, constant(name)))
      give_up(Reason::wrong_call, "deleting " + utf8(name) + " of " + describe(object));
    return;
  }
  const auto key = std::make_pair(static_cast<const void*>(held), name);
  if (!value) {
    const auto known = written_.find(key);
    const bool there = known != written_.end() ? trace_.writes[known->second].value != nullptr
                                               : own_attribute(held, name) != nullptr;
    if (!there) give_up(Reason::wrong_call, "deleting " + utf8(name) + " of " + describe(object));
    if (known == written_.end())
      trace_.sources.guard(trace_.sources.of(SourceKind::attribute, object->source, name),
                           GuardKind::there);
  }
  // Setting again keeps the place in the dict; deleting and setting moves to its end.
  const auto known = written_.find(key);
  if (known != written_.end() && value && trace_.writes[known->second].value) {
    trace_.writes[known->second].value = value;
    return;
  }
  written_[key] = trace_.writes.size();
  trace_.writes.push_back({Write::Kind::attribute, object, Ref::borrow(name), value});
}

}  // namespace octavo::capture
