// Layers of networks: normalisations, convolutions, attention, pooling, embeddings, dropout.
#include <ATen/EmptyTensor.h>

#include <algorithm>

#include "meta_rules.h"

namespace octavo::aten {
namespace {

using Sizes = std::vector<std::int64_t>;

bool is_floating(const at::Tensor& tensor) { return at::isFloatingType(tensor.scalar_type()); }

// Undefined, or of the type.
bool may_be(at::ScalarType dtype, const at::Tensor& tensor) {
  return !tensor.defined() || tensor.scalar_type() == dtype;
}

// Contiguous, or channels-last: what kernels that keep the layout give back.
std::optional<at::MemoryFormat> layout_of(const at::Tensor& x) {
  const auto format = x.suggest_memory_format();
  if (format == at::MemoryFormat::ChannelsLast3d || !x.is_contiguous(format)) return std::nullopt;
  return format;
}

// ---- normalisations

bool ends_with(at::IntArrayRef sizes, at::IntArrayRef end) {
  return !end.empty() && sizes.size() >= end.size() &&
         sizes.slice(sizes.size() - end.size()) == end;
}

bool layer_norm(MetaCall& call) {
  const at::Tensor x = call.tensor(0), weight = call.tensor(2), bias = call.tensor(3);
  const auto over = call.ints(1);
  const at::ScalarType type = x.scalar_type();
  if (!over || !is_floating(x) || !ends_with(x.sizes(), *over)) return false;
  for (const at::Tensor& one : {weight, bias})
    if (!may_be(type, one) || (one.defined() && one.sizes() != at::IntArrayRef(*over)))
      return false;
  Sizes statistics = x.sizes().vec();
  std::fill(statistics.end() - static_cast<std::ptrdiff_t>(over->size()), statistics.end(), 1);
  return call.give(x.sizes(), type) && call.give(statistics, type) && call.give(statistics, type);
}

bool layer_norm_backward(MetaCall& call) {
  const at::Tensor grad = call.tensor(0), x = call.tensor(1);
  const at::ScalarType type = x.scalar_type();
  if (!is_floating(x) || !all_of_type(type, {grad, call.tensor(3), call.tensor(4)})) return false;
  if (!call.flag(7, 0))
    call.give_undefined();
  else
    call.give(x.sizes(), type);
  for (const std::size_t n : {1, 2}) {
    const at::Tensor of = call.tensor(4 + n);
    if (!call.flag(7, n))
      call.give_undefined();
    else if (!of.defined() || of.scalar_type() != type)
      return false;
    else
      call.give(of.sizes(), type);
  }
  return true;
}

// weight, bias, running_mean and running_var from `first` on.
bool fits_channels(const MetaCall& call, const at::Tensor& x, std::size_t first,
                   std::size_t count) {
  if (!is_floating(x) || x.dim() < 2 || x.numel() == 0) return false;
  for (std::size_t n = first; n < first + count; ++n) {
    const at::Tensor one = call.tensor(n);
    if (one.defined() &&
        (one.scalar_type() != x.scalar_type() || one.dim() != 1 || one.size(0) != x.size(1)))
      return false;
  }
  return true;
}

bool batch_norm(MetaCall& call) {
  const at::Tensor x = call.tensor(0);
  const auto format = layout_of(x);
  if (!format || !fits_channels(call, x, 1, 4)) return false;
  const std::int64_t channels = call.at(5).toBool() ? x.size(1) : 0;
  const at::ScalarType type = x.scalar_type();
  return call.give(x.sizes(), type, format) && call.give({channels}, type) &&
         call.give({channels}, type);
}

bool batch_norm_functional(MetaCall& call) {
  const at::Tensor x = call.tensor(0);
  return call.at(5).toBool() && batch_norm(call) && call.give({x.size(1)}, x.scalar_type()) &&
         call.give({x.size(1)}, x.scalar_type());
}

bool batch_norm_backward(MetaCall& call) {
  const at::Tensor grad = call.tensor(0), x = call.tensor(1);
  const auto format = layout_of(x);
  if (!format || !fits_channels(call, x, 2, 3) || !all_of_type(x.scalar_type(), {grad}))
    return false;
  if (call.flag(9, 0))
    call.give(x.sizes(), x.scalar_type(), format);
  else
    call.give_undefined();
  for (const std::size_t n : {1, 2}) {
    if (call.flag(9, n))
      call.give({x.size(1)}, x.scalar_type());
    else
      call.give_undefined();
  }
  return true;
}

bool group_norm(MetaCall& call) {
  const at::Tensor x = call.tensor(0);
  if (layout_of(x) != at::MemoryFormat::Contiguous || !fits_channels(call, x, 1, 2) ||
      x.size(0) != call.at(3).toInt() || x.size(1) != call.at(4).toInt())
    return false;
  const Sizes statistics{x.size(0), call.at(6).toInt()};
  const at::ScalarType type = x.scalar_type();
  return call.give(x.sizes(), type) && call.give(statistics, type) && call.give(statistics, type);
}

bool group_norm_backward(MetaCall& call) {
  const at::Tensor grad = call.tensor(0), x = call.tensor(1), weight = call.tensor(4);
  const at::ScalarType type = x.scalar_type();
  if (layout_of(x) != at::MemoryFormat::Contiguous || !fits_channels(call, x, 4, 1) ||
      !all_of_type(type, {grad, call.tensor(2), call.tensor(3)}) ||
      layout_of(grad) != at::MemoryFormat::Contiguous)
    return false;
  for (const std::size_t n : {0, 1, 2}) {
    if (!call.flag(9, n))
      call.give_undefined();
    else if (n == 0)
      call.give(x.sizes(), type);
    else
      call.give({x.size(1)}, type);
  }
  return true;
}

// ---- convolutions

// Arguments from `stride` on are those of convolution().
std::optional<Sizes> convolved(const MetaCall& call, const at::Tensor& x, const at::Tensor& weight,
                               std::size_t first) {
  const auto stride = call.ints(first), padding = call.ints(first + 1),
             dilation = call.ints(first + 2), extra = call.ints(first + 4);
  const bool transposed = call.at(first + 3).toBool();
  const std::int64_t groups = call.at(first + 5).toInt();
  const std::int64_t rank = x.dim() - 2;
  if (rank < 1 || rank > 3 || weight.dim() != x.dim() || groups < 1 || x.numel() == 0 ||
      weight.numel() == 0)
    return std::nullopt;
  for (const auto& list : {stride, padding, dilation, extra})
    if (!list || list->size() != static_cast<std::size_t>(rank)) return std::nullopt;
  if (x.size(1) != (transposed ? weight.size(0) : weight.size(1) * groups)) return std::nullopt;
  Sizes sizes{x.size(0), transposed ? weight.size(1) * groups : weight.size(0)};
  for (std::size_t d = 0; d < static_cast<std::size_t>(rank); ++d) {
    const std::int64_t in = x.sizes()[d + 2];
    const std::int64_t reach = (*dilation)[d] * (weight.sizes()[d + 2] - 1) + 1;
    if ((*stride)[d] < 1 || (*dilation)[d] < 1 || (*padding)[d] < 0) return std::nullopt;
    const std::int64_t free = in + 2 * (*padding)[d] - reach;
    const std::int64_t out = transposed
                                 ? (in - 1) * (*stride)[d] - 2 * (*padding)[d] + reach + (*extra)[d]
                             : free < 0 ? 0
                                        : free / (*stride)[d] + 1;
    if (out < 1) return std::nullopt;
    sizes.push_back(out);
  }
  return sizes;
}

// The layout of what a convolution of the CPU gives, where that is plain.
std::optional<at::MemoryFormat> convolution_format(const at::Tensor& x, const at::Tensor& weight,
                                                   bool transposed) {
  // Kernels see a dimension more there, and take transposed operands for channels-last ones.
  if (x.dim() == 3 && !(x.is_contiguous() && weight.is_contiguous())) return std::nullopt;
  const auto of_x = x.suggest_memory_format(), of_weight = weight.suggest_memory_format();
  if (of_x == at::MemoryFormat::Contiguous && of_weight == of_x) return of_x;
  if (x.dim() != 4 || transposed) return std::nullopt;
  return at::MemoryFormat::ChannelsLast;
}

bool convolution(MetaCall& call) {
  const at::Tensor x = call.tensor(0), weight = call.tensor(1), bias = call.tensor(2);
  const auto sizes = convolved(call, x, weight, 3);
  if (!sizes || !is_floating(x) || !all_of_type(x.scalar_type(), {weight}) ||
      !may_be(x.scalar_type(), bias) ||
      (bias.defined() && (bias.dim() != 1 || bias.size(0) != (*sizes)[1])))
    return false;
  const auto format = convolution_format(x, weight, call.at(6).toBool());
  return format && call.give(*sizes, x.scalar_type(), format);
}

bool convolution_backward(MetaCall& call) {
  const at::Tensor grad = call.tensor(0), x = call.tensor(1), weight = call.tensor(2);
  const auto sizes = convolved(call, x, weight, 4);
  if (!sizes || !is_floating(x) || !all_of_type(x.scalar_type(), {grad, weight}) ||
      grad.sizes() != at::IntArrayRef(*sizes))
    return false;
  const auto format = convolution_format(x, weight, call.at(7).toBool());
  if (!format) return false;
  for (const std::size_t n : {0, 1, 2}) {
    if (!call.flag(10, n))
      call.give_undefined();
    else if (n < 2)
      call.give(n == 0 ? x.sizes() : weight.sizes(), x.scalar_type(), format);
    else
      call.give({(*sizes)[1]}, x.scalar_type());
  }
  return true;
}

// ---- attention

// query, key and value from `first` on: one type, one number of heads, one width.
bool fits_attention(const MetaCall& call, std::size_t first) {
  const at::Tensor q = call.tensor(first), k = call.tensor(first + 1), v = call.tensor(first + 2);
  return q.dim() == 4 && k.dim() == 4 && v.sizes() == k.sizes() && q.size(0) == k.size(0) &&
         q.size(1) == k.size(1) && q.size(3) == k.size(3) && is_floating(q) &&
         all_of_type(q.scalar_type(), {k, v}) && q.numel() > 0 && k.numel() > 0;
}

// A tensor that lies in memory with dimensions 1 and 2, heads and places, exchanged.
bool heads_inside(MetaCall& call, at::IntArrayRef sizes, at::ScalarType type) {
  Sizes strides(sizes.size());
  std::int64_t step = 1;
  for (const std::size_t d : {std::size_t{3}, std::size_t{1}, std::size_t{2}, std::size_t{0}}) {
    if (d >= sizes.size()) continue;
    strides[d] = step;
    step *= sizes[d];
  }
  return call.give(at::Tensor(at::detail::empty_strided_meta(sizes, strides, type)));
}

bool attention(MetaCall& call) {
  const at::Tensor q = call.tensor(0);
  if (!fits_attention(call, 0) || !q.is_non_overlapping_and_dense()) return false;
  const at::ScalarType sums = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return call.give_like(q) && heads_inside(call, q.sizes().slice(0, 3), sums);
}

bool attention_backward(MetaCall& call) {
  const at::Tensor q = call.tensor(1);
  if (!fits_attention(call, 1) || !all_of_type(q.scalar_type(), {call.tensor(0)})) return false;
  return heads_inside(call, q.sizes(), q.scalar_type()) &&
         heads_inside(call, call.tensor(2).sizes(), q.scalar_type()) &&
         heads_inside(call, call.tensor(3).sizes(), q.scalar_type());
}

// ---- the rest

bool of_indices(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kLong || tensor.scalar_type() == at::kInt;
}

bool embedding(MetaCall& call) {
  const at::Tensor weight = call.tensor(0), indices = call.tensor(1);
  if (weight.dim() != 2 || !of_indices(indices)) return false;
  Sizes sizes = indices.sizes().vec();
  sizes.push_back(weight.size(1));
  return call.give(sizes, weight.scalar_type());
}

bool embedding_backward(MetaCall& call) {
  const at::Tensor grad = call.tensor(0), indices = call.tensor(1);
  return call.at(2).isInt() && grad.dim() == indices.dim() + 1 && of_indices(indices) &&
         call.give({call.at(2).toInt(), grad.size(-1)}, grad.scalar_type());
}

bool dropout(MetaCall& call) {
  const at::Tensor x = call.tensor(0);
  const double p = call.at(1).toDouble();
  const bool drops = call.none(2) || call.at(2).toBool();
  return drops && p > 0 && p < 1 && is_floating(x) && x.numel() > 0 &&
         x.is_non_overlapping_and_dense() && call.give_like(x) && call.give_like(x, at::kBool);
}

bool dropout_backward(MetaCall& call) {
  const at::Tensor grad = call.tensor(0), mask = call.tensor(1);
  return is_floating(grad) && mask.scalar_type() == at::kBool && grad.sizes() == mask.sizes() &&
         call.give_pointwise({grad, mask}, grad.scalar_type());
}

bool adaptive_pool(MetaCall& call) {
  const at::Tensor x = call.tensor(0);
  const auto to = call.ints(1);
  if (!to || to->size() != 2 || (*to)[0] < 1 || (*to)[1] < 1 || x.dim() != 4 || x.numel() == 0 ||
      !is_floating(x))
    return false;
  return call.give({x.size(0), x.size(1), (*to)[0], (*to)[1]}, x.scalar_type(),
                   x.suggest_memory_format());
}

bool adaptive_pool_backward(MetaCall& call) {
  const at::Tensor grad = call.tensor(0), x = call.tensor(1);
  return x.dim() == 4 && x.numel() > 0 && is_floating(x) && all_of_type(x.scalar_type(), {grad}) &&
         call.give(x.sizes(), x.scalar_type(), x.suggest_memory_format());
}

constexpr NamedMetaRule rules[] = {
    {"native_layer_norm", layer_norm},
    {"native_layer_norm_backward", layer_norm_backward},
    {"native_batch_norm", batch_norm},
    {"_native_batch_norm_legit_functional", batch_norm_functional},
    {"native_batch_norm_backward", batch_norm_backward},
    {"native_group_norm", group_norm},
    {"native_group_norm_backward", group_norm_backward},
    {"convolution", convolution},
    {"convolution_backward", convolution_backward},
    {"_scaled_dot_product_flash_attention_for_cpu", attention},
    {"_scaled_dot_product_flash_attention_for_cpu_backward", attention_backward},
    {"embedding", embedding},
    {"embedding_dense_backward", embedding_backward},
    {"native_dropout", dropout},
    {"native_dropout_backward", dropout_backward},
    {"_adaptive_avg_pool2d", adaptive_pool},
    {"_adaptive_avg_pool2d_backward", adaptive_pool_backward},
};

}  // namespace

std::span<const NamedMetaRule> nn_meta_rules() { return rules; }

}  // namespace octavo::aten
