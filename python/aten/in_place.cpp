#include "in_place.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty_like.h>

#include <string_view>

namespace octavo::aten {

bool is_random(const c10::OperatorHandle& op) {
  return op.hasTag(at::Tag::nondeterministic_seeded);
}

bool is_form_of(const c10::OperatorHandle& functional, const c10::OperatorHandle& in_place) {
  std::string_view name = functional.operator_name().name;
  std::string_view written = in_place.operator_name().name;
  if (written.empty() || written.back() != '_') return false;
  written.remove_suffix(1);
  constexpr std::string_view suffix = "_functional";
  if (name.size() > suffix.size() && name.substr(name.size() - suffix.size()) == suffix)
    name.remove_suffix(suffix.size());
  return name == written &&
         functional.schema().arguments().size() == in_place.schema().arguments().size();
}

void call_as(const c10::OperatorHandle& op, const std::optional<InPlace>& how,
             torch::jit::Stack& stack) {
  if (!how) return op.callBoxed(stack);
  const at::Tensor given = stack[0].toTensor();
  at::Tensor written =
      at::detail::empty_strided_cpu(given.sizes(), how->strides, given.scalar_type());
  written.copy_(given);
  stack[0] = written;
  how->op.callBoxed(stack);
  if (!written.is_non_overlapping_and_dense()) stack[0] = at::empty_like(written).copy_(written);
}

}  // namespace octavo::aten
