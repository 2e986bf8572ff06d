// NumPy's arrays as the frame has them. What is done to them is traced by arrays.cpp.
#pragma once
#include "source.h"

namespace octavo::capture {

// np.ndarray itself; classes derived from it have their own rules.
bool is_array(PyObject* object);
// One of NumPy's numbers of the types that are captured: np.float64(2).
bool is_array_number(PyObject* object);
bool is_array_dtype(PyObject* object);
// Bit for bit: NaN is NaN, and 0.0 is not -0.0.
bool same_array_number(PyObject* a, PyObject* b);
bool same_array(PyObject* object, const TensorGuard& guard);
// A tensor of the array's memory.
at::Tensor tensor_on(PyObject* array);

struct Array;
PyTypeObject* type_of_array(const Array& array);  // np.ndarray, np.float64, ...

}  // namespace octavo::capture
