#include "evaluation.h"

#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <bit>
#include <cstring>

#include "arrays.h"
#include "python_types.h"
#include "tensor_meta.h"

namespace octavo::capture {
namespace {

Look look_attribute(PyObject* base, PyObject* name) {
  PyTypeObject* type = Py_TYPE(base);
  if (PyObject* own = own_attribute(base, name)) return {own, false};
  PyObject* member = PyType_Check(base) ? nullptr : _PyType_Lookup(type, name);
  if (!member || Py_TYPE(member) != &PyMemberDescr_Type) return {};
  PyObject* found = PyObject_GenericGetAttr(base, name);
  if (!found) PyErr_Clear();
  return {found, found != nullptr};
}

PyObject* grad_of(PyObject* tensor) {
  if (!is_tensor_object(tensor)) return nullptr;
  return THPVariable_Wrap(THPVariable_Unpack(tensor).unsafeGetTensorImpl()->grad());
}

}  // namespace

bool history_is_known(const at::Tensor& tensor) {
  if (!tensor.requires_grad() || tensor.is_inference()) return true;
  const auto* view = torch::autograd::impl::get_view_autograd_meta(tensor);
  return !view || !view->has_bw_view() ||
         view->get_creation_meta() == torch::autograd::CreationMeta::DEFAULT ||
         view->get_attr_version() == tensor._version();
}

bool is_leaf_or_view_of_one(const at::Tensor& tensor) {
  if (!tensor.requires_grad() || tensor.is_inference() || !history_is_known(tensor)) return false;
  if (tensor.is_leaf()) return true;
  if (!tensor.is_view()) return false;
  const at::TensorBase& base = tensor._base();
  return base.requires_grad() && base.is_leaf();
}

PyObject** place_of_dictionary(PyObject* object) {
  return PyType_Check(object) ? nullptr : _PyObject_GetDictPtr(object);
}

int64_t size_at(PyObject* object, int dim) {
  if (!object) return 0;  // a variable that is gone
  if (dim >= 0) return THPVariable_Unpack(object).size(dim);
  int overflow = 0;
  const int64_t read =
      PyLong_CheckExact(object) ? PyLong_AsLongLongAndOverflow(object, &overflow) : 0;
  return overflow ? 0 : read;
}

Look evaluate(const Source& source, PyObject* base, const FrameView& frame) {
  switch (source.kind) {
    case SourceKind::slot:
      return {frame.slots[source.index], false};
    case SourceKind::closure:
      return {frame.closure && source.index < PyTuple_GET_SIZE(frame.closure)
                  ? PyTuple_GET_ITEM(frame.closure, source.index)
                  : nullptr,
              false};
    case SourceKind::fixed:
      return {source.key.get(), false};
    case SourceKind::attribute:
      return look_attribute(base, source.key.get());
    case SourceKind::tensor_grad: {
      PyObject* grad = grad_of(base);
      return {grad, grad != nullptr};
    }
    case SourceKind::item:
      if (PyList_Check(base))
        return {
            source.index < PyList_GET_SIZE(base) ? PyList_GET_ITEM(base, source.index) : nullptr,
            false};
      if (PyTuple_Check(base))
        return {
            source.index < PyTuple_GET_SIZE(base) ? PyTuple_GET_ITEM(base, source.index) : nullptr,
            false};
      if (Py_TYPE(base) == deque_type()) {
        PyObject* item = PySequence_GetItem(base, source.index);
        if (!item) PyErr_Clear();
        return {item, item != nullptr};
      }
      return {};
    case SourceKind::dict_item:
      return {PyDict_Check(base) ? PyDict_GetItemWithError(base, source.key.get()) : nullptr,
              false};
    case SourceKind::type:
      return {reinterpret_cast<PyObject*>(Py_TYPE(base)), false};
    case SourceKind::cell_contents:
      return {PyCell_Check(base) ? PyCell_GET(base) : nullptr, false};
    case SourceKind::function_cell: {
      if (!PyFunction_Check(base)) return {};
      PyObject* closure = PyFunction_GET_CLOSURE(base);
      return {closure && source.index < PyTuple_GET_SIZE(closure)
                  ? PyTuple_GET_ITEM(closure, source.index)
                  : nullptr,
              false};
    }
    case SourceKind::function_default: {
      if (!PyFunction_Check(base)) return {};
      PyObject* defaults = PyFunction_GET_DEFAULTS(base);
      return {defaults && source.index < PyTuple_GET_SIZE(defaults)
                  ? PyTuple_GET_ITEM(defaults, source.index)
                  : nullptr,
              false};
    }
    case SourceKind::function_kwdefaults:
      return {PyFunction_Check(base) ? PyFunction_GET_KW_DEFAULTS(base) : nullptr, false};
    case SourceKind::method_self:
      if (PyCFunction_Check(base)) return {PyCFunction_GET_SELF(base), false};
      return {PyMethod_Check(base) ? PyMethod_GET_SELF(base) : nullptr, false};
    case SourceKind::method_function:
      return {PyMethod_Check(base) ? PyMethod_GET_FUNCTION(base) : nullptr, false};
    case SourceKind::dictionary: {
      PyObject* dict = PyObject_GenericGetDict(base, nullptr);
      if (!dict) PyErr_Clear();
      return {dict, dict != nullptr};
    }
    case SourceKind::exception_args:
      return {PyExceptionInstance_Check(base) ? reinterpret_cast<PyBaseExceptionObject*>(base)->args
                                              : nullptr,
              false};
    case SourceKind::context_variable: {
      PyObject* value = nullptr;
      if (PyContextVar_Get(base, nullptr, &value) < 0) PyErr_Clear();
      return {value, value != nullptr};
    }
  }
  return {};
}

namespace {

bool same_tensor(PyObject* object, const TensorGuard& guard) {
  if (Py_TYPE(object) != guard.type) return false;
  const at::Tensor& tensor = THPVariable_Unpack(object);
  if (!tensor.defined()) return false;
  const at::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  if (impl->key_set().raw_repr() != guard.keys) return false;
  if (tensor.scalar_type() != guard.dtype || tensor.device() != guard.device ||
      tensor.requires_grad() != guard.requires_grad || !history_is_known(tensor))
    return false;
  if (guard.sizes.size() != static_cast<size_t>(tensor.dim())) return false;
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (guard.sizes[d] >= 0 ? guard.sizes[d] != sizes[d] : sizes[d] < 2) return false;
    if (guard.order.empty() && guard.strides[d] != strides[d]) return false;
  }
  int64_t step = 1;
  for (auto d = guard.order.rbegin(); d != guard.order.rend(); ++d) {
    if (strides[static_cast<size_t>(*d)] != step) return false;
    step *= sizes[static_cast<size_t>(*d)];
  }
  return true;
}

// A key is the one it was; strings and numbers may be equal ones.
bool same_key(PyObject* key, PyObject* wanted) {
  if (key == wanted) return true;
  if (!PyUnicode_CheckExact(key) && !PyLong_CheckExact(key)) return false;
  if (Py_TYPE(key) != Py_TYPE(wanted)) return false;
  const int equal = PyObject_RichCompareBool(key, wanted, Py_EQ);
  if (equal < 0) PyErr_Clear();
  return equal == 1;
}

bool same_keys(PyObject* dict, PyObject* keys) {
  if (PyDict_GET_SIZE(dict) != PyTuple_GET_SIZE(keys)) return false;
  bool same = true;
  Py_ssize_t n = 0;
  for_each_item(dict, [&](PyObject* key, PyObject*) {
    same = same && same_key(key, PyTuple_GET_ITEM(keys, n++));
  });
  return same;
}

// Equal and of one type; what has no plain value is itself.
bool same_item(PyObject* one, PyObject* other) {
  if (one == other) return true;
  const bool plain = PyUnicode_CheckExact(one) || PyLong_CheckExact(one) ||
                     PyFloat_CheckExact(one) || PyBytes_CheckExact(one) || PyTuple_CheckExact(one);
  return plain && Py_TYPE(one) == Py_TYPE(other) &&
         PyObject_RichCompareBool(one, other, Py_EQ) == 1;
}

bool same_order(PyObject* set, PyObject* order) {
  if (PySet_GET_SIZE(set) != PyTuple_GET_SIZE(order)) return false;
  PyObject* key = nullptr;
  Py_hash_t hash = 0;
  Py_ssize_t position = 0, n = 0;
  while (_PySet_NextEntry(set, &position, &key, &hash))
    if (!same_item(key, PyTuple_GET_ITEM(order, n++))) return false;
  return true;
}

// Of equal sets: 1, 1.0 and True are equal, and not the same.
bool same_types(PyObject* set, PyObject* wanted) {
  PyObject *key = nullptr, *other = nullptr;
  Py_hash_t hash = 0, other_hash = 0;
  const auto has_odd_numbers = [&](PyObject* one) {
    Py_ssize_t position = 0;
    while (_PySet_NextEntry(one, &position, &key, &hash))
      if (PyNumber_Check(key) && !PyLong_CheckExact(key)) return true;
    return false;
  };
  if (!has_odd_numbers(set) && !has_odd_numbers(wanted)) return true;
  Py_ssize_t position = 0;
  while (_PySet_NextEntry(set, &position, &key, &hash)) {
    if (!PyNumber_Check(key)) continue;
    bool found = false;
    Py_ssize_t at = 0;
    while (!found && _PySet_NextEntry(wanted, &at, &other, &other_hash))
      found = hash == other_hash && same_item(key, other);
    if (!found) return false;
  }
  return true;
}

// NaN equals NaN and 0.0 differs from -0.0: what the trace saw as a constant.
bool equal_constants(PyObject* object, PyObject* wanted) {
  if (object == wanted) return true;
  if (Py_TYPE(object) != Py_TYPE(wanted)) return false;
  if (PyFloat_CheckExact(object)) {
    const double a = PyFloat_AS_DOUBLE(object), b = PyFloat_AS_DOUBLE(wanted);
    return std::bit_cast<uint64_t>(a) == std::bit_cast<uint64_t>(b);
  }
  if (is_array_number(object)) return same_array_number(object, wanted);
  if (PyComplex_CheckExact(object)) {
    const Py_complex a = PyComplex_AsCComplex(object), b = PyComplex_AsCComplex(wanted);
    return std::memcmp(&a, &b, sizeof a) == 0;
  }
  const int equal = PyObject_RichCompareBool(object, wanted, Py_EQ);
  if (equal < 0) PyErr_Clear();
  return equal == 1 && (!PyAnySet_Check(object) || same_types(object, wanted));
}

// A deque's maxlen never changes, but another deque may stand in its place.
bool is_deque_of(PyObject* object, const Guard& guard) {
  if (Py_TYPE(object) != deque_type() || PySequence_Size(object) != guard.number) return false;
  const Ref most = attribute(object, "maxlen");
  return equal_constants(most.get(), guard.object.get());
}

}  // namespace

bool holds(const Guard& guard, PyObject* object) {
  if (guard.kind == GuardKind::lacks_item) return object == nullptr;
  if (!object) return false;
  switch (guard.kind) {
    case GuardKind::there:
      return true;
    case GuardKind::is:
      return object == guard.object.get();
    case GuardKind::type:
      return reinterpret_cast<PyObject*>(Py_TYPE(object)) == guard.object.get();
    case GuardKind::equals:
      return equal_constants(object, guard.object.get());
    case GuardKind::set_order:
      return PyAnySet_Check(object) && same_order(object, guard.object.get());
    case GuardKind::length:
      return PyList_Check(object)    ? PyList_GET_SIZE(object) == guard.number
             : PyTuple_Check(object) ? PyTuple_GET_SIZE(object) == guard.number
             : PyDict_Check(object)  ? PyDict_GET_SIZE(object) == guard.number
                                     : is_deque_of(object, guard);
    case GuardKind::keys:
      return PyDict_Check(object) && same_keys(object, guard.object.get());
    case GuardKind::lacks_key:
      return PyDict_Check(object) && !PyDict_GetItemWithError(object, guard.object.get());
    case GuardKind::lacks_attribute:
      return !own_attribute(object, guard.object.get());
    case GuardKind::c_method:
      return PyCFunction_Check(object) &&
             reinterpret_cast<PyCFunctionObject*>(object)->m_ml ==
                 reinterpret_cast<PyCFunctionObject*>(guard.object.get())->m_ml;
    case GuardKind::code:
      return PyFunction_Check(object) && PyFunction_GET_CODE(object) == guard.object.get() &&
             PyFunction_GET_GLOBALS(object) == guard.other.get();
    case GuardKind::type_lookup:
      return PyType_Check(object) && _PyType_Lookup(reinterpret_cast<PyTypeObject*>(object),
                                                    guard.object.get()) == guard.other.get();
    case GuardKind::tensor:
      return is_tensor_object(object) && same_tensor(object, *guard.tensor);
    case GuardKind::array:
      return same_array(object, *guard.tensor);
    case GuardKind::no_leaf:
      return is_tensor_object(object) && !is_leaf_or_view_of_one(THPVariable_Unpack(object));
    case GuardKind::not_tensor_grad:
      return is_tensor_object(object) &&
             !THPVariable_Unpack(object).unsafeGetTensorImpl()->grad().defined();
    case GuardKind::lacks_item:
      break;
  }
  return false;
}

}  // namespace octavo::capture
