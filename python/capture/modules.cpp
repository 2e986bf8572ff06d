// Calls of torch.nn modules: inlined, or one node.
#include <fmt/format.h>

#include <functional>

#include "python_types.h"
#include "tracer.h"

namespace octavo::capture {

// ------------------------------------------------------------------------------------------

namespace {

// torch's own modules that compute one thing.
bool is_leaf(PyObject* module) {
  const std::string from =
      utf8(attribute(reinterpret_cast<PyObject*>(Py_TYPE(module)), "__module__").get());
  if (from.rfind("torch.nn.modules.", 0) != 0) return false;
  const std::string_view last = std::string_view(from).substr(from.rfind('.') + 1);
  for (const char* inlined : {"container", "module", "transformer", "lazy"})
    if (last == inlined) return false;
  if (std::string_view(Py_TYPE(module)->tp_name) == "MultiheadAttention") return false;
  return true;
}

// The graph runs before what the piece has written: a leaf would not see it.
bool is_changed(const Trace& trace, const V& module) {
  for (const Write& write : trace.writes)
    if (write.object->object.get() == module->object.get()) return true;
  for (const V& container : trace.changed)
    for (const Source* source = container->source; source; source = source->base)
      if (source == module->source) return true;
  return false;
}

}  // namespace

V Tracer::call_module(const V& module, Call call, bool& known) {
  PyObject* object = module->object.get();
  known = false;
  if (!module->source) return nullptr;
  for (const char* hooks :
       {"_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"}) {
    const Ref key = interned(hooks);
    PyObject* own = own_attribute(object, key.get());
    if (!own || !PyDict_Check(own) || PyDict_GET_SIZE(own) > 0) return nullptr;
    trace_.sources.guard(trace_.sources.of(SourceKind::attribute, module->source, key.get()),
                         GuardKind::length, nullptr, 0);
  }
  for (const char* hooks : {"_global_forward_hooks", "_global_forward_pre_hooks",
                            "_global_backward_hooks", "_global_backward_pre_hooks"}) {
    PyObject* held = well_known("torch.nn.modules.module", hooks);
    if (PyDict_GET_SIZE(held) > 0) return nullptr;
    trace_.sources.guard(trace_.sources.fixed(held), GuardKind::length, nullptr, 0);
  }
  static PyObject* compiled = interned("_compiled_call_impl").release();
  if (own_attribute(object, compiled)) return nullptr;
  static PyObject* call_name = interned("__call__").release();
  static PyObject* plain_call = _PyType_Lookup(module_type(), call_name);
  if (lookup(Py_TYPE(object), call_name) != plain_call) return nullptr;
  known = true;
  static PyObject* forward = interned("forward").release();
  const V method = attribute(module, forward);
  if (settings_.inline_modules || quiet_ || !is_leaf(object) || is_changed(trace_, module))
    return this->call(method, std::move(call));
  trace_.sources.guard(module->source, GuardKind::is, object);
  return call_leaf_module(module, call);
}

V Tracer::call_leaf_module(const V& module, Call& call) {
  static PyObject* forward = interned("forward").release();
  const size_t writes = trace_.writes.size(), changed = trace_.changed.size();
  const int tensor_writes = tensor_writes_;
  std::vector<Arg> args;
  std::vector<std::pair<Ref, Arg>> keywords;
  for (const V& arg : call.args) args.push_back(node_arg(arg));
  for (const auto& [name, value] : call.keywords) keywords.emplace_back(name, node_arg(value));
  V result;
  {
    struct Quiet {
      int& level;
      explicit Quiet(int& l) : level(l) { ++level; }
      ~Quiet() { --level; }
    } quiet(quiet_);
    result = real(this->call(attribute(module, forward), call));
  }
  if (trace_.writes.size() != writes || trace_.changed.size() != changed)
    give_up(Reason::side_effect, "a module that changes itself: " + describe(module));
  Node* node =
      trace_.graph.add(Node::Op::call_module, text(module_key(*module->source, code_.object())));
  node->attribute = module->object;
  node->args = std::move(args);
  node->kwargs = std::move(keywords);
  node->line = frame_->code->line(frame_->at);
  node->file = frame_->code->object()->co_filename;
  // A module in training mode may change its buffers.
  node->impure = tensor_writes_ != tensor_writes;
  const std::function<void(const V&, Node*)> give = [&](const V& given, Node* from) {
    const V value = real(given);
    if (value->kind == Kind::tensor) {
      auto& tensor = static_cast<Tensor&>(*value);
      tensor.node = from;
      from->meta = tensor.meta;
    } else if (value->kind == Kind::sequence) {
      const auto& items = static_cast<Sequence&>(*value).items;
      for (size_t n = 0; n < items.size(); ++n) {
        if (!holds_tensor(items[n])) continue;
        Node* part = trace_.graph.add(Node::Op::call_function,
                                      Ref::borrow(well_known("operator", "getitem")));
        part->part = true;
        part->args = {Arg::of(from), Arg::of(Ref::checked(PyLong_FromSize_t(n)))};
        give(items[n], part);
      }
    }
  };
  give(result, node);
  return result;
}

}  // namespace octavo::capture
