#include "meta.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_map>

#include "meta_rules.h"

namespace octavo::aten {
namespace {

using c10::DispatchKey;
using c10::impl::OperatorEntry;

// The dispatcher's record of an operator is private; naming a private member in an explicit
// instantiation is allowed. A torch whose record looks otherwise does not compile.
using Kernels =
    ska::flat_hash_map<DispatchKey, std::list<c10::impl::AnnotatedKernel>> OperatorEntry::*;
Kernels kernels_of(OperatorEntry*);
template <Kernels member>
struct OpenKernels {
  friend Kernels kernels_of(OperatorEntry*) { return member; }
};
template struct OpenKernels<&OperatorEntry::kernels_>;

struct Definition;  // Dispatcher::OperatorDef, whose first member is the record
template <class Member>
struct DefinitionOf;
template <class T>
struct DefinitionOf<T c10::OperatorHandle::*> {
  using type = T;
};
template <auto member>
struct OpenDefinition {
  friend const OperatorEntry& entry_of(const c10::OperatorHandle& op) { return (op.*member)->op; }
};
const OperatorEntry& entry_of(const c10::OperatorHandle& op);
template struct OpenDefinition<&c10::OperatorHandle::operatorDef_>;

// Kernels that Python registered carry torch/library.h's place, or a .py file's.
bool is_python(const c10::impl::AnnotatedKernel& kernel) {
  return kernel.debug.find(".py:") != std::string::npos ||
         kernel.debug.find("/dev/null") != std::string::npos;
}

struct MetaKernel {
  const c10::KernelFunction* function = nullptr;
  bool composite = false;  // it calls other operators
};

// The newest C++ kernel that says what the operator gives on meta tensors.
MetaKernel cpp_kernel(const c10::OperatorHandle& op) {
  const auto& kernels = entry_of(op).*kernels_of(nullptr);
  for (const DispatchKey key :
       {DispatchKey::Meta, DispatchKey::CompositeExplicitAutogradNonFunctional,
        DispatchKey::CompositeExplicitAutograd}) {
    const auto found = kernels.find(key);
    if (found == kernels.end()) continue;
    for (const auto& kernel : found->second)
      if (!is_python(kernel) && kernel.kernel.isValid() && !kernel.kernel.isFallthrough())
        return {&kernel.kernel, key != DispatchKey::Meta};
  }
  return {};
}

struct Ways {
  MetaRule rule = nullptr;
  MetaKernel kernel;
};

thread_local bool shaping = false;
thread_local int python_rules = 0;

// By schema, whose address is the operator's own.
const Ways& ways_of(const c10::OperatorHandle& op) {
  static thread_local std::unordered_map<const c10::FunctionSchema*, Ways> seen;
  const auto [at, fresh] = seen.try_emplace(&op.schema());
  if (fresh) at->second = {find_meta_rule(op), cpp_kernel(op)};
  return at->second;
}

bool is_meta(const c10::IValue& argument) {
  if (argument.isTensor()) return argument.toTensor().defined() && argument.toTensor().is_meta();
  if (argument.isDevice()) return argument.toDevice().is_meta();
  if (argument.isTensorList() || argument.isOptionalTensorList()) {
    const auto items = argument.toListRef();
    return std::any_of(items.begin(), items.end(), is_meta);
  }
  return false;
}

// What a rule refuses or finds wrong is for torch to say.
bool by_rule(MetaRule rule, std::size_t first, torch::jit::Stack& stack) {
  const std::span<const c10::IValue> all(stack);
  MetaCall call(all.subspan(first));
  try {
    if (!rule(call)) return false;
  } catch (const c10::Error&) {
    return false;
  }
  torch::jit::Stack results = call.take();
  stack.resize(first);
  std::move(results.begin(), results.end(), std::back_inserter(stack));
  return true;
}

}  // namespace

Rule infer(const c10::OperatorHandle& op, torch::jit::Stack& stack) {
  constexpr c10::DispatchKeySet meta(DispatchKey::Meta);
  const std::size_t first = stack.size() - op.schema().arguments().size();
  const Ways& ways = ways_of(op);
  if (ways.rule && by_rule(ways.rule, first, stack)) return Rule::own;
  if (ways.kernel.function) {
    const torch::jit::Stack arguments(stack.begin() + static_cast<std::ptrdiff_t>(first),
                                      stack.end());
    try {
      std::optional<Shaping> others;
      if (ways.kernel.composite) others.emplace();
      ways.kernel.function->callBoxed(op, meta, &stack);
      return Rule::kernel;
    } catch (const c10::Error&) {
      // A kernel made of others may ask for a device that meta is not: Python's rule decides.
      stack.resize(first);
      stack.insert(stack.end(), arguments.begin(), arguments.end());
    }
  }
  ++python_rules;
  const Shaping others;
  op.redispatchBoxed(meta, &stack);
  return Rule::python;
}

Shaping::Shaping()
    : included_(c10::impl::tls_is_dispatch_key_included(DispatchKey::Fake)),
      excluded_(c10::impl::tls_is_dispatch_key_excluded(DispatchKey::Fake)),
      before_(std::exchange(shaping, true)),
      python_rules_(octavo::aten::python_rules) {
  c10::impl::tls_set_dispatch_key_included(DispatchKey::Fake, true);
  c10::impl::tls_set_dispatch_key_excluded(DispatchKey::Fake, false);
}

Shaping::~Shaping() {
  c10::impl::tls_set_dispatch_key_included(DispatchKey::Fake, included_);
  c10::impl::tls_set_dispatch_key_excluded(DispatchKey::Fake, excluded_);
  shaping = before_;
}

int Shaping::python_rules() const { return octavo::aten::python_rules - python_rules_; }

bool Shaping::active() { return shaping; }

void shape_only(const c10::OperatorHandle& op, torch::jit::Stack& stack) {
  const c10::impl::ExcludeDispatchKeyGuard below(
      c10::DispatchKeySet(DispatchKey::Fake) | c10::autograd_dispatch_keyset_with_ADInplaceOrView);
  const std::size_t first = stack.size() - op.schema().arguments().size();
  const bool meta = std::any_of(stack.begin() + static_cast<std::ptrdiff_t>(first), stack.end(),
                                [](const c10::IValue& argument) { return is_meta(argument); });
  if (!meta) return op.callBoxed(&stack);
  // Lists that are written: the kernel's own calls would count, of which some are excluded here.
  std::vector<at::Tensor> written;
  for (std::size_t n = 0; n < op.schema().arguments().size(); ++n)
    if (const auto* alias = op.schema().arguments()[n].alias_info();
        alias && alias->isWrite() && stack[first + n].isTensorList())
      for (const at::Tensor& tensor : stack[first + n].toTensorVector()) written.push_back(tensor);
  infer(op, stack);
  for (const at::Tensor& tensor : written)
    if (!tensor.is_inference()) tensor.unsafeGetTensorImpl()->bump_version();
}

}  // namespace octavo::aten
