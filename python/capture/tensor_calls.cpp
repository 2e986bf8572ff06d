// Calls and attributes of tensors: what Python sees of them, and what is recorded.
#include <fmt/format.h>
#include <torch/csrc/Size.h>
#include <torch/csrc/autograd/python_variable.h>

#include <unordered_set>

#include "known_calls.h"
#include "python_types.h"
#include "tracer.h"

namespace octavo::capture {
namespace {

const std::unordered_set<std::string>& leaves_for_python() {
  static const auto* set = new std::unordered_set<std::string>{
      "item",         "tolist",      "numpy",     "__bool__",   "__float__", "__int__",
      "__index__",    "__complex__", "__array__", "__format__", "__repr__",  "__str__",
      "__contains__", "is_nonzero",  "equal",     "allclose"};
  return *set;
}

const std::unordered_set<std::string>& has_effects() {
  static const auto* set = new std::unordered_set<std::string>{
      "is_inference", "register_hook",   "register_post_accumulate_grad_hook",
      "retain_grad",  "share_memory_",   "data_ptr",
      "storage",      "untyped_storage", "_typed_storage",
      "set_",         "pin_memory",      "cuda",
      "__deepcopy__", "__reduce_ex__",   "__setstate__",
      "is_shared",    "is_pinned",       "record_stream",
      "rename_",      "__dlpack__",      "module_load",
      "as_subclass",  "to_sparse",       "swap",
      "resize_",      "resize_as_",      "__hash__",
      "_version"};
  return *set;
}

}  // namespace

V Tracer::call_tensor_function(const V& callee, const Call& call) {
  PyObject* function = callee->object.get();
  const Ref name = Ref::steal(PyObject_GetAttrString(function, "__name__"));
  if (!name) PyErr_Clear();
  const std::string text = utf8(name.get());
  if (leaves_for_python().count(text)) give_up(Reason::tensor_to_python, "torch." + text);
  if (text == "is_complex" && call.args.size() == 1 && is_tensor(call.args[0]))
    return boolean(static_cast<Tensor&>(*real(call.args[0])).meta.is_complex());
  return record(
      Node::Op::call_function, Ref::borrow(function), call,
      [&](PyObject* args, PyObject* keywords) {
        return Ref::steal(
            PyObject_Call(function, args, PyDict_GET_SIZE(keywords) ? keywords : nullptr));
      },
      function);
}

V Tracer::call_tensor_method(const V& self, PyObject* name, const Call& call) {
  const std::string text = utf8(name);
  if (text == "numpy" && call.args.empty() && call.keywords.empty()) return array_of_tensor(self);
  if (leaves_for_python().count(text)) give_up(Reason::tensor_to_python, "Tensor." + text);
  if (text == "backward") give_up(Reason::autograd, "Tensor.backward");
  if (has_effects().count(text)) give_up(Reason::side_effect, "Tensor." + text);
  if (text == "__len__") return this->call(constant(well_known("builtins", "len")), {{self}, {}});
  if (text == "__iter__") return iterate(self);
  const auto& tensor = static_cast<Tensor&>(*self);
  if (!tensor.dims.empty() && call.keywords.empty()) {
    if (text == "size" && call.args.empty()) return sizes_of(tensor);
    if (text == "size" && call.args.size() == 1) {
      const int64_t rank = tensor.meta.dim(), dim = index(call.args[0]);
      if (dim >= -rank && dim < rank)
        return size(tensor.dims[static_cast<size_t>(dim < 0 ? dim + rank : dim)]);
    }
    if ((text == "numel" || text == "nelement") && call.args.empty()) {
      Dim all = 1;
      for (const Dim& dim : tensor.dims) all = all * dim;
      return size(all);
    }
  }
  if (text == "cpu" && tensor.device.is_cpu()) return self;
  if (text == "get_device") return integer(-1);
  if (text == "is_floating_point") return boolean(at::isFloatingType(tensor.meta.scalar_type()));
  if (text == "dim") return integer(tensor.meta.dim());
  if (text == "is_complex") return boolean(tensor.meta.is_complex());
  if (text == "conj" && !tensor.meta.is_complex()) return self;
  if (text == "type" || text == "new") return legacy_method(self, name, call);
  Call with_self = call;
  with_self.args.insert(with_self.args.begin(), self);
  if (text == "to" || text == "new_tensor")
    for (size_t n = 1; n < with_self.args.size(); ++n) {
      const V arg = look(with_self.args[n]);
      if (arg->kind == Kind::constant && PyUnicode_Check(arg->object.get()))
        with_self.args[n] = constant(
            Ref::checked(PyObject_CallOneArg(well_known("torch", "device"), arg->object.get())));
    }
  return record(
      Node::Op::call_method, Ref::borrow(name), with_self,
      [&](PyObject* args, PyObject* keywords) {
        PyObject* first = PyTuple_GET_ITEM(args, 0);
        const Ref bound = Ref::steal(PyObject_GetAttr(first, name));
        if (!bound) return Ref();
        const Ref rest = Ref::checked(PyTuple_GetSlice(args, 1, PyTuple_GET_SIZE(args)));
        return Ref::steal(
            PyObject_Call(bound.get(), rest.get(), PyDict_GET_SIZE(keywords) ? keywords : nullptr));
      },
      nullptr);
}

V Tracer::sizes_of(const Tensor& tensor) {
  std::vector<V> sizes;
  for (const Dim& dim : tensor.sizes()) sizes.push_back(size(dim));
  return sequence(&THPSizeType, std::move(sizes));
}

V Tracer::tensor_attribute(const std::shared_ptr<Tensor>& tensor, PyObject* name) {
  const std::string text = utf8(name);
  if (text == "shape") return sizes_of(*tensor);
  if (text == "device") {
    return constant(Ref::checked(
        PyObject_CallFunction(well_known("torch", "device"), "s", tensor->device.str().c_str())));
  }
  if (text == "is_meta") return boolean(tensor->device.is_meta());
  if (text == "is_cpu") return boolean(tensor->device.is_cpu());
  if (text == "is_cuda") return boolean(tensor->device.is_cuda());
  if (text == "__class__") return constant(reinterpret_cast<PyObject*>(tensor->type));
  if (text == "grad") {
    // Asked for a graph's result that has a history, torch warns.
    if (!tensor->source && !tensor->meta.requires_grad()) return none();
    if (!tensor->source) give_up(Reason::attribute, "the grad of a tensor that the piece made");
    const auto written = written_.find({tensor->object.get(), name});
    if (written != written_.end()) return trace_.writes[written->second].value;
    const at::Tensor grad = THPVariable_Unpack(tensor->object.get()).grad();
    if (!grad.defined()) {
      trace_.sources.guard(tensor->source, GuardKind::not_tensor_grad);
      return none();
    }
    const Ref wrapped = Ref::checked(THPVariable_Wrap(grad));
    keep_.push_back(wrapped);
    return lazy(wrapped.get(), trace_.sources.of(SourceKind::tensor_grad, tensor->source));
  }
  if (text == "grad_fn" || text == "_version" || text == "_base" || text == "_backward_hooks" ||
      text == "volatile" || text == "__dict__")
    give_up(Reason::attribute, "Tensor." + text);
  PyObject* found = _PyType_Lookup(tensor->type, name);
  if (!found) {
    if (tensor->source && tensor->object) {
      if (PyObject* own = own_attribute(tensor->object.get(), name))
        return loaded(own, trace_.sources.of(SourceKind::attribute, tensor->source, name));
      trace_.sources.guard(tensor->source, GuardKind::lacks_attribute, name);
    }
    raise(PyExc_AttributeError, fmt::format("'Tensor' object has no attribute '{}'", text));
  }
  if (PyFunction_Check(found) || Py_TYPE(found) == &PyMethodDescr_Type ||
      Py_TYPE(found) == &PyWrapperDescr_Type) {
    auto method = make<Method>();
    method->self = tensor;
    method->function = constant(found);
    return method;
  }
  const Ref key = Ref::borrow(name);
  return record(
      Node::Op::call_function, Ref::borrow(well_known("builtins", "getattr")),
      {{tensor, constant(key)}, {}},
      [&](PyObject* args, PyObject*) {
        return Ref::steal(PyObject_GetAttr(PyTuple_GET_ITEM(args, 0), name));
      },
      nullptr);
}

}  // namespace octavo::capture
