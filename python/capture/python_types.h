// Questions about Python's and torch's types, with the classes looked up once.
#pragma once
#include "object.h"

namespace octavo::capture {

PyTypeObject* known_type(const char* module, const char* name);
PyTypeObject* default_dict_type();
PyTypeObject* deque_type();
PyTypeObject* parameter_type();
PyTypeObject* tensor_type();
PyTypeObject* module_type();   // torch.nn.Module
PyTypeObject* partial_type();  // functools.partial
bool is_enum_member(PyObject* object);
bool object_is_size(PyObject* object);  // torch.Size
// torch.Size for torch.Size, tuple for other tuple classes: what slicing and adding give.
PyTypeObject* object_size_type(PyTypeObject* type);
bool is_named_tuple(PyTypeObject* type);
// A tuple of `type`, which is a named tuple, torch.Size or a structseq.
Ref make_named_tuple(PyTypeObject* type, const Ref& items);
bool is_module(PyObject* object);
// By the type alone: isinstance() would run the object's own code.
bool is_tensor_object(PyObject* object);
// visit(key, value) for the items of a dict in Python's order: an OrderedDict has one of its own.
template <class F>
void for_each_item(PyObject* dict, const F& visit) {
  if (PyODict_CheckExact(dict)) {
    const Ref iterator = Ref::checked(PyObject_GetIter(dict));
    while (const Ref key = Ref::steal(PyIter_Next(iterator.get())))
      visit(key.get(), PyDict_GetItemWithError(dict, key.get()));
    if (PyErr_Occurred()) throw PythonError{};
    return;
  }
  PyObject *key = nullptr, *value = nullptr;
  Py_ssize_t position = 0;
  while (PyDict_Next(dict, &position, &key, &value)) visit(key, value);
}
// An object found once and kept: "torch.nn.functional", "relu".
PyObject* well_known(const char* module, const char* name);

}  // namespace octavo::capture
