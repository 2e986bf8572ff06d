#include "trace.h"

#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <torch/library.h>

#include <atomic>
#include <string_view>

#include "foreach.h"
#include "meta.h"

namespace octavo::aten {
namespace {

using torch::jit::Stack;

thread_local Tracing* tracing = nullptr;

// What a traced tensor carries; copies of the tensor share it.
struct Traced : c10::BackendMeta {
  Traced(std::uint64_t s, ValueId v, at::Tensor t) : serial(s), value(v), twin(std::move(t)) {}
  std::uint64_t serial;  // of the tracing: numbers of another one mean nothing
  ValueId value;
  at::Tensor twin;  // the same on the meta device, for shape rules
};

Traced* traced_of(const at::Tensor& tensor) {
  c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  return impl->is_fake() ? dynamic_cast<Traced*>(impl->get_backend_meta()) : nullptr;
}

at::Tensor meta_like(const at::Tensor& tensor) {
  at::Tensor twin(
      at::detail::empty_strided_meta(tensor.sizes(), tensor.strides(), tensor.scalar_type()));
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number())
    twin.unsafeGetTensorImpl()->set_wrapped_number(true);
  return twin;
}

template <class F>
void each_tensor(const c10::IValue& value, const F& visit) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) visit(value.toTensor());
  } else if (value.isList()) {
    for (const c10::IValue& item : value.toListRef()) each_tensor(item, visit);
  }
}

// The value with each tensor replaced, undefined ones kept.
template <class F>
c10::IValue with_tensors(const c10::IValue& value, const F& make) {
  if (value.isTensor())
    return value.toTensor().defined() ? c10::IValue(make(value.toTensor())) : value;
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor& item : value.toTensorVector())
      list.push_back(item.defined() ? make(item) : item);
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> list;
    for (const std::optional<at::Tensor>& item : value.toOptionalTensorVector())
      list.push_back(item && item->defined() ? std::optional(make(*item)) : std::nullopt);
    return list;
  }
  return value;
}

bool holds_tensors(const c10::IValue& value) {
  return value.isTensor() || value.isTensorList() || value.isOptionalTensorList();
}

// Reads values of tensors, which a traced tensor does not have.
bool reads_data(std::string_view name) {
  return name == "aten::_local_scalar_dense" || name == "aten::equal" ||
         name == "aten::is_nonzero" || name == "aten::item";
}

// Gives its operand as it is; in a program without writes there is nothing to do.
bool is_identity(std::string_view name) {
  return name == "aten::detach" || name == "aten::alias" || name == "aten::lift_fresh" ||
         name == "aten::lift";
}

void record_boxed(const c10::OperatorHandle& op, Stack* stack) {
  if (Shaping::active()) return shape_only(op, *stack);
  if (!tracing)
    throw Untraceable(op.operator_name().name + ": a traced tensor outside its tracing");
  tracing->record(op, *stack);
}

}  // namespace

Tracing::Tracing()
    : serial_([] {
        static std::atomic<std::uint64_t> next{0};
        return ++next;
      }()),
      outer_(std::exchange(tracing, this)),
      include_(c10::DispatchKey::Fake) {}

Tracing::~Tracing() { tracing = outer_; }

Tracing* Tracing::current() { return tracing; }

ValueId Tracing::add_value(const at::Tensor& like) {
  graph_.values.push_back({like.scalar_type(), like.sizes().vec(), like.strides().vec()});
  return static_cast<ValueId>(graph_.values.size() - 1);
}

at::Tensor Tracing::traced(at::Tensor twin, ValueId value) {
  c10::TensorImpl* from = twin.unsafeGetTensorImpl();
  at::Tensor tensor(from->shallow_copy_and_detach(c10::VariableVersion(0),
                                                  /*allow_tensor_metadata_change=*/true));
  c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  if (impl->is_wrapped_number()) impl->set_wrapped_number(false);
  impl->set_fake_device(c10::Device(c10::kCPU));
  impl->set_backend_meta(c10::make_intrusive<Traced>(serial_, value, std::move(twin)));
  return tensor;
}

at::Tensor Tracing::input(const at::Tensor& example) {
  if (!example.device().is_cpu() || example.layout() != c10::kStrided || example.is_quantized())
    throw Untraceable("an input that is no dense CPU tensor");
  if (example.is_conj() || example.is_neg() || example.is_sparse() || example.is_nested())
    throw Untraceable("an input with conjugate or negative bit");
  const c10::impl::ExcludeDispatchKeyGuard below(c10::DispatchKeySet(
      {c10::DispatchKey::Fake, c10::DispatchKey::Functionalize, c10::DispatchKey::Python}));
  at::Tensor twin = meta_like(example);
  twin.unsafeGetTensorImpl()->set_storage_offset(example.storage_offset());
  const ValueId value = add_value(twin);
  graph_.inputs.push_back(value);
  return traced(std::move(twin), value);
}

ValueId Tracing::value(const at::Tensor& tensor) {
  if (const Traced* known = traced_of(tensor)) {
    if (known->serial != serial_) throw Untraceable("a tensor of another tracing");
    return known->value;
  }
  if (tensor.is_meta()) throw Untraceable("a tensor on the meta device");
  if (!tensor.device().is_cpu()) throw Untraceable("a tensor that is not on the CPU");
  if (tensor.requires_grad()) throw Untraceable("a parameter that is no input of the graph");
  const auto [at, fresh] = constants_.try_emplace(tensor.unsafeGetTensorImpl(), 0);
  if (fresh) {
    at->second = add_value(tensor);
    graph_.constants.emplace_back(at->second, tensor);  // which keeps the address taken
  }
  return at->second;
}

// The running statistics are written though the schema does not say so: the functional form gives
// the new ones, and the traced tensors stand for them from here on.
bool Tracing::record_batch_norm(const c10::OperatorHandle& op, Stack& stack) {
  static const auto functional = c10::Dispatcher::singleton().findSchemaOrThrow(
      "aten::_native_batch_norm_legit_functional", "");
  const std::string& name = op.operator_name().name;
  const size_t first = stack.size() - op.schema().arguments().size();
  if (name == "aten::native_batch_norm_backward") {
    // In training the kernel does not read the running statistics, and by now they are changed;
    // else it does not read those of the batch, which are of another size than meta says.
    const size_t unread = first + (stack[first + 7].toBool() ? 3 : 5);
    stack[unread] = stack[unread + 1] = at::Tensor();
    return false;
  }
  // torch's kernels find it, torch's meta kernels do not.
  if (name.find("batch_norm") != std::string::npos && stack[first].isTensor() &&
      stack[first].toTensor().dim() < 2)
    throw Untraceable("batch_norm of a tensor without channels");
  if (name != "aten::native_batch_norm" || !stack[first + 5].toBool()) return false;
  const c10::IValue mean = stack[first + 3], var = stack[first + 4];
  if (!mean.isTensor() || !mean.toTensor().defined()) return false;
  call(functional, stack);
  for (const at::Tensor& statistic : {var.toTensor(), mean.toTensor()}) {
    const at::Tensor now = torch::jit::pop(stack).toTensor();
    if (!traced_of(statistic)) throw Untraceable("batch_norm's running statistics are constants");
    statistic.unsafeGetTensorImpl()->set_backend_meta(
        now.unsafeGetTensorImpl()->get_backend_meta_intrusive_ptr());
  }
  return true;
}

void Tracing::record(const c10::OperatorHandle& op, Stack& stack) {
  const c10::impl::ExcludeDispatchKeyGuard below(
      c10::DispatchKeySet(
          {c10::DispatchKey::Fake, c10::DispatchKey::Functionalize, c10::DispatchKey::Python}) |
      c10::autograd_dispatch_keyset_with_ADInplaceOrView);
  const std::string& name = op.operator_name().name;
  const size_t first = stack.size() - op.schema().arguments().size();
  if (op.schema().is_mutable()) {
    // Functionalisation tries an operator that writes on plain meta tensors first; its functional
    // form finds the same errors.
    bool only_meta = true;
    for (size_t n = first; n < stack.size(); ++n)
      each_tensor(stack[n], [&](const at::Tensor& t) {
        only_meta = only_meta && !traced_of(t) &&
                    (t.is_meta() || t.unsafeGetTensorImpl()->is_wrapped_number());
      });
    if (!only_meta) throw Untraceable(name + ": it writes, and has no functional form");
    const c10::IValue self = stack[first];
    tried_.reset();
    if (self.isTensor() && self.toTensor().is_meta()) tried_ = Tried{op, self.toTensor()};
    stack.resize(first);
    stack.push_back(self);
    return;
  }
  if (is_identity(name)) {
    if (!traced_of(stack[first].toTensor())) value(stack[first].toTensor());
    stack.resize(first + 1);
    return;
  }
  if (reads_data(name)) throw Untraceable(name + " reads values");
  if (name.rfind("aten::", 0) == 0 && record_batch_norm(op, stack)) return;
  if (const Foreach* each = foreach_of(op)) return call_each(*each, op, stack);
  call(op, stack);
}

void Tracing::call_each(const Foreach& each, const c10::OperatorHandle& op, Stack& stack) {
  const size_t first = stack.size() - op.schema().arguments().size();
  const size_t count = stack[first + each.list].toListRef().size();
  c10::List<at::Tensor> made;
  made.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    Stack arguments = each.element(&stack[first], i);
    call(each.plain, arguments);
    made.push_back(torch::jit::pop(arguments).toTensor());
  }
  stack.resize(first);
  stack.emplace_back(std::move(made));
}

// The functional form of an operator in place made `made`, whose strides become the written
// tensor's.
void Tracing::lay_out(Node& node, at::Tensor& made) {
  const Tried tried = *std::exchange(tried_, std::nullopt);
  const at::IntArrayRef strides = tried.written.strides();
  const auto* given = std::get_if<ValueId>(&node.arguments[0]);
  if (!given) return;
  const ValueInfo& self = graph_.values[static_cast<std::size_t>(*given)];
  if (made.scalar_type() != self.dtype || made.sizes() != self.sizes || made.numel() == 0) return;
  const bool random = is_random(node.op), same = made.strides() == strides;
  if (random && relaid_.count(*given) > 0)
    throw Untraceable("random numbers for part of a tensor that was written before");
  const bool dense = tried.written.is_non_overlapping_and_dense();
  if (random || (dense && !same)) node.in_place = InPlace{tried.op, strides.vec()};
  if (same) return;
  if (dense)
    made = made.as_strided(made.sizes(), strides);
  else
    relaid_.insert(static_cast<ValueId>(graph_.values.size()));  // what `made` becomes
}

void Tracing::call(const c10::OperatorHandle& op, Stack& stack) {
  const auto& parameters = op.schema().arguments();
  const size_t first = stack.size() - parameters.size();
  Node node{op, {}, {}};
  node.arguments.reserve(parameters.size());
  for (size_t n = first; n < stack.size(); ++n) {
    c10::IValue& argument = stack[n];
    if (argument.isTensor() && argument.toTensor().defined()) {
      node.arguments.emplace_back(value(argument.toTensor()));
    } else if (argument.isTensorList() || argument.isOptionalTensorList()) {
      std::vector<std::optional<ValueId>> ids;
      for (const c10::IValue& item : argument.toListRef())
        ids.push_back(item.isTensor() && item.toTensor().defined()
                          ? std::optional(value(item.toTensor()))
                          : std::nullopt);
      node.arguments.emplace_back(std::move(ids));
    } else {
      if (argument.isDevice() && !argument.toDevice().is_cpu())
        throw Untraceable(op.operator_name().name + ": a device other than the CPU");
      node.arguments.emplace_back(argument);
      // None where a device may be given is the CPU too; the shapes are made on meta.
      const auto& type = *parameters[n - first].type();
      if (parameters[n - first].name() == "device" && (argument.isDevice() || argument.isNone()) &&
          type.kind() == c10::TypeKind::OptionalType)
        argument = c10::Device(c10::kMeta);
      continue;
    }
    argument = with_tensors(argument, [](const at::Tensor& tensor) {
      const Traced* known = traced_of(tensor);
      return known ? known->twin : meta_like(tensor);
    });
  }
  if (infer(op, stack) == Rule::python) ++python_rules_;
  if (tried_ && is_form_of(op, tried_->op) && stack[first].isTensor()) {
    at::Tensor made = stack[first].toTensor();
    lay_out(node, made);
    stack[first] = std::move(made);
  }
  for (size_t n = first; n < stack.size(); ++n) {
    if (!holds_tensors(stack[n]))
      throw Untraceable(op.operator_name().name + " gives something other than tensors");
    if (stack[n].isTensor() && !stack[n].toTensor().defined()) {
      graph_.values.push_back({c10::ScalarType::Undefined, {}, {}});  // masked out
      node.outputs.push_back(static_cast<ValueId>(graph_.values.size() - 1));
      continue;
    }
    stack[n] = with_tensors(stack[n], [&](const at::Tensor& made) {
      const ValueId id = add_value(made);
      node.outputs.push_back(id);
      return traced(made, id);
    });
  }
  graph_.nodes.push_back(std::move(node));
}

}  // namespace octavo::aten

TORCH_LIBRARY_IMPL(_, Fake, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&octavo::aten::record_boxed>());
}
