#include "object.h"

namespace octavo::capture {

std::string repr(PyObject* object) {
  const SavedError saved;
  const Ref text = Ref::steal(PyObject_Repr(object));
  if (text) {
    std::string shown = utf8(text.get());
    if (shown.size() > 120) shown = shown.substr(0, 117) + "...";
    return shown;
  }
  PyErr_Clear();
  return std::string("<") + Py_TYPE(object)->tp_name + ">";
}

std::string take_error() {
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  const Ref owned_type = Ref::steal(type);
  const Ref owned_value = Ref::steal(value);
  const Ref owned_traceback = Ref::steal(traceback);
  if (!type) return "no error";
  std::string message = reinterpret_cast<PyTypeObject*>(type)->tp_name;
  if (value) {
    const Ref text = Ref::steal(PyObject_Str(value));
    if (text) message += ": " + utf8(text.get());
    PyErr_Clear();
  }
  return message.substr(0, message.find('\n'));
}

}  // namespace octavo::capture
