// Whose code a frame runs.
#pragma once
#include <Python.h>

namespace octavo::capture {

// Frames of Python's and torch's own libraries are not regions of the user's; what the user's
// functions call of them is inlined all the same.
bool is_library(PyCodeObject* code);

}  // namespace octavo::capture
