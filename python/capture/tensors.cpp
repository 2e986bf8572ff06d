// Operators on tensors: what becomes a node, and what its result looks like.
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_strided.h>
#include <fmt/format.h>
#include <torch/csrc/Device.h>
#include <torch/csrc/Size.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/utils/python_symnode.h>

#include <regex>
#include <unordered_set>

#include "arrays.h"
#include "dynamo_marks.h"
#include "known_calls.h"
#include "meta_scope.h"
#include "python_types.h"
#include "scoped.h"
#include "shape_rules.h"
#include "tensor_meta.h"
#include "tracer.h"
#include "vmap.h"

namespace octavo::capture {
namespace {

// Every function of these namespaces maps tensors to tensors without other effects.
const std::unordered_set<PyObject*>& recorded() {
  static const auto* set = [] {
    auto* all = new std::unordered_set<PyObject*>;
    const auto add = [&](PyObject* object) { all->insert(Py_NewRef(object)); };
    for (const char* name :
         {"_C._VariableFunctions", "_C._nn", "_C._fft", "_C._linalg", "_C._special"}) {
      PyObject* space = well_known("torch", name);
      const Ref names = Ref::checked(PyObject_Dir(space));
      for (Py_ssize_t n = 0; n < PyList_GET_SIZE(names.get()); ++n) {
        if (utf8(PyList_GET_ITEM(names.get(), n)).rfind("__", 0) == 0) continue;
        const Ref object = Ref::steal(PyObject_GetAttr(space, PyList_GET_ITEM(names.get(), n)));
        if (!object)
          PyErr_Clear();
        else if (PyCFunction_Check(object.get()))
          add(object.get());
      }
    }
    for (const char* module : {"torch.nn.functional", "torch.functional"}) {
      const Ref space = import(module);
      PyObject *key = nullptr, *value = nullptr;
      Py_ssize_t position = 0;
      while (PyDict_Next(PyModule_GetDict(space.get()), &position, &key, &value)) {
        if (!PyFunction_Check(value)) continue;
        const std::string from = utf8(attribute(value, "__module__").get());
        const std::string name = utf8(key);
        const bool here = from == module || from == "torch._jit_internal";
        if (here && name[0] != '_' && name != "boolean_dispatch" && name != "handle_torch_function")
          add(value);
      }
    }
    for (const char* name : {"_add_batch_dim", "_remove_batch_dim"})
      add(well_known("torch._functorch.predispatch", name));
    for (const char* name : {"from_numpy", "frombuffer", "get_device", "is_grad_enabled",
                             "is_inference_mode_enabled", "set_grad_enabled"}) {
      const Ref object = attribute(import("torch").get(), name);
      all->erase(object.get());
    }
    return all;
  }();
  return *set;
}

std::string input_key(const Source& source, PyCodeObject* code) {
  static const std::regex odd("[^a-zA-Z0-9]+");
  return std::regex_replace(source_name(source, code), odd, "_");
}

// A parameter or buffer that a module holds.
bool held_by_module(const Source* source) {
  if (!source || source->kind != SourceKind::dict_item || !source->base) return false;
  const Source* dict = source->base;
  if (dict->kind != SourceKind::attribute) return false;
  const std::string name = utf8(dict->key.get());
  return name == "_parameters" || name == "_buffers";
}

Ref meta_device() {
  static PyObject* device = [] {
    return Ref::checked(PyObject_CallFunction(well_known("torch", "device"), "s", "meta"))
        .release();
  }();
  return Ref::borrow(device);
}

bool reshapes_in_place(const std::string& method) {
  static const auto* all = new std::unordered_set<std::string>{
      "t_", "transpose_", "swapaxes_", "swapdims_", "squeeze_", "unsqueeze_", "as_strided_"};
  return all->count(method) > 0;
}

}  // namespace

std::string module_key(const Source& source, PyCodeObject* code) {
  std::string name = source_name(source, code);
  static const std::regex held(R"re(\._(modules|parameters|buffers)\['([^']*)'\])re");
  name = std::regex_replace(name, held, ".$2");
  static const std::regex index(R"re(\[(\d+)\])re"), odd("[^a-zA-Z0-9]");
  name = std::regex_replace(name, index, "_$1");
  return std::regex_replace(name, odd, "_");
}

bool Tracer::records(PyObject* callable) {
  if (recorded().count(callable)) return !is_pure(callable);
  static PyObject* packet = well_known("torch._ops", "OpOverloadPacket");
  static PyObject* overload = well_known("torch._ops", "OpOverload");
  auto* type = reinterpret_cast<PyObject*>(Py_TYPE(callable));
  if (type == packet || type == overload) return true;
  if (!PyFunction_Check(callable)) return false;
  static PyObject* marker = interned("_octavo_allowed_in_graph").release();
  return own_attribute(callable, marker) != nullptr || dynamo_allows(callable);
}

bool Tracer::holds_tensor(const V& given, int depth) {
  const V value = look(given);
  if (value->kind == Kind::tensor) return true;
  if (depth > 4) return false;
  if (value->kind == Kind::sequence)
    for (const V& item : static_cast<Sequence&>(*value).items)
      if (holds_tensor(item, depth + 1)) return true;
  if (value->kind == Kind::dict)
    for (const auto& [key, item] : static_cast<Dict&>(*value).items)
      if (item && holds_tensor(item, depth + 1)) return true;
  return false;
}

V Tracer::lift_tensor(PyObject* object, Source* source) {
  PyTypeObject* type = Py_TYPE(object);
  if (type != tensor_type() && type != parameter_type()) return nullptr;
  const at::Tensor& tensor = THPVariable_Unpack(object);
  if (!tensor.defined() || tensor.layout() != at::kStrided || tensor.is_nested() ||
      tensor.is_quantized() || tensor.is_neg() || tensor.is_conj() || !tensor.has_storage() ||
      !history_is_known(tensor))
    return nullptr;
  auto made = make<Tensor>();
  made->type = type;
  made->device = tensor.device();
  made->meta =
      at::detail::empty_strided_meta(tensor.sizes(), tensor.strides(), tensor.scalar_type());
  made->meta.unsafeGetTensorImpl()->set_storage_offset(tensor.storage_offset());
  if (tensor.requires_grad()) {
    if (tensor.is_leaf())
      made->meta.set_requires_grad(true);
    else
      set_made_here(made->meta);
  }
  made->object = Ref::borrow(object);
  if (source) {
    auto guard = std::make_unique<TensorGuard>(
        TensorGuard{tensor.scalar_type(),
                    tensor.device(),
                    tensor.requires_grad(),
                    tensor.unsafeGetTensorImpl()->key_set().raw_repr(),
                    tensor.sizes().vec(),
                    tensor.strides().vec(),
                    type,
                    {}});
    // Parameters, buffers and what else a module holds keep their sizes.
    if (type == tensor_type() && !held_by_module(source))
      dynamic_sizes(object, tensor, source, *guard, made->dims);
    source->guards.push_back({GuardKind::tensor, {}, {}, 0, std::move(guard)});
    trace_.sources.tensor(source);
    if (held_by_module(source) && !settings_.inline_modules) {
      made->attribute_of_module = true;
      made->module_path = text(module_key(*source, code_.object()));
    }
  }
  by_meta_[made->meta.unsafeGetTensorImpl()] = made;
  return made;
}

Node* Tracer::node_of(const std::shared_ptr<Tensor>& tensor) {
  if (tensor->node) return tensor->node;
  if (!tensor->source) give_up(Reason::not_rebuilt, "a tensor made inside a module");
  if (tensor->attribute_of_module) {
    // Its identity is what the graph holds.
    trace_.sources.guard(tensor->source, GuardKind::is, tensor->object.get());
    tensor->node = trace_.graph.add(Node::Op::get_attr, tensor->module_path);
    tensor->node->attribute = tensor->object;
  } else {
    place_symbols(*tensor);
    tensor->node =
        trace_.graph.add(Node::Op::placeholder, text(input_key(*tensor->source, code_.object())));
    tensor->node->source = tensor->source;
    tensor->node->array = tensor->of_array;
    tensor->source->wanted = true;
    trace_.graph.placeholders.push_back(tensor->node);
  }
  tensor->node->meta = tensor->meta;
  tensor->node->device = tensor->device;
  return tensor->node;
}

Ref Tracer::meta_object(const V& given) {
  const V value = symbolic_ ? look(given) : real(given);
  switch (value->kind) {
    case Kind::symbol: {
      Number hint;
      return torch_number(expression(value, hint));
    }
    case Kind::tensor: {
      const auto tensor = std::static_pointer_cast<Tensor>(value);
      return Ref::checked(THPVariable_Wrap(symbolic_ ? symbolic(tensor) : tensor->meta));
    }
    case Kind::constant:
      return THPDevice_Check(value->object.get()) ? meta_device() : value->object;
    case Kind::sequence: {
      const auto& sequence = static_cast<Sequence&>(*value);
      const auto size = static_cast<Py_ssize_t>(sequence.items.size());
      if (sequence.is_deque()) break;
      if (sequence.is_list()) {
        Ref list = Ref::checked(PyList_New(size));
        for (Py_ssize_t n = 0; n < size; ++n)
          PyList_SET_ITEM(list.get(), n,
                          meta_object(sequence.items[static_cast<size_t>(n)]).release());
        return list;
      }
      Ref tuple = Ref::checked(PyTuple_New(size));
      for (Py_ssize_t n = 0; n < size; ++n)
        PyTuple_SET_ITEM(tuple.get(), n,
                         meta_object(sequence.items[static_cast<size_t>(n)]).release());
      return sequence.type == &PyTuple_Type ? tuple : make_named_tuple(sequence.type, tuple);
    }
    case Kind::slice: {
      const auto& slice = static_cast<Slice&>(*value);
      const Ref start = meta_object(slice.start), stop = meta_object(slice.stop),
                step = meta_object(slice.step);
      return Ref::checked(PySlice_New(start.get(), stop.get(), step.get()));
    }
    case Kind::dict: {
      const auto& dict = static_cast<Dict&>(*value);
      if (dict.is_set()) break;
      Ref made = Ref::checked(PyDict_New());
      for (const auto& [key, item] : dict.items)
        check(PyDict_SetItem(made.get(), meta_object(key).get(), meta_object(item).get()));
      return made;
    }
    case Kind::view:
    case Kind::iterator:
      return meta_object(list(items_of(value)));
    default:
      break;
  }
  if (Ref constant = python_constant(value)) return constant;
  give_up(Reason::unknown_object, "an operator's argument that is " + describe(value));
}

Arg Tracer::node_arg(const V& given) {
  const V value = look(given);
  switch (value->kind) {
    case Kind::symbol: {
      Number hint;
      const Expr expr = expression(value, hint);
      return expr->op == Expression::Op::constant ? Arg::of(specialise(value)->object)
                                                  : Arg::of(node_of(expr));
    }
    case Kind::tensor:
      return Arg::of(node_of(std::static_pointer_cast<Tensor>(value)));
    case Kind::array:
      return Arg::of(node_of(static_cast<Array&>(*value).tensor));
    case Kind::constant:
      if (is_array_number(value->object.get()))
        return Arg::of(Ref::checked(PyObject_CallMethod(value->object.get(), "item", nullptr)));
      return Arg::of(value->object);
    case Kind::sequence: {
      const auto& sequence = static_cast<Sequence&>(*value);
      Arg arg;
      arg.kind = sequence.is_list() ? Arg::Kind::list : Arg::Kind::tuple;
      if (!sequence.is_list() && sequence.type != &PyTuple_Type &&
          object_size_type(sequence.type) == &PyTuple_Type)
        arg.object = Ref::borrow(reinterpret_cast<PyObject*>(sequence.type));
      for (const V& item : sequence.items) arg.items.push_back(node_arg(item));
      return arg;
    }
    case Kind::slice: {
      const auto& slice = static_cast<Slice&>(*value);
      Arg arg;
      arg.kind = Arg::Kind::slice;
      arg.items = {node_arg(slice.start), node_arg(slice.stop), node_arg(slice.step)};
      return arg;
    }
    case Kind::dict: {
      Arg arg;
      arg.kind = Arg::Kind::dict;
      for (const auto& [key, item] : static_cast<Dict&>(*value).items) {
        arg.keys.push_back(python_constant(key));
        if (!arg.keys.back()) give_up(Reason::unknown_object, "an operator's argument");
        arg.items.push_back(node_arg(item));
      }
      return arg;
    }
    case Kind::view:
    case Kind::iterator:
      return node_arg(list(items_of(value)));
    default:
      return Arg::of(meta_object(value).get() == meta_device().get() ? value->object
                                                                     : meta_object(value));
  }
}

V Tracer::wrap_tensor(PyObject* result, Node* node) {
  const at::Tensor& meta = THPVariable_Unpack(result);
  if (!meta.is_meta()) give_up(Reason::shape_rule, "a result that is not symbolic");
  const auto known = by_meta_.find(meta.unsafeGetTensorImpl());
  if (known != by_meta_.end())
    if (auto same = known->second.lock()) {
      if (node) same->node = node;
      return same;
    }
  auto made = make<Tensor>();
  made->type = tensor_type();
  if (symbolic_)
    take_sizes(result, *made);
  else
    made->meta = meta;
  made->node = node;
  if (node) node->meta = made->meta;
  by_meta_[meta.unsafeGetTensorImpl()] = made;
  return made;
}

V Tracer::wrap_result(PyObject* result, Node* node, bool& made) {
  if (is_tensor_object(result)) {
    made = true;
    return wrap_tensor(result, node);
  }
  if (PyTuple_Check(result) || PyList_CheckExact(result)) {
    std::vector<V> items;
    for (Py_ssize_t n = 0; n < PySequence_Fast_GET_SIZE(result); ++n) {
      PyObject* item = PySequence_Fast_GET_ITEM(result, n);
      Node* part = nullptr;
      const bool tensors = is_tensor_object(item) || PyTuple_Check(item) || PyList_Check(item);
      if (node && tensors) {
        part = trace_.graph.add(Node::Op::call_function,
                                Ref::borrow(well_known("operator", "getitem")));
        part->part = true;
        part->args = {Arg::of(node), Arg::of(Ref::checked(PyLong_FromSsize_t(n)))};
        part->file = node->file;
        part->line = node->line;
      }
      bool inner = false;
      items.push_back(wrap_result(item, part, inner));
      if (part && !inner) trace_.graph.drop_last();
      made = made || inner;
    }
    return sequence(Py_TYPE(result), std::move(items));
  }
  if (symbolic_ && torch::is_symint(result)) return number_of_torch(result);
  if (PyDict_CheckExact(result)) give_up(Reason::shape_rule, "an operator that gives a dict");
  const V value = constant(result);
  if (value->kind != Kind::constant)
    give_up(Reason::shape_rule, "an operator that gives " + describe(value));
  return value;
}

Node* Tracer::add_node(Node::Op op, Ref target, const Call& call, bool impure) {
  std::vector<Arg> args;
  for (const V& arg : call.args) args.push_back(node_arg(arg));
  std::vector<std::pair<Ref, Arg>> keywords;
  for (const auto& [name, value] : call.keywords) keywords.emplace_back(name, node_arg(value));
  Node* node = trace_.graph.add(op, std::move(target));
  node->args = std::move(args);
  node->kwargs = std::move(keywords);
  node->impure = impure;
  node->line = frame_->code->line(frame_->at);
  node->file = frame_->code->object()->co_filename;
  return node;
}

namespace {

// torch._foreach_add_ and its kin.
bool writes_lists(PyObject* callable) {
  if (!PyCFunction_CheckExact(callable)) return false;
  const std::string_view name = reinterpret_cast<PyCFunctionObject*>(callable)->m_ml->ml_name;
  return name.rfind("_foreach_", 0) == 0 && name.back() == '_';
}

using Versions = std::vector<std::pair<at::Tensor, int64_t>>;

// The first `listed` are written one after another, and what lies in the memory of one reads what
// was just written; in the functional forms of such operators it would not.
bool share_memory(const Versions& tensors, size_t listed) {
  std::unordered_set<const c10::StorageImpl*> written;
  for (size_t n = 0; n < tensors.size(); ++n) {
    const c10::StorageImpl* storage = tensors[n].first.storage().unsafeGetStorageImpl();
    if (n < listed ? !written.insert(storage).second : written.count(storage) > 0) return true;
  }
  return false;
}

}  // namespace

// Runs the operator on meta tensors, and records the node if tensors come out or change.
V Tracer::record(Node::Op op, Ref target, const Call& call,
                 const std::function<Ref(PyObject*, PyObject*)>& meta, PyObject* callable) {
  for (const V& arg : call.args)
    if (holds_array(arg)) give_up(Reason::numpy, repr(target.get()) + " of an array");
  for (const auto& [name, arg] : call.keywords)
    if (holds_array(arg)) give_up(Reason::numpy, repr(target.get()) + " of an array");
  // Autocast looks at a tensor's device: meta tensors are not cast, and would give the wrong types.
  if (at::autocast::is_autocast_enabled(at::kCPU))
    for (const V& arg : call.args)
      if (holds_tensor(arg)) give_up(Reason::shape_rule, "an operator under autocast");
  // Within vmap torch's own rules know of the batch.
  if (!vmap_depth())
    if (const auto shape = shape_rule(*this, callable, callable ? "" : utf8(target.get()), call))
      return record_by_rule(op, std::move(target), call, *shape);
  const auto count = static_cast<Py_ssize_t>(call.args.size());
  bool tensors = false;
  bool with_symbols = false;
  for (const V& arg : call.args) with_symbols = with_symbols || holds_symbol(arg);
  for (const auto& [name, arg] : call.keywords) with_symbols = with_symbols || holds_symbol(arg);
  if (with_symbols && vmap_depth()) throw NoSymbols{};
  const Scoped<bool> with_torch_symbols(symbolic_, with_symbols);
  Versions versions;
  const std::function<void(const V&)> note = [&](const V& given) {
    const V value = look(given);
    if (value->kind == Kind::tensor) {
      tensors = true;
      const auto& held = std::static_pointer_cast<Tensor>(value);
      const at::Tensor& tensor = symbolic_ ? symbolic(held) : held->meta;
      versions.emplace_back(tensor, version_of(tensor));
    } else if (value->kind == Kind::sequence) {
      for (const V& item : static_cast<Sequence&>(*value).items) note(item);
    } else if (value->kind == Kind::dict) {
      for (const auto& [key, item] : static_cast<Dict&>(*value).items)
        if (item) note(item);
    }
  };
  // What is written may be given other sizes: a matter of numbers.
  if (op == Node::Op::call_method && reshapes_in_place(utf8(target.get()))) {
    if (symbolic_) throw NoSymbols{};
    // A gradient that is set is of the shape from before.
    PyObject* turned = real(call.args.at(0))->object.get();
    if (turned && written_.count({turned, interned("grad").get()}))
      give_up(Reason::side_effect, "another shape for a tensor whose grad is set");
  }
  const bool writes_list = callable && writes_lists(callable);
  // torch's fake tensors do not count the writes of these.
  if (symbolic_ && writes_list) throw NoSymbols{};
  if (symbolic_)
    for (const auto& [name, value] : call.keywords)
      if (PyUnicode_CompareWithASCIIString(name.get(), "out") == 0 && !is_none(value))
        throw NoSymbols{};
  // An iterator is read once.
  Call read = call;
  const auto settle = [&](V& value) {
    const V r = look(value);
    if (r->kind == Kind::iterator || r->kind == Kind::view) value = list(items_of(r));
  };
  for (V& arg : read.args) settle(arg);
  for (auto& [name, value] : read.keywords) settle(value);
  for (const V& arg : read.args) note(arg);
  for (const auto& [name, value] : read.keywords) note(value);
  if (writes_list &&
      (read.args.empty() || share_memory(versions, items_of(read.args.front()).size())))
    give_up(Reason::side_effect, "a list whose tensors share memory is written");
  const auto call_rule = [&] {
    const Ref args = Ref::checked(PyTuple_New(count));
    for (Py_ssize_t n = 0; n < count; ++n)
      PyTuple_SET_ITEM(args.get(), n, meta_object(read.args[static_cast<size_t>(n)]).release());
    const Ref keywords = Ref::checked(PyDict_New());
    for (const auto& [name, value] : read.keywords) {
      const bool device = PyUnicode_CompareWithASCIIString(name.get(), "device") == 0;
      Ref given = meta_object(value);
      if (device && given.get() != Py_None) {
        const Ref wanted = python_constant(value);
        const std::string shown = utf8(Ref::checked(PyObject_Str(wanted.get())).get());
        if (shown.rfind("cpu", 0) != 0) give_up(Reason::shape_rule, "device " + shown);
        given = meta_device();
      }
      if (device && given.get() == Py_None) given = meta_device();
      check(PyDict_SetItem(keywords.get(), name.get(), given.get()));
    }
    if (!tensors && op == Node::Op::call_function)
      check(PyDict_SetItemString(keywords.get(), "device", meta_device().get()));
    const at::AutoGradMode grad(trace_.grad_enabled);
    // Sizes that are open are a matter of torch's fake tensors.
    std::optional<MetaScope> scope;
    if (!symbolic_) scope.emplace();
    const Ref mode = symbolic_ ? octavo::capture::attribute(torch_symbols().get(), "mode") : Ref();
    if (mode) Ref::checked(PyObject_CallMethod(mode.get(), "__enter__", nullptr));
    Ref made = meta(args.get(), keywords.get());
    trace_.python_rules += scope ? scope->end() : 1;
    if (mode) {
      const SavedError saved;
      Ref::checked(PyObject_CallMethod(mode.get(), "__exit__", "OOO", Py_None, Py_None, Py_None));
    }
    return made;
  };

  const Ref result = call_rule();
  if (!result) {
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) throw PythonError{};
    const std::string said = take_error();
    if (symbolic_) {
      // Some rules know sizes as numbers alone. What is refused even so ends the piece.
      const Scoped<bool> plain(symbolic_, false);
      if (call_rule()) throw NoSymbols{};
      PyErr_Clear();
    }
    give_up(Reason::shape_rule, fmt::format("{}: {}", repr(target.get()), said));
  }
  bool impure = false;
  const bool wants = PyUnicode_Check(target.get()) && utf8(target.get()) == "requires_grad_";
  for (const auto& [tensor, version] : versions)
    if (wants || is_written_since(tensor, version)) {
      impure = true;
      writes_into(tensor);
      if (callable != well_known("operator", "setitem"))
        for (const auto& [other, unused] : versions)
          if (read_while_written(tensor, other)) {
            if (symbolic_) throw NoSymbols{};
            give_up(Reason::side_effect, "an operand that is part of what is written");
          }
    }
  if (symbolic_) {
    take_conditions();
    if (impure) match_gradients();
  }

  Node* node = nullptr;
  if (!quiet_) {
    node = add_node(op, std::move(target), read, impure);
  }
  bool made = false;
  V value;
  if (result.get() == Py_None) {
    value = none();
  } else {
    value = wrap_result(result.get(), node, made);
  }
  if (node && !made && !impure) trace_.graph.drop_last();
  return value;
}

}  // namespace octavo::capture
