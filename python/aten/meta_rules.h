// Shapes by rules of our own, for operators whose C++ meta kernel is missing or asks others that
// are Python.
//
// A rule speaks only where it is sure: sizes, strides and type are those of the CPU's kernel.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <initializer_list>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

namespace octavo::aten {

/// One call on meta tensors: its arguments by place, and the results that a rule gives.
class MetaCall {
 public:
  explicit MetaCall(std::span<const c10::IValue> arguments) : arguments_(arguments) {}

  const c10::IValue& at(std::size_t n) const { return arguments_[n]; }
  bool none(std::size_t n) const { return at(n).isNone(); }
  /// Undefined for None.
  at::Tensor tensor(std::size_t n) const {
    return at(n).isTensor() ? at(n).toTensor() : at::Tensor();
  }
  /// nullopt where it is no list of plain ints.
  std::optional<std::vector<std::int64_t>> ints(std::size_t n) const;
  std::optional<at::ScalarType> dtype(std::size_t n) const;
  std::optional<at::MemoryFormat> format(std::size_t n) const;
  bool flag(std::size_t n, std::size_t of_mask) const { return at(n).toBoolList().get(of_mask); }
  /// layout, device and pin_memory, from n on, ask for nothing but a meta tensor.
  bool plain_options(std::size_t n) const;

  bool give(at::Tensor result) {
    results_.emplace_back(std::move(result));
    return true;
  }
  /// A contiguous tensor.
  bool give(at::IntArrayRef sizes, at::ScalarType dtype,
            std::optional<at::MemoryFormat> format = std::nullopt);
  /// What empty_like() makes.
  bool give_like(const at::Tensor& tensor, std::optional<at::ScalarType> dtype = std::nullopt,
                 std::optional<at::MemoryFormat> format = std::nullopt);
  /// What an elementwise kernel makes of the operands.
  bool give_pointwise(std::initializer_list<at::Tensor> operands, at::ScalarType dtype);
  bool give_undefined() { return give(at::Tensor()); }
  torch::jit::Stack take() { return std::move(results_); }

 private:
  std::span<const c10::IValue> arguments_;
  torch::jit::Stack results_;
};

/// False: it does not know.
using MetaRule = bool (*)(MetaCall&);
using NamedMetaRule = std::pair<std::string_view, MetaRule>;

std::span<const NamedMetaRule> tensor_meta_rules();
std::span<const NamedMetaRule> nn_meta_rules();

/// Null where the operator has none.
MetaRule find_meta_rule(const c10::OperatorHandle& op);

/// All are defined and of this type.
bool all_of_type(at::ScalarType dtype, std::initializer_list<at::Tensor> tensors);

}  // namespace octavo::aten
