// What reading and writing attributes share.
#pragma once
#include <fmt/format.h>

#include "tracer.h"

namespace octavo::capture {

inline bool is_data_descriptor(PyObject* object) {
  return Py_TYPE(object)->tp_descr_set != nullptr;
}

inline bool named(PyObject* name, const char* text) {
  return PyUnicode_CompareWithASCIIString(name, text) == 0;
}

[[noreturn]] inline void no_attribute(Tracer& tracer, const std::string& owner, PyObject* name) {
  tracer.raise(PyExc_AttributeError,
               fmt::format("'{}' object has no attribute '{}'", owner, utf8(name)));
}

}  // namespace octavo::capture
