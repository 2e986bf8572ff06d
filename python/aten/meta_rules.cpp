#include "meta_rules.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ExpandUtils.h>
#include <ATen/TensorIterator.h>
#include <ATen/ops/mean_meta_dispatch.h>
#include <ATen/ops/result_type.h>
#include <ATen/ops/sum_meta_dispatch.h>
#include <c10/core/DefaultDtype.h>

#include <algorithm>
#include <string>
#include <unordered_map>

namespace octavo::aten {

std::optional<std::vector<std::int64_t>> MetaCall::ints(std::size_t n) const {
  if (!at(n).isIntList()) return std::nullopt;
  return at(n).toIntVector();
}

std::optional<at::ScalarType> MetaCall::dtype(std::size_t n) const {
  return none(n) ? std::nullopt : std::optional(at(n).toScalarType());
}

std::optional<at::MemoryFormat> MetaCall::format(std::size_t n) const {
  return none(n) ? std::nullopt : std::optional(at(n).toMemoryFormat());
}

bool MetaCall::plain_options(std::size_t n) const {
  return (none(n) || at(n).toLayout() == at::kStrided) &&
         (none(n + 1) || at(n + 1).toDevice().is_meta()) && (none(n + 2) || !at(n + 2).toBool());
}

bool MetaCall::give(at::IntArrayRef sizes, at::ScalarType dtype,
                    std::optional<at::MemoryFormat> format) {
  if (std::any_of(sizes.begin(), sizes.end(), [](auto size) { return size < 0; })) return false;
  return give(at::Tensor(at::detail::empty_meta(sizes, dtype, format)));
}

bool MetaCall::give_like(const at::Tensor& tensor, std::optional<at::ScalarType> dtype,
                         std::optional<at::MemoryFormat> format) {
  const at::ScalarType type = dtype.value_or(tensor.scalar_type());
  if (format && *format != at::MemoryFormat::Preserve) return give(tensor.sizes(), type, format);
  if (tensor.is_non_overlapping_and_dense())
    return give(at::Tensor(at::detail::empty_strided_meta(tensor.sizes(), tensor.strides(), type)));
  const auto strides = at::infer_dense_strides(tensor.sizes(), tensor.strides());
  return give(at::Tensor(at::detail::empty_strided_meta(tensor.sizes(), strides, type)));
}

bool MetaCall::give_pointwise(std::initializer_list<at::Tensor> operands, at::ScalarType dtype) {
  at::TensorIteratorConfig config;
  config.set_check_mem_overlap(false).check_all_same_dtype(false).declare_static_dtype_and_device(
      dtype, at::kMeta);
  config.add_owned_output(at::TensorBase());
  for (const at::Tensor& operand : operands) config.add_owned_const_input(operand);
  at::TensorIterator iterator = config.build();
  return give(at::Tensor(iterator.output()));
}

bool all_of_type(at::ScalarType dtype, std::initializer_list<at::Tensor> tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [&](const at::Tensor& tensor) {
    return tensor.defined() && tensor.scalar_type() == dtype;
  });
}

MetaRule find_meta_rule(const c10::OperatorHandle& op) {
  static const auto* rules = [] {
    auto* table = new std::unordered_map<std::string_view, MetaRule>;
    for (const auto& part : {tensor_meta_rules(), nn_meta_rules()})
      table->insert(part.begin(), part.end());
    return table;
  }();
  const auto& name = op.operator_name();
  if (name.name.rfind("aten::", 0) != 0) return nullptr;
  const std::string short_name =
      name.name.substr(6) + (name.overload_name.empty() ? "" : "." + name.overload_name);
  const auto found = rules->find(short_name);
  return found == rules->end() ? nullptr : found->second;
}

namespace {

bool is_floating(const at::Tensor& tensor) { return at::isFloatingType(tensor.scalar_type()); }

// ---- elementwise

bool like_operand(MetaCall& call) {
  const at::Tensor x = call.tensor(0);
  return is_floating(x) && call.give_pointwise({x}, x.scalar_type());
}

bool of_two(MetaCall& call) {
  const at::Tensor x = call.tensor(0), y = call.tensor(1);
  return is_floating(x) && all_of_type(x.scalar_type(), {y}) && x.dim() > 0 && y.dim() > 0 &&
         call.give_pointwise({x, y}, x.scalar_type());
}

bool question(MetaCall& call) {
  const at::Tensor x = call.tensor(0);
  return is_floating(x) && call.give_pointwise({x}, at::kBool);
}

bool logical(MetaCall& call) {
  return call.give_pointwise({call.tensor(0), call.tensor(1)}, at::kBool);
}
bool logical_not(MetaCall& call) { return call.give_pointwise({call.tensor(0)}, at::kBool); }

bool where(MetaCall& call) {
  const at::Tensor condition = call.tensor(0), x = call.tensor(1), y = call.tensor(2);
  if (condition.scalar_type() != at::kBool) return false;
  const at::ScalarType type = at::result_type(x, y);
  // A converted operand may lie in memory in another way.
  if ((x.scalar_type() != type && x.dim() > 0) || (y.scalar_type() != type && y.dim() > 0))
    return false;
  return call.give_pointwise({condition, x, y}, type);
}

bool masked_fill(MetaCall& call) {
  const at::Tensor x = call.tensor(0), mask = call.tensor(1);
  if (mask.scalar_type() != at::kBool || at::isComplexType(x.scalar_type())) return false;
  if (call.at(2).isTensor() ? call.tensor(2).dim() != 0 : call.at(2).isComplexDouble())
    return false;
  return call.give(at::infer_size(x.sizes(), mask.sizes()), x.scalar_type());
}

bool mse_loss_backward(MetaCall& call) {
  const at::Tensor grad = call.tensor(0), x = call.tensor(1), target = call.tensor(2);
  return is_floating(x) && all_of_type(x.scalar_type(), {grad, target}) &&
         x.sizes() == target.sizes() && (grad.dim() == 0 || grad.sizes() == x.sizes()) &&
         call.give(x.sizes(), x.scalar_type());
}

// ---- reductions

bool sum(MetaCall& call) {
  return call.give(at::meta::sum(call.tensor(0), at::OptionalIntArrayRef(), false, call.dtype(1)));
}
bool mean(MetaCall& call) {
  return call.give(at::meta::mean(call.tensor(0), at::OptionalIntArrayRef(), false, call.dtype(1)));
}

// The sizes of x reduced over the dimensions of argument 1, all if there are none.
std::optional<std::vector<std::int64_t>> reduced(const MetaCall& call, bool keep) {
  const at::Tensor x = call.tensor(0);
  std::vector<bool> over(static_cast<std::size_t>(x.dim()), call.none(1));
  if (!call.none(1)) {
    const auto dims = call.ints(1);
    if (!dims || dims->empty()) return std::nullopt;
    for (std::int64_t dim : *dims) {
      if (dim < 0) dim += x.dim();
      if (dim < 0 || dim >= x.dim() || over[static_cast<std::size_t>(dim)]) return std::nullopt;
      over[static_cast<std::size_t>(dim)] = true;
    }
  }
  std::vector<std::int64_t> sizes;
  for (std::size_t d = 0; d < over.size(); ++d)
    if (!over[d] || keep) sizes.push_back(over[d] ? 1 : x.sizes()[d]);
  return sizes;
}

bool var(MetaCall& call) {
  const at::Tensor x = call.tensor(0);
  const auto sizes = reduced(call, call.at(3).toBool());
  return sizes && is_floating(x) && call.give(*sizes, x.scalar_type());
}
bool var_mean(MetaCall& call) { return var(call) && var(call); }

// ---- new tensors

bool like(MetaCall& call, std::size_t options) {
  const at::Tensor x = call.tensor(0);
  return call.plain_options(options + 1) &&
         call.give_like(x, call.dtype(options), call.format(options + 4));
}
bool empty_like(MetaCall& call) { return like(call, 1); }
bool full_like(MetaCall& call) { return like(call, 2); }

bool made_new(MetaCall& call, std::size_t sizes, std::size_t options, at::ScalarType otherwise) {
  const auto ints = call.ints(sizes);
  return ints && call.plain_options(options + 1) &&
         call.give(*ints, call.dtype(options).value_or(otherwise));
}
bool zeros(MetaCall& call) { return made_new(call, 0, 1, c10::get_default_dtype_as_scalartype()); }
bool full(MetaCall& call) {
  const c10::IValue& value = call.at(1);
  if (value.isComplexDouble()) return false;
  return made_new(call, 0, 2,
                  value.isBool()  ? at::kBool
                  : value.isInt() ? at::kLong
                                  : c10::get_default_dtype_as_scalartype());
}
bool new_zeros(MetaCall& call) { return made_new(call, 1, 2, call.tensor(0).scalar_type()); }
bool new_full(MetaCall& call) { return made_new(call, 1, 3, call.tensor(0).scalar_type()); }
bool scalar_tensor(MetaCall& call) {
  return call.plain_options(2) &&
         call.give(at::IntArrayRef(),
                   call.dtype(1).value_or(c10::get_default_dtype_as_scalartype()));
}

bool arange(MetaCall& call, std::int64_t start, std::int64_t end, std::int64_t step,
            std::size_t options) {
  const std::int64_t span = step > 0 ? end - start : start - end;
  constexpr std::int64_t large = std::int64_t{1} << 48;  // doubles count exactly below
  if (step == 0 || span < 0 || span > large || std::abs(start) > large || std::abs(end) > large)
    return false;
  const std::int64_t by = std::abs(step);
  return call.plain_options(options + 1) &&
         call.give({(span + by - 1) / by}, call.dtype(options).value_or(at::kLong));
}
bool arange_end(MetaCall& call) {
  return call.at(0).isInt() && arange(call, 0, call.at(0).toInt(), 1, 1);
}
bool arange_start_step(MetaCall& call) {
  return call.at(0).isInt() && call.at(1).isInt() && call.at(2).isInt() &&
         arange(call, call.at(0).toInt(), call.at(1).toInt(), call.at(2).toInt(), 3);
}

bool clone(MetaCall& call) { return call.give_like(call.tensor(0), {}, call.format(1)); }

bool to_copy(MetaCall& call) {
  const at::Tensor x = call.tensor(0);
  const auto format = call.format(6);
  const bool keeps = !format || *format == at::MemoryFormat::Preserve;
  return call.plain_options(2) && (!keeps || x.is_non_overlapping_and_dense()) &&
         call.give_like(x, call.dtype(1), format);
}

// A contiguous tensor; random numbers are drawn in the order of memory.
bool bernoulli(MetaCall& call) {
  const at::Tensor x = call.tensor(0);
  const double p = call.at(1).toDouble();
  return p >= 0 && p <= 1 && is_floating(x) && call.give(x.sizes(), x.scalar_type());
}

// ---- pieces of tensors

bool stack(MetaCall& call) {
  if (!call.at(0).isTensorList() || call.at(0).toTensorList().empty()) return false;
  const auto tensors = call.at(0).toTensorVector();
  const at::Tensor& first = tensors.front();
  for (const at::Tensor& tensor : tensors)
    if (tensor.sizes() != first.sizes() || tensor.scalar_type() != first.scalar_type() ||
        !tensor.is_contiguous() || tensor.suggest_memory_format() != at::MemoryFormat::Contiguous)
      return false;
  std::int64_t dim = call.at(1).toInt();
  if (dim < 0) dim += first.dim() + 1;
  if (dim < 0 || dim > first.dim() || first.numel() == 0) return false;
  auto sizes = first.sizes().vec();
  sizes.insert(sizes.begin() + dim, static_cast<std::int64_t>(tensors.size()));
  return call.give(sizes, first.scalar_type());
}

bool of_indices(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kLong || tensor.scalar_type() == at::kInt;
}

bool index_select(MetaCall& call) {
  const at::Tensor x = call.tensor(0), index = call.tensor(2);
  std::int64_t dim = call.at(1).toInt();
  if (dim < 0) dim += x.dim();
  if (dim < 0 || dim >= x.dim() || index.dim() > 1 || !of_indices(index)) return false;
  auto sizes = x.sizes().vec();
  sizes[static_cast<std::size_t>(dim)] = index.numel();
  return call.give(sizes, x.scalar_type());
}

// The gradient of a piece: zeros but for the piece.
bool piece_backward(MetaCall& call) {
  const auto sizes = call.ints(1);
  return sizes && call.give(*sizes, call.tensor(0).scalar_type());
}

bool index_put(MetaCall& call) {
  const at::Tensor x = call.tensor(0), values = call.tensor(2);
  for (const c10::IValue& item : call.at(1).toListRef())
    if (item.isTensor() && item.toTensor().defined() && item.toTensor().scalar_type() != at::kLong)
      return false;
  return values.scalar_type() == x.scalar_type() && call.give_like(x);
}

bool repeat(MetaCall& call) {
  const at::Tensor x = call.tensor(0);
  auto times = call.ints(1);
  if (!times || times->size() < static_cast<std::size_t>(x.dim())) return false;
  const std::size_t shift = times->size() - static_cast<std::size_t>(x.dim());
  for (std::size_t d = 0; d < times->size(); ++d) {
    if ((*times)[d] < 0) return false;
    if (d >= shift) (*times)[d] *= x.sizes()[d - shift];
  }
  return call.give(*times, x.scalar_type());
}

bool constant_pad(MetaCall& call) {
  const at::Tensor x = call.tensor(0);
  const auto pad = call.ints(1);
  if (!pad || pad->size() % 2 || pad->size() / 2 > static_cast<std::size_t>(x.dim())) return false;
  auto sizes = x.sizes().vec();
  std::int64_t all = 0;
  for (std::size_t n = 0; n < pad->size(); ++n) {
    if ((*pad)[n] < 0) return false;
    sizes[sizes.size() - 1 - n / 2] += (*pad)[n];
    all += (*pad)[n];
  }
  return all > 0 && x.numel() > 0 && call.give(sizes, x.scalar_type(), x.suggest_memory_format());
}

constexpr NamedMetaRule rules[] = {
    {"relu", like_operand},
    {"hardswish", like_operand},
    {"hardtanh", like_operand},
    {"hardswish_backward", of_two},
    {"hardtanh_backward", of_two},
    {"isnan", question},
    {"logical_not", logical_not},
    {"logical_and", logical},
    {"logical_or", logical},
    {"logical_xor", logical},
    {"where.self", where},
    {"masked_fill.Scalar", masked_fill},
    {"masked_fill.Tensor", masked_fill},
    {"mse_loss_backward", mse_loss_backward},
    {"sum", sum},
    {"mean", mean},
    {"var.correction", var},
    {"var_mean.correction", var_mean},
    {"empty_like", empty_like},
    {"zeros_like", empty_like},
    {"ones_like", empty_like},
    {"rand_like", empty_like},
    {"randn_like", empty_like},
    {"full_like", full_like},
    {"zeros", zeros},
    {"ones", zeros},
    {"rand", zeros},
    {"randn", zeros},
    {"full", full},
    {"new_zeros", new_zeros},
    {"new_ones", new_zeros},
    {"new_empty", new_zeros},
    {"new_full", new_full},
    {"scalar_tensor", scalar_tensor},
    {"arange", arange_end},
    {"arange.start_step", arange_start_step},
    {"clone", clone},
    {"_to_copy", to_copy},
    {"bernoulli.p", bernoulli},
    {"stack", stack},
    {"index_select", index_select},
    {"select_backward", piece_backward},
    {"slice_backward", piece_backward},
    {"index_put", index_put},
    {"repeat", repeat},
    {"constant_pad_nd", constant_pad},
};

}  // namespace

std::span<const NamedMetaRule> tensor_meta_rules() { return rules; }

}  // namespace octavo::aten
