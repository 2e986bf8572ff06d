// NumPy's arrays: tensors in the graph that the program sees as np.ndarray and NumPy's numbers.
//
// octavo/capture/array_rules.py decides what is recorded, with NumPy itself as the rule.
#include "arrays.h"

#include <ATen/ops/empty_strided.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/tensor_numpy.h>

#include <cstring>
#include <optional>

#include "python_types.h"
#include "tensor_meta.h"
#include "tracer.h"

namespace octavo::capture {
namespace {

// What an object says of its memory by the buffer protocol; no Python code runs.
class Buffer {
 public:
  explicit Buffer(PyObject* object) {
    held_ = PyObject_GetBuffer(object, &view_, PyBUF_STRIDED_RO | PyBUF_FORMAT) == 0;
    if (!held_) PyErr_Clear();
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (held_) PyBuffer_Release(&view_);
  }
  const Py_buffer* operator->() const { return &view_; }
  explicit operator bool() const { return held_; }

  // The types that NumPy and torch both have.
  std::optional<at::ScalarType> type() const {
    const char* format = view_.format;
    if (!format || format[0] == '\0' || format[1] != '\0') return std::nullopt;
    switch (format[0]) {
      case '?':
        return at::kBool;
      case 'b':
        return at::kChar;
      case 'h':
        return at::kShort;
      case 'i':
        return at::kInt;
      case 'l':
        return at::kLong;
      case 'B':
        return at::kByte;
      case 'f':
        return at::kFloat;
      case 'd':
        return at::kDouble;
      default:
        return std::nullopt;
    }
  }

 private:
  Py_buffer view_{};
  bool held_ = false;
};

bool aligned(const Py_buffer& view) {
  return reinterpret_cast<uintptr_t>(view.buf) % static_cast<uintptr_t>(view.itemsize) == 0;
}

const std::vector<std::pair<PyTypeObject*, at::ScalarType>>& numbers() {
  static const auto* all = new std::vector<std::pair<PyTypeObject*, at::ScalarType>>{
      {known_type("numpy", "bool_"), at::kBool},    {known_type("numpy", "int8"), at::kChar},
      {known_type("numpy", "int16"), at::kShort},   {known_type("numpy", "int32"), at::kInt},
      {known_type("numpy", "int64"), at::kLong},    {known_type("numpy", "uint8"), at::kByte},
      {known_type("numpy", "float32"), at::kFloat}, {known_type("numpy", "float64"), at::kDouble}};
  return *all;
}

PyTypeObject* number_type(at::ScalarType wanted) {
  for (const auto& [type, scalar] : numbers())
    if (scalar == wanted) return type;
  return nullptr;
}

PyObject* rule(const char* name) { return well_known("octavo.capture.array_rules", name); }

// What keeps a call from being recorded becomes the piece's end.
[[noreturn]] void refuse() {
  if (!PyErr_ExceptionMatches(PyExc_Exception)) throw PythonError{};
  const bool known = PyErr_ExceptionMatches(rule("Refused")) != 0;
  std::string why = take_error();
  if (known) why = why.substr(std::min(why.size(), why.find(": ") + 2));
  give_up(Reason::numpy, why);
}

Ref array_call(const char* kind, const std::string& name) {
  PyObject* make = well_known("octavo.capture.arrays", "array_call");
  Ref made = Ref::steal(PyObject_CallFunction(make, "ss", kind, name.c_str()));
  if (!made) refuse();
  return made;
}

bool of_numpy(PyObject* object) {
  static PyTypeObject* ufunc = known_type("numpy", "ufunc");
  static PyTypeObject* dispatcher = Py_TYPE(well_known("numpy", "concatenate"));
  static PyTypeObject* generic = known_type("numpy", "generic");
  static PyTypeObject* dtype = known_type("numpy", "dtype");
  if (Py_TYPE(object) == ufunc || Py_TYPE(object) == dispatcher) return true;
  if (PyType_Check(object)) {
    auto* type = reinterpret_cast<PyTypeObject*>(object);
    return type == dtype || PyType_IsSubtype(type, generic);
  }
  PyObject* module = nullptr;
  if (PyFunction_Check(object))
    module = reinterpret_cast<PyFunctionObject*>(object)->func_module;
  else if (PyCFunction_CheckExact(object))
    module = reinterpret_cast<PyCFunctionObject*>(object)->m_module;
  return module && PyUnicode_Check(module) && utf8(module).rfind("numpy", 0) == 0;
}

// NumPy's functions and what stands for them in a graph.
const std::unordered_map<PyObject*, PyObject*>& functions() {
  static const auto* all = [] {
    auto* made = new std::unordered_map<PyObject*, PyObject*>;
    const Ref listed = Ref::checked(PyObject_CallNoArgs(rule("numpy_functions")));
    for (Py_ssize_t n = 0; n < PyList_GET_SIZE(listed.get()); ++n) {
      PyObject* pair = PyList_GET_ITEM(listed.get(), n);
      (*made)[Py_NewRef(PyTuple_GET_ITEM(pair, 0))] = Py_NewRef(PyTuple_GET_ITEM(pair, 1));
    }
    return made;
  }();
  return *all;
}

}  // namespace

bool is_array(PyObject* object) {
  static PyTypeObject* type = known_type("numpy", "ndarray");
  return Py_TYPE(object) == type;
}

bool is_array_number(PyObject* object) {
  for (const auto& [type, scalar] : numbers())
    if (Py_TYPE(object) == type) return true;
  return false;
}

bool is_array_dtype(PyObject* object) {
  static PyTypeObject* type = known_type("numpy", "dtype");
  return PyObject_TypeCheck(object, type);
}

bool same_array_number(PyObject* a, PyObject* b) {
  const Buffer first(a), second(b);
  return first && second && first->len == second->len &&
         std::memcmp(first->buf, second->buf, static_cast<size_t>(first->len)) == 0;
}

bool same_array(PyObject* object, const TensorGuard& guard) {
  if (!is_array(object)) return false;
  const Buffer buffer(object);
  if (!buffer || buffer.type() != guard.dtype || (buffer->readonly == 0) != guard.requires_grad ||
      buffer->ndim != static_cast<int>(guard.sizes.size()) || !aligned(*buffer.operator->()))
    return false;
  for (size_t d = 0; d < guard.sizes.size(); ++d)
    if (buffer->shape[d] != guard.sizes[d] ||
        buffer->strides[d] != guard.strides[d] * buffer->itemsize)
      return false;
  return true;
}

at::Tensor tensor_on(PyObject* array) { return torch::utils::tensor_from_numpy(array, false); }

PyTypeObject* type_of_array(const Array& array) {
  return array.scalar ? number_type(array.tensor->meta.scalar_type())
                      : known_type("numpy", "ndarray");
}

V Tracer::lift_array(PyObject* object, Source* source) {
  if (settings_.numpy == Numpy::never || !source) return nullptr;
  const Buffer buffer(object);
  if (!buffer || !buffer.type() || !aligned(*buffer.operator->())) return nullptr;
  std::vector<int64_t> sizes, strides;
  for (int d = 0; d < buffer->ndim; ++d) {
    if (buffer->strides[d] < 0 || buffer->strides[d] % buffer->itemsize != 0) return nullptr;
    sizes.push_back(buffer->shape[d]);
    strides.push_back(buffer->strides[d] / buffer->itemsize);
  }
  auto made = make<Array>();
  made->writable = buffer->readonly == 0;
  made->tensor = make<Tensor>();
  made->tensor->type = tensor_type();
  made->tensor->meta = at::detail::empty_strided_meta(sizes, strides, *buffer.type());
  made->tensor->source = source;
  made->tensor->of_array = true;
  auto guard = std::make_unique<TensorGuard>(TensorGuard{
      *buffer.type(), c10::kCPU, made->writable, 0, sizes, strides, Py_TYPE(object), {}});
  source->guards.push_back({GuardKind::array, {}, {}, 0, std::move(guard)});
  trace_.sources.tensor(source);
  return made;
}

bool Tracer::holds_array(const V& given, int depth) {
  if (given->kind == Kind::constant || given->kind == Kind::tensor) return false;
  const V value = look(given);
  if (value->kind == Kind::array) return true;
  if (depth > 4) return false;
  if (value->kind == Kind::sequence)
    for (const V& item : static_cast<Sequence&>(*value).items)
      if (holds_array(item, depth + 1)) return true;
  if (value->kind == Kind::dict)
    for (const auto& [key, item] : static_cast<Dict&>(*value).items)
      if (item && holds_array(item, depth + 1)) return true;
  return false;
}

// Arrays that overflow or divide by zero warn or raise as np.errstate says; a graph does neither.
void Tracer::guard_array_errors() {
  if (guards_array_errors_) return;
  guards_array_errors_ = true;
  rule("Refused");  // imported before there is an error to tell apart
  const Ref expected = Ref::checked(PyObject_CallNoArgs(rule("default_errors")));
  if (expected.get() == Py_None) give_up(Reason::numpy, "this version of NumPy");
  PyObject* variable = PyTuple_GET_ITEM(expected.get(), 0);
  PyObject* usual = PyTuple_GET_ITEM(expected.get(), 1);
  PyObject* now = nullptr;
  check(PyContextVar_Get(variable, nullptr, &now));
  const Ref held = Ref::steal(now);
  if (now != usual) give_up(Reason::numpy, "floating-point errors are handled by np.errstate");
  Source* base = trace_.sources.fixed(variable);
  trace_.sources.guard(trace_.sources.of(SourceKind::context_variable, base), GuardKind::is, usual);
}

// What the rule is asked about: NumPy's view of an argument.
Ref Tracer::array_argument(const V& given, std::vector<std::shared_ptr<Array>>& arrays) {
  // NumPy's rule is asked with numbers. One that differs would be asked about again and again.
  if (is_symbol(given)) give_up(Reason::numpy, "a number that differs from call to call");
  const V value = real(given);
  switch (value->kind) {
    case Kind::array: {
      const auto& array = std::static_pointer_cast<Array>(value);
      arrays.push_back(array);
      const Ref tensor = Ref::checked(THPVariable_Wrap(array->tensor->meta));
      Ref made = Ref::steal(PyObject_CallFunction(rule("Array"), "Oii", tensor.get(),
                                                  array->scalar ? 1 : 0, array->writable ? 1 : 0));
      if (!made) refuse();
      return made;
    }
    case Kind::sequence: {
      const auto& sequence = static_cast<Sequence&>(*value);
      if (sequence.is_deque()) break;
      Ref items = Ref::checked(PyList_New(0));
      for (const V& item : sequence.items)
        check(PyList_Append(items.get(), array_argument(item, arrays).get()));
      return sequence.is_list() ? items : Ref::checked(PyList_AsTuple(items.get()));
    }
    case Kind::slice: {
      const auto& slice = static_cast<Slice&>(*value);
      Ref parts[3];
      for (int n = 0; n < 3; ++n)
        parts[n] = python_constant(n == 0 ? slice.start : n == 1 ? slice.stop : slice.step);
      if (!parts[0] || !parts[1] || !parts[2]) give_up(Reason::numpy, "a slice by arrays");
      return Ref::checked(PySlice_New(parts[0].get(), parts[1].get(), parts[2].get()));
    }
    case Kind::object:
    case Kind::constant:
      if (PyType_Check(value->object.get()) || is_array_dtype(value->object.get())) {
        Ref name = Ref::steal(PyObject_CallOneArg(rule("dtype_name"), value->object.get()));
        if (!name) refuse();
        return name;
      }
      if (value->kind == Kind::constant) return value->object;
      break;
    default:
      break;
  }
  give_up(Reason::numpy, "an argument that is " + describe(value));
}

// What stands in the node: types by their names, NumPy's numbers as nodes that make them.
V Tracer::array_node_argument(const V& given, bool floating) {
  const V value = real(given);
  if (value->kind == Kind::sequence) {
    const auto& sequence = static_cast<Sequence&>(*value);
    std::vector<V> items;
    for (const V& item : sequence.items) items.push_back(array_node_argument(item, floating));
    return this->sequence(sequence.is_list() ? &PyList_Type : &PyTuple_Type, std::move(items));
  }
  if (value->kind == Kind::array && floating)
    return call_method(static_cast<Array&>(*value).tensor, "to",
                       {constant(well_known("torch", "float64"))});
  if (value->kind != Kind::constant && value->kind != Kind::object) return value;
  std::vector<std::shared_ptr<Array>> none;
  if (!is_array_number(value->object.get())) {
    const V plain = constant(array_argument(value, none));
    return plain->kind == Kind::constant ? plain : value;
  }
  const std::string type =
      utf8(octavo::capture::attribute(reinterpret_cast<PyObject*>(Py_TYPE(value->object.get())),
                                      "__name__")
               .get());
  const Ref item = Ref::checked(PyObject_CallMethod(value->object.get(), "item", nullptr));
  Node* node =
      add_node(Node::Op::call_function, array_call("function", type == "bool" ? "bool_" : type),
               {{constant(item)}, {}}, false);
  const at::Tensor meta =
      at::detail::empty_strided_meta({}, {}, *Buffer(value->object.get()).type());
  return make_array(meta, node, true, false, 0);
}

V Tracer::make_array(const at::Tensor& meta, Node* node, bool scalar, bool writable, int64_t copy) {
  node->meta = meta;
  auto array = make<Array>();
  array->scalar = scalar;
  array->writable = writable;
  auto tensor = make<Tensor>();
  tensor->type = tensor_type();
  tensor->meta = meta;
  tensor->node = node;
  if (copy) {
    Node* clone = trace_.graph.add(Node::Op::call_method, interned("clone"));
    clone->args = {Arg::of(node)};
    clone->line = node->line;
    clone->file = node->file;
    std::optional<at::MemoryFormat> format;
    if (copy == 1) {
      clone->kwargs.emplace_back(interned("memory_format"),
                                 Arg::of(Ref::borrow(well_known("torch", "contiguous_format"))));
      format = at::MemoryFormat::Contiguous;
    }
    tensor->meta = clone->meta = meta.clone(format);
    tensor->node = clone;
  }
  array->tensor = std::move(tensor);
  return array;
}

V Tracer::take_outcome(PyObject* outcome, Node* node,
                       const std::vector<std::shared_ptr<Array>>& arrays) {
  const std::string kind = utf8(PyTuple_GET_ITEM(outcome, 0));
  const auto part = [&](Py_ssize_t n) { return PyTuple_GET_ITEM(outcome, n); };
  if (kind == "constant") return constant(part(1));
  if (kind == "same") return arrays.at(PyLong_AsSize_t(part(1)));
  if (kind == "array")
    return make_array(THPVariable_Unpack(part(1)), node, part(2) == Py_True, part(3) == Py_True,
                      PyLong_AsLongLong(part(4)));
  std::vector<V> items;
  for (Py_ssize_t n = 1; n < PyTuple_GET_SIZE(outcome); ++n) {
    const std::string inner = utf8(PyTuple_GET_ITEM(part(n), 0));
    Node* of_part = nullptr;
    if (inner != "constant" && inner != "same") {
      of_part =
          trace_.graph.add(Node::Op::call_function, Ref::borrow(well_known("operator", "getitem")));
      of_part->part = true;
      of_part->args = {Arg::of(node), Arg::of(Ref::checked(PyLong_FromSsize_t(n - 1)))};
      of_part->file = node->file;
      of_part->line = node->line;
    }
    items.push_back(take_outcome(part(n), of_part, arrays));
  }
  return kind == "list" ? list(std::move(items)) : tuple(std::move(items));
}

V Tracer::call_array(const char* kind, const std::string& name, const Call& call) {
  guard_array_errors();
  if (quiet_) give_up(Reason::numpy, "arrays inside a module of torch's");
  const Ref target = array_call(kind, name);
  std::vector<std::shared_ptr<Array>> arrays;
  const Ref args = Ref::checked(PyTuple_New(static_cast<Py_ssize_t>(call.args.size())));
  for (size_t n = 0; n < call.args.size(); ++n)
    PyTuple_SET_ITEM(args.get(), static_cast<Py_ssize_t>(n),
                     array_argument(call.args[n], arrays).release());
  const Ref keywords = Ref::checked(PyDict_New());
  for (const auto& [key, value] : call.keywords)
    check(PyDict_SetItem(keywords.get(), key.get(), array_argument(value, arrays).get()));
  std::vector<int64_t> versions;
  for (const auto& array : arrays) versions.push_back(version_of(array->tensor->meta));
  const Ref outcome = Ref::steal(
      PyObject_CallFunctionObjArgs(rule("judge"), target.get(), args.get(), keywords.get(),
                                   settings_.numpy == Numpy::exact ? Py_True : Py_False, nullptr));
  if (!outcome) refuse();
  ++trace_.python_rules;

  bool impure = false;
  for (size_t n = 0; n < arrays.size(); ++n) {
    const at::Tensor& meta = arrays[n]->tensor->meta;
    if (!is_written_since(meta, versions[n])) continue;
    if (shared_storages_.count(meta.storage().unsafeGetStorageImpl()))
      give_up(Reason::numpy, "a write into memory that a tensor shares");
    impure = true;
    writes_into(meta);
  }
  std::string result = utf8(PyTuple_GET_ITEM(outcome.get(), 0));
  const bool floating = result == "floating";
  PyObject* given = floating ? PyTuple_GET_ITEM(outcome.get(), 1) : outcome.get();
  if (floating) result = utf8(PyTuple_GET_ITEM(given, 0));
  if (!impure && (result == "constant" || result == "same"))
    return take_outcome(given, nullptr, arrays);
  Call plain;
  for (const V& arg : call.args) plain.args.push_back(array_node_argument(arg, floating));
  for (const auto& [key, value] : call.keywords)
    plain.keywords.emplace_back(key, array_node_argument(value, floating));
  Node* node = add_node(Node::Op::call_function, target, plain, impure);
  return take_outcome(given, node, arrays);
}

V Tracer::call_array_method(const V& array, const std::string& name, Call call) {
  if (name == "item" || name == "tolist" || name == "__float__" || name == "__int__" ||
      name == "__bool__" || name == "__index__" || name == "tobytes" || name == "__array__")
    give_up(Reason::tensor_to_python, "ndarray." + name);
  call.args.insert(call.args.begin(), array);
  return call_array("method", name, call);
}

V Tracer::array_attribute(const V& given, PyObject* name) {
  const auto& array = static_cast<Array&>(*given);
  const std::string text = utf8(name);
  const at::Tensor& meta = array.tensor->meta;
  const auto numbers = [&](at::IntArrayRef list, int64_t times) {
    std::vector<V> items;
    for (const int64_t one : list) items.push_back(integer(one * times));
    return tuple(std::move(items));
  };
  if (text == "shape") return numbers(meta.sizes(), 1);
  if (text == "ndim") return integer(meta.dim());
  if (text == "size") return integer(meta.numel());
  if (text == "itemsize") return integer(meta.element_size());
  if (text == "nbytes") return integer(meta.numel() * meta.element_size());
  if (text == "dtype") {
    return constant(Ref::checked(
        PyObject_CallOneArg(well_known("numpy", "dtype"),
                            reinterpret_cast<PyObject*>(number_type(meta.scalar_type())))));
  }
  if (text == "T" || text == "real") return call_array("attribute", text, {{given}, {}});
  if (text == "__class__") return type_value(given);
  PyObject* found = _PyType_Lookup(type_of_array(array), name);
  if (!found)
    raise(PyExc_AttributeError,
          fmt::format("'{}' object has no attribute '{}'", type_of_array(array)->tp_name, text));
  if (Py_TYPE(found) != &PyMethodDescr_Type && Py_TYPE(found) != &PyWrapperDescr_Type)
    give_up(Reason::attribute, "ndarray." + text);
  auto method = make<Method>();
  method->self = given;
  method->function = constant(found);
  return method;
}

V Tracer::call_numpy(const V& callee, Call& call, bool& known) {
  PyObject* object = callee->object.get();
  known = settings_.numpy != Numpy::never && of_numpy(object);
  if (!known) return nullptr;
  const auto found = functions().find(object);
  known = found != functions().end();
  if (!known) return nullptr;
  if (callee->source) trace_.sources.guard(callee->source, GuardKind::is, object);
  const std::string name = utf8(octavo::capture::attribute(found->second, "name").get());
  const bool tensor = !call.args.empty() && is_tensor(call.args[0]);
  if (tensor && call.args.size() == 1 && call.keywords.empty()) {
    if (name == "asarray") return array_of_tensor(real(call.args[0]));
    if (name == "array") return call_array_method(array_of_tensor(real(call.args[0])), "copy", {});
  }
  return call_array("function", name, call);
}

// tensor.numpy(): an array of the same memory.
V Tracer::array_of_tensor(const V& given) {
  const auto& from = static_cast<Tensor&>(*given);
  if (settings_.numpy == Numpy::never) give_up(Reason::tensor_to_python, "Tensor.numpy");
  if (from.meta.requires_grad() || !from.device.is_cpu() || !number_type(from.meta.scalar_type()))
    give_up(Reason::tensor_to_python, "Tensor.numpy of what has no array");
  guard_array_errors();
  for (const Dim& dim : from.dims) real(size(dim));
  const V made = call_tensor_method(given, interned("detach").get(), {});
  auto array = make<Array>();
  array->tensor = std::static_pointer_cast<Tensor>(made);
  array->tensor->dims.clear();
  shared_storages_.insert(array->tensor->meta.storage().unsafeGetStorageImpl());
  return array;
}

// torch.from_numpy(array): a tensor of the same memory.
V Tracer::tensor_of_array(const V& given) {
  const V value = real(given);
  const auto& array = static_cast<Array&>(*value);
  if (array.scalar || !array.writable) give_up(Reason::numpy, "torch.from_numpy of such an array");
  shared_storages_.insert(array.tensor->meta.storage().unsafeGetStorageImpl());
  return call_tensor_method(array.tensor, interned("detach").get(), {});
}

}  // namespace octavo::capture
