#include "python_types.h"

#include <torch/csrc/Size.h>

#include <map>
#include <string>

namespace octavo::capture {

PyObject* well_known(const char* module, const char* name) {
  // Never freed: they live as long as the interpreter.
  static auto* known = new std::map<std::pair<std::string, std::string>, PyObject*>;
  PyObject*& object = (*known)[{module, name}];
  if (!object) {
    Ref at = import(module);
    std::string_view rest = name;
    while (!rest.empty()) {
      const size_t dot = rest.find('.');
      at = attribute(at.get(), std::string(rest.substr(0, dot)).c_str());
      rest = dot == std::string_view::npos ? "" : rest.substr(dot + 1);
    }
    object = at.release();
  }
  return object;
}

PyTypeObject* known_type(const char* module, const char* name) {
  return reinterpret_cast<PyTypeObject*>(well_known(module, name));
}

PyTypeObject* default_dict_type() {
  static PyTypeObject* type = known_type("collections", "defaultdict");
  return type;
}
PyTypeObject* deque_type() {
  static PyTypeObject* type = known_type("collections", "deque");
  return type;
}
PyTypeObject* parameter_type() {
  static PyTypeObject* type = known_type("torch.nn", "Parameter");
  return type;
}
PyTypeObject* tensor_type() {
  static PyTypeObject* type = known_type("torch", "Tensor");
  return type;
}
PyTypeObject* module_type() {
  static PyTypeObject* type = known_type("torch.nn", "Module");
  return type;
}
PyTypeObject* partial_type() {
  static PyTypeObject* type = known_type("functools", "partial");
  return type;
}

bool is_enum_member(PyObject* object) {
  static PyTypeObject* meta = known_type("enum", "EnumMeta");
  return PyObject_TypeCheck(reinterpret_cast<PyObject*>(Py_TYPE(object)), meta);
}

bool object_is_size(PyObject* object) { return Py_TYPE(object) == &THPSizeType; }

PyTypeObject* object_size_type(PyTypeObject* type) {
  return type == &THPSizeType ? type : &PyTuple_Type;
}

bool is_named_tuple(PyTypeObject* type) {
  if (!PyType_IsSubtype(type, &PyTuple_Type) || type == &PyTuple_Type) return false;
  const Ref fields =
      Ref::steal(PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "_fields"));
  if (!fields) PyErr_Clear();
  if (fields && type->tp_itemsize != 0) return true;
  // structseq, such as torch.return_types.max
  const Ref count =
      Ref::steal(PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "n_sequence_fields"));
  if (!count) PyErr_Clear();
  return static_cast<bool>(count);
}

Ref make_named_tuple(PyTypeObject* type, const Ref& items) {
  auto* callable = reinterpret_cast<PyObject*>(type);
  const Ref fields = Ref::steal(PyObject_GetAttrString(callable, "_fields"));
  if (fields) return Ref::checked(PyObject_CallObject(callable, items.get()));
  PyErr_Clear();
  return Ref::checked(PyObject_CallOneArg(callable, items.get()));
}

bool is_tensor_object(PyObject* object) { return PyObject_TypeCheck(object, tensor_type()); }

bool is_module(PyObject* object) { return PyObject_TypeCheck(object, module_type()); }

}  // namespace octavo::capture
