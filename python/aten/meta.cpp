#include "meta.h"

#include <c10/core/impl/LocalDispatchKeySet.h>

#include <string_view>
#include <unordered_map>

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

// The newest C++ kernel that says what the operator gives on meta tensors, or null.
const c10::KernelFunction* cpp_kernel(const c10::OperatorHandle& op) {
  const auto& kernels = entry_of(op).*kernels_of(nullptr);
  for (const DispatchKey key :
       {DispatchKey::Meta, DispatchKey::CompositeExplicitAutogradNonFunctional,
        DispatchKey::CompositeExplicitAutograd}) {
    const auto found = kernels.find(key);
    if (found == kernels.end()) continue;
    for (const auto& kernel : found->second)
      if (!is_python(kernel) && kernel.kernel.isValid() && !kernel.kernel.isFallthrough())
        return &kernel.kernel;
  }
  return nullptr;
}

// By schema, whose address is the operator's own.
const c10::KernelFunction* known_kernel(const c10::OperatorHandle& op) {
  static thread_local std::unordered_map<const c10::FunctionSchema*, const c10::KernelFunction*>
      seen;
  const auto [at, fresh] = seen.try_emplace(&op.schema());
  if (fresh) at->second = cpp_kernel(op);
  return at->second;
}

}  // namespace

Rule infer(const c10::OperatorHandle& op, torch::jit::Stack& stack) {
  constexpr c10::DispatchKeySet meta(DispatchKey::Meta);
  if (const c10::KernelFunction* kernel = known_kernel(op)) {
    const auto first = stack.end() - static_cast<std::ptrdiff_t>(op.schema().arguments().size());
    const torch::jit::Stack arguments(first, stack.end());
    const auto below = static_cast<std::size_t>(first - stack.begin());
    try {
      kernel->callBoxed(op, meta, &stack);
      return Rule::kernel;
    } catch (const c10::Error&) {
      // A kernel made of others may ask for a device that meta is not: Python's rule decides.
      stack.resize(below);
      stack.insert(stack.end(), arguments.begin(), arguments.end());
    }
  }
  op.redispatchBoxed(meta, &stack);
  return Rule::python;
}

}  // namespace octavo::aten
