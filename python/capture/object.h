// Python references and errors as C++ values. Everything here needs the GIL.
#pragma once
#include <Python.h>

#include <string>
#include <string_view>
#include <utility>

namespace octavo::capture {

// Python's error indicator is set; whoever catches it clears the indicator or returns NULL.
struct PythonError {};

// An owned reference, possibly null.
class Ref {
 public:
  Ref() = default;
  static Ref steal(PyObject* object) {
    Ref ref;
    ref.object_ = object;
    return ref;
  }
  static Ref borrow(PyObject* object) { return steal(Py_XNewRef(object)); }
  // Takes over a new reference; PythonError if the call that made it failed.
  static Ref checked(PyObject* object) {
    if (!object) throw PythonError{};
    return steal(object);
  }
  Ref(const Ref& other) : object_(Py_XNewRef(other.object_)) {}
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() { Py_XDECREF(object_); }

  PyObject* get() const { return object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  PyObject* object_ = nullptr;
};

inline void check(int status) {
  if (status < 0) throw PythonError{};
}

inline Ref attribute(PyObject* object, const char* name) {
  return Ref::checked(PyObject_GetAttrString(object, name));
}

inline Ref import(const char* module) { return Ref::checked(PyImport_ImportModule(module)); }
inline Ref import(const char* module, const char* name) {
  return attribute(import(module).get(), name);
}

// A str, interned; a name that is used again and again.
inline Ref interned(const char* text) { return Ref::checked(PyUnicode_InternFromString(text)); }

inline Ref text(std::string_view text) {
  return Ref::checked(
      PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
}

// The UTF-8 of a str; "?" for what is none.
inline std::string utf8(PyObject* object) {
  Py_ssize_t size = 0;
  const char* data =
      object && PyUnicode_Check(object) ? PyUnicode_AsUTF8AndSize(object, &size) : nullptr;
  if (!data) {
    PyErr_Clear();
    return "?";
  }
  return {data, static_cast<size_t>(size)};
}

// repr(), or the type's name where repr raises; for messages.
std::string repr(PyObject* object);

// Takes the error indicator and gives "Type: message".
std::string take_error();

// Saves the error indicator over a scope that may call Python.
class SavedError {
 public:
  SavedError() { PyErr_Fetch(&type_, &value_, &traceback_); }
  SavedError(const SavedError&) = delete;
  SavedError& operator=(const SavedError&) = delete;
  ~SavedError() { PyErr_Restore(type_, value_, traceback_); }

 private:
  PyObject *type_ = nullptr, *value_ = nullptr, *traceback_ = nullptr;
};

}  // namespace octavo::capture
