// Evaluation of sources and guards when a piece is looked up.
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "arrays.h"
#include "python_types.h"
#include "source.h"

namespace octavo::capture {

// A borrowed or owned look at a value while guards run.
struct Look {
  PyObject* object = nullptr;
  bool owned = false;
};

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
  return THPVariable_Wrap(THPVariable_Unpack(tensor).grad());
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

bool same_tensor(PyObject* object, const TensorGuard& guard) {
  if (Py_TYPE(object) != guard.type) return false;
  const at::Tensor& tensor = THPVariable_Unpack(object);
  if (!tensor.defined()) return false;
  const at::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  if (impl->key_set().raw_repr() != guard.keys) return false;
  if (tensor.scalar_type() != guard.dtype || tensor.device() != guard.device ||
      tensor.requires_grad() != guard.requires_grad)
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

bool same_keys(PyObject* dict, PyObject* keys) {
  if (PyDict_GET_SIZE(dict) != PyTuple_GET_SIZE(keys)) return false;
  PyObject *key = nullptr, *value = nullptr;
  Py_ssize_t position = 0, n = 0;
  while (PyDict_Next(dict, &position, &key, &value)) {
    PyObject* wanted = PyTuple_GET_ITEM(keys, n++);
    if (key == wanted) continue;
    if (!PyUnicode_CheckExact(key) && !PyLong_CheckExact(key)) return false;
    if (Py_TYPE(key) != Py_TYPE(wanted)) return false;
    if (PyObject_RichCompareBool(key, wanted, Py_EQ) != 1) {
      PyErr_Clear();
      return false;
    }
  }
  return true;
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

bool holds(const Guard& guard, PyObject* object) {
  if (guard.kind == GuardKind::lacks_item) return object == nullptr;
  if (!object) return false;
  switch (guard.kind) {
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
    case GuardKind::not_tensor_grad:
      return is_tensor_object(object) && !THPVariable_Unpack(object).grad().defined();
    case GuardKind::lacks_item:
      break;
  }
  return false;
}

}  // namespace

GuardProgram::GuardProgram(Sources sources, std::vector<std::pair<Source*, Source*>> distinct,
                           SizeGuards sizes)
    : sources_(std::move(sources)), distinct_(std::move(distinct)), sizes_(std::move(sizes)) {
  for (Source& source : sources_.all())
    if (source.wanted) source.place = static_cast<int>(wanted_++);
}

bool GuardProgram::check(const FrameView& frame, std::vector<Ref>& values,
                         GuardFailure* failure) const {
  if (known_ && check_again(frame, values)) return true;
  return check_all(frame, values, failure);
}

namespace {

// The dictionary in which a base's attributes or items are found, or null.
PyObject* dictionary_of(PyObject* base) {
  if (PyDict_Check(base)) return base;
  if (PyModule_Check(base)) return PyModule_GetDict(base);
  if (PyType_Check(base)) return nullptr;
  PyObject** dict = _PyObject_GetDictPtr(base);
  return dict ? *dict : nullptr;
}

// What a dictionary's version says.
bool found_in_dictionary(const Source& source, PyObject* base, PyObject* found) {
  if (!base || !found) return false;
  if (source.kind == SourceKind::dict_item) return PyDict_Check(base) != 0;
  return source.kind == SourceKind::attribute && !PyDict_Check(base) && dictionary_of(base) &&
         own_attribute(base, source.key.get()) == found;
}

// Guards that hold of the same object for as long as its dictionary's version stands, or for ever.
bool settled(const Guard& guard, PyObject* object) {
  switch (guard.kind) {
    case GuardKind::is:
    case GuardKind::type_lookup:
    case GuardKind::lacks_key:
    case GuardKind::keys:
      return true;
    case GuardKind::lacks_attribute:
      return !PyDict_Check(object);
    case GuardKind::length:
      return PyDict_Check(object) || PyTuple_Check(object);
    case GuardKind::equals:
      return !PyAnySet_Check(object) && Py_TYPE(object) != &PySlice_Type;
    default:
      return false;
  }
}

bool reads_dictionary(const Guard& guard, PyObject* object) {
  return guard.kind == GuardKind::lacks_key || guard.kind == GuardKind::lacks_attribute ||
         guard.kind == GuardKind::keys || (guard.kind == GuardKind::length && PyDict_Check(object));
}

uint64_t version_of(PyObject* dict) {
  return reinterpret_cast<PyDictObject*>(dict)->ma_version_tag;
}

}  // namespace

void GuardProgram::remember(const Look* looks) const {
  again_.clear();
  kept_.clear();
  known_ = false;
  const size_t count = sources_.all().size();
  std::vector<bool> fixed(count, false), watched(count, false);
  std::vector<PyTypeObject*> types;
  const auto watch = [&](int id) {
    if (watched[static_cast<size_t>(id)]) return;
    watched[static_cast<size_t>(id)] = true;
    PyObject* base = looks[id].object;
    PyObject* dict = dictionary_of(base);
    again_.push_back({Again::Kind::dictionary, id, base, dict, version_of(dict), nullptr});
  };
  for (const Source& source : sources_.all()) {
    const auto id = static_cast<size_t>(source.id);
    PyObject* object = looks[source.id].object;
    PyObject* base = source.base ? looks[source.base->id].object : nullptr;
    const bool base_fixed = source.base && fixed[static_cast<size_t>(source.base->id)];
    if (source.kind == SourceKind::fixed) {
      fixed[id] = true;
    } else if (base_fixed && found_in_dictionary(source, base, object)) {
      watch(source.base->id);
      fixed[id] = true;
    } else {
      again_.push_back(
          {Again::Kind::evaluate, source.id, base_fixed ? base : nullptr, nullptr, 0, nullptr});
      // What holds attributes is expected to stay the object it is.
      const bool holder = object && !looks[source.id].owned && !is_tensor_object(object) &&
                          (PyType_Check(object) || dictionary_of(object) || PyDict_Check(object));
      if (holder) {
        again_.push_back({Again::Kind::expect, source.id, object, nullptr, 0, nullptr});
        fixed[id] = true;
      }
    }
    for (const Guard& guard : source.guards) {
      if (fixed[id] && object && settled(guard, object)) {
        if (guard.kind == GuardKind::type_lookup) {
          auto* type = reinterpret_cast<PyTypeObject*>(object);
          if (std::find(types.begin(), types.end(), type) != types.end()) continue;
          if (PyType_HasFeature(type, Py_TPFLAGS_VALID_VERSION_TAG)) {
            types.push_back(type);
            again_.push_back({Again::Kind::type_version, source.id, object, nullptr,
                              type->tp_version_tag, nullptr});
            continue;
          }
        } else if (!reads_dictionary(guard, object)) {
          continue;
        } else if (dictionary_of(object)) {
          watch(source.id);
          continue;
        }
      }
      again_.push_back(
          {Again::Kind::guard, source.id, fixed[id] ? object : nullptr, nullptr, 0, &guard});
    }
    if (source.wanted) kept_.emplace_back(source.id, fixed[id] ? object : nullptr);
  }
  // Tensors found under unchanged dictionaries are the ones that differed; the others may not.
  loose_.clear();
  held_.clear();
  for (const Source* source : sources_.tensors()) {
    if (fixed[static_cast<size_t>(source->id)])
      held_.push_back(looks[source->id].object);
    else
      loose_.push_back(source->id);
  }
  std::sort(held_.begin(), held_.end());
  known_ = loose_.size() <= 64;
}

bool GuardProgram::check_again(const FrameView& frame, std::vector<Ref>& values) const {
  if (!distinct_.empty() || !sources_.same().empty()) return false;
  const size_t count = sources_.all().size();
  constexpr size_t few = 512;
  PyObject* small[few];
  std::vector<PyObject*> large;
  PyObject** looks = small;
  if (count > few) {
    large.resize(count);
    looks = large.data();
  }
  std::vector<PyObject*> owned;
  bool all = true;
  for (const Again& step : again_) {
    switch (step.kind) {
      case Again::Kind::evaluate: {
        const Source& source = sources_.all()[static_cast<size_t>(step.source)];
        PyObject* base = !source.base  ? nullptr
                         : step.object ? step.object
                                       : looks[source.base->id];
        const Look look = source.base && !base ? Look{} : evaluate(source, base, frame);
        if (look.owned) owned.push_back(look.object);
        looks[step.source] = look.object;
        all = look.object || !source.wanted;
        break;
      }
      case Again::Kind::expect:
        all = looks[step.source] == step.object;
        break;
      case Again::Kind::dictionary: {
        PyObject* dict = step.object;
        if (dict != step.dict) dict = dictionary_of(step.object);
        all = dict == step.dict && version_of(step.dict) == step.version;
        break;
      }
      case Again::Kind::type_version: {
        auto* type = reinterpret_cast<PyTypeObject*>(step.object);
        all = PyType_HasFeature(type, Py_TPFLAGS_VALID_VERSION_TAG) &&
              type->tp_version_tag == step.version;
        break;
      }
      case Again::Kind::guard:
        all = holds(*step.check, step.object ? step.object : looks[step.source]);
        break;
    }
    if (!all) break;
  }
  if (all) {
    values.resize(wanted_);
    size_t place = 0;
    for (const auto& [id, object] : kept_)
      values[place++] = Ref::borrow(object ? object : looks[id]);
    // Two of the tensors may be one now.
    if (loose_.size() > 1 || (loose_.size() == 1 && !held_.empty())) {
      for (size_t n = 0; n < loose_.size() && all; ++n) {
        PyObject* one = looks[loose_[n]];
        all = !std::binary_search(held_.begin(), held_.end(), one);
        for (size_t m = n + 1; m < loose_.size() && all; ++m) all = one != looks[loose_[m]];
      }
    }
  }
  for (PyObject* object : owned) Py_DECREF(object);
  return all;
}

bool GuardProgram::check_all(const FrameView& frame, std::vector<Ref>& values,
                             GuardFailure* failure) const {
  const size_t count = sources_.all().size();
  constexpr size_t few = 256;
  Look small[few];
  std::vector<Look> large;
  Look* looks = small;
  if (count > few) {
    large.resize(count);
    looks = large.data();
  }
  bool all = true;
  size_t seen = 0;
  for (const Source& source : sources_.all()) {
    PyObject* base = source.base ? looks[source.base->id].object : nullptr;
    Look look = source.base && !base ? Look{} : evaluate(source, base, frame);
    looks[seen++] = look;
    for (const Guard& guard : source.guards)
      if (!holds(guard, look.object)) {
        if (failure) *failure = {&source, &guard};
        all = false;
        break;
      }
    if (!all) break;
    if (source.wanted && !look.object) {
      if (failure) *failure = {&source, nullptr};
      all = false;
      break;
    }
  }
  const auto object = [&](const Source* source) { return looks[source->id].object; };
  if (all)
    for (const auto& [a, b] : sources_.same())
      if (object(a) != object(b)) {
        if (failure) *failure = {a, nullptr};
        all = false;
        break;
      }
  if (all && sources_.tensors().size() > 1) {
    std::vector<PyObject*> tensors;
    tensors.reserve(sources_.tensors().size());
    for (const Source* source : sources_.tensors()) tensors.push_back(object(source));
    std::sort(tensors.begin(), tensors.end());
    if (std::adjacent_find(tensors.begin(), tensors.end()) != tensors.end()) {
      if (failure) *failure = {sources_.tensors().front(), nullptr};
      all = false;
    }
  }
  if (all)
    for (const auto& [a, b] : distinct_)
      if (looks[a->id].object == looks[b->id].object) {
        if (failure) *failure = {a, nullptr};
        all = false;
        break;
      }
  if (all) {
    values.resize(wanted_ + sizes_.symbols.size());
    for (const Source& source : sources_.all())
      if (source.wanted)
        values[static_cast<size_t>(source.place)] = Ref::borrow(looks[source.id].object);
    if (sizes_.symbols.empty())
      remember(looks);
    else
      all = check_sizes(looks, values, failure);
  }
  for (size_t n = 0; n < seen; ++n)
    if (looks[n].owned) Py_DECREF(looks[n].object);
  return all;
}

// Reads the symbols, of which each is one size however often it stands, and checks the conditions.
bool GuardProgram::check_sizes(const Look* looks, std::vector<Ref>& values,
                               GuardFailure* failure) const {
  std::vector<int64_t> symbols;
  for (const auto& places : sizes_.symbols) {
    int64_t value = -1;
    for (const SymbolPlace& place : places) {
      PyObject* object = looks[place.source->id].object;
      int64_t read = 0;
      if (place.dim >= 0) {
        read = THPVariable_Unpack(object).size(place.dim);
      } else {
        int overflow = 0;
        read = PyLong_CheckExact(object) ? PyLong_AsLongLongAndOverflow(object, &overflow) : 0;
        if (overflow) read = 0;
      }
      if (read < 2 || (value >= 0 && read != value)) {
        if (failure) *failure = {place.source, nullptr, nullptr};
        return false;
      }
      value = read;
    }
    values[wanted_ + symbols.size()] = Ref::checked(PyLong_FromLongLong(value));
    symbols.push_back(value);
  }
  for (const Condition& condition : sizes_.conditions)
    if (!capture::holds(condition, symbols)) {
      if (failure) *failure = {nullptr, nullptr, &condition};
      return false;
    }
  return true;
}

size_t GuardProgram::guards() const {
  size_t count = distinct_.size() + sizes_.conditions.size();
  for (const auto& places : sizes_.symbols) count += places.size() > 1 ? 1 : 0;
  for (const Source& source : sources_.all()) count += source.guards.size();
  return count;
}

}  // namespace octavo::capture
