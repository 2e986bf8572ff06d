// One source, one guard: what a source holds now, and whether a guard holds of it. Runs no Python.
#pragma once
#include "source.h"

namespace octavo::capture {

// Where a piece's values come from: the frame's localsplus and its function's closure.
struct FrameView {
  PyObject** slots;
  PyObject* closure;  // tuple or null
};

// A borrowed or owned look at a value while guards run.
struct Look {
  PyObject* object = nullptr;
  bool owned = false;
};

// What the source holds; `base` is what its base holds, null for a root.
Look evaluate(const Source& source, PyObject* base, const FrameView& frame);

bool holds(const Guard& guard, PyObject* object);

// Size `dim` of a tensor, or for -1 the int itself; 0 where it is none of 64 bits.
int64_t size_at(PyObject* object, int dim);

// Where an object keeps its dictionary, or null: valid while the object lives.
PyObject** place_of_dictionary(PyObject* object);

}  // namespace octavo::capture
