#include "tensors.h"

#include <ATen/ExpandUtils.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <numeric>

#include "../torch_dtypes.h"

namespace octavo::torch_ops {
namespace {

using Order = c10::SmallVector<int64_t, 6>;

// The dims of dense x from the slowest to the fastest.
Order memory_order(const Tensor& x) {
  Order order(static_cast<size_t>(x.dim()));
  std::iota(order.begin(), order.end(), 0);
  if (!x.is_contiguous())
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return x.stride(a) > x.stride(b); });
  return order;
}

Tensor converted(const Tensor& parameters, at::ScalarType type) {
  return parameters.to(type).contiguous();
}

}  // namespace

void check_float(const Tensor& x, const char* op, const char* name) {
  const auto type = x.scalar_type();
  TORCH_CHECK_TYPE(
      type == at::kFloat || type == at::kHalf || type == at::kBFloat16 || type == at::kDouble, op,
      ": ", name, " is ", type, "; use float32, float16, bfloat16 or float64");
}

DType dtype_of_tensor(const Tensor& x) {
  const auto type = x.scalar_type();
  const auto found = dtype_of(type);
  const bool wide = type == at::kBool || type == at::kInt || type == at::kLong;
  TORCH_CHECK_TYPE(found && !wide, "octavo: tensors of ", type, " are not supported");
  return *found;
}

Tensor dense(const Tensor& x) {
  return x.is_non_overlapping_and_dense() ? x : at::empty_like(x).copy_(x);
}

Tensor in_order_of(const Tensor& x, const Tensor& like) {
  if (x.strides() == like.strides() || (x.is_contiguous() && like.is_contiguous())) return x;
  return at::empty_like(like, x.options()).copy_(x);
}

Laid lay_broadcast(const Tensor& parameters, const Tensor& x, at::ScalarType type, const char* op,
                   const char* name) {
  TORCH_CHECK_TYPE(at::isFloatingType(parameters.scalar_type()) ||
                       at::isIntegralType(parameters.scalar_type(), false),
                   op, ": ", name, " is ", parameters.scalar_type(), "; give numbers");
  if (parameters.numel() == 1) return {converted(parameters, type), Spread::all(x.numel())};
  const int64_t rank = x.dim(), offset = rank - parameters.dim();
  bool fits = offset >= 0;
  for (int64_t i = 0; fits && i < parameters.dim(); ++i)
    fits = parameters.size(i) == 1 || parameters.size(i) == x.size(i + offset);
  TORCH_CHECK_VALUE(fits, op, ": ", name, " of shape ", parameters.sizes(),
                    " does not broadcast to the input's ", x.sizes());
  Tensor aligned = parameters;
  for (int64_t i = 0; i < offset; ++i) aligned = aligned.unsqueeze(0);
  const Order order = memory_order(x);
  aligned = aligned.permute(order);
  // The dims that have parameters of their own, if they are neighbours in memory, are the axis.
  int64_t first = -1, last = -1;
  for (int64_t i = 0; i < rank; ++i)
    if (aligned.size(i) > 1) {
      if (first < 0) first = i;
      last = i;
    }
  int64_t outer = 1, along = 1, inner = 1;
  bool whole = true;
  for (int64_t i = 0; i < rank; ++i) {
    const int64_t n = x.size(order[static_cast<size_t>(i)]);
    (i < first ? outer : i <= last ? along : inner) *= n;
    whole = whole && (i < first || i > last || aligned.size(i) == n);
  }
  if (whole) return {converted(aligned, type), Spread::axis(outer, along, inner)};
  c10::SmallVector<int64_t, 6> sizes;
  for (int64_t i : order) sizes.push_back(x.size(i));
  return {converted(aligned.expand(sizes), type), Spread::axis(1, x.numel(), 1)};
}

Tensor summed_to(const Tensor& sums, const Tensor& x, const Tensor& like) {
  if (sums.numel() == 1) return sums.reshape(like.sizes());
  const Order order = memory_order(x);
  Order back(order.size());
  for (size_t i = 0; i < order.size(); ++i)
    back[static_cast<size_t>(order[i])] = static_cast<int64_t>(i);
  return at::sum_to(sums.permute(back), like.sizes());
}

Laid lay_axis(const Tensor& parameters, const Tensor& x, int64_t axis, at::ScalarType type,
              const char* op, const char* name) {
  if (parameters.numel() == 1) return {converted(parameters, type), Spread::all(x.numel())};
  TORCH_CHECK_INDEX(axis >= -x.dim() && axis < x.dim(), op, ": axis ", axis, " of a tensor with ",
                    x.dim(), " dimensions");
  if (axis < 0) axis += x.dim();
  TORCH_CHECK_VALUE(parameters.numel() == x.size(axis), op, ": ", name, " has ", parameters.numel(),
                    " elements; one, or as many as axis ", axis, " of the input is long (",
                    x.size(axis), "), are needed");
  int64_t outer = 1, inner = 1;
  bool after = false;
  for (int64_t i : memory_order(x)) {
    if (i == axis)
      after = true;
    else
      (after ? inner : outer) *= x.size(i);
  }
  return {converted(parameters, type), Spread::axis(outer, x.size(axis), inner)};
}

Laid lay_groups(const Tensor& parameters, const Tensor& x, int64_t axis, int64_t group_size,
                at::ScalarType type, const char* op, const char* name) {
  TORCH_CHECK_INDEX(axis >= -x.dim() && axis < x.dim(), op, ": axis ", axis, " of a tensor with ",
                    x.dim(), " dimensions");
  if (axis < 0) axis += x.dim();
  Spread s = Spread::axis(1, x.size(axis), 1);
  s.group = group_size;
  std::vector<int64_t> expected = x.sizes().vec();
  expected[static_cast<size_t>(axis)] = (x.size(axis) + group_size - 1) / group_size;
  for (int64_t i = 0; i < x.dim(); ++i)
    if (i != axis) (i < axis ? s.outer : s.inner) *= x.size(i);
  TORCH_CHECK_VALUE(parameters.sizes() == at::IntArrayRef(expected), op, ": ", name, " of shape ",
                    parameters.sizes(), " where groups of ", group_size, " along axis ", axis,
                    " need ", at::IntArrayRef(expected));
  return {converted(parameters, type), s};
}

}  // namespace octavo::torch_ops
