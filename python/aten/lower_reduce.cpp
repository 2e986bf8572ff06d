// Reductions and softmax.
#include <algorithm>
#include <cmath>

#include "lower.h"

namespace octavo::aten {
namespace {

using Values = std::vector<IrValue*>;

std::vector<std::int64_t> axes_of(const Call& call, std::size_t rank, const char* name = "dim") {
  std::vector<std::int64_t> axes =
      call.find(name) >= 0 ? call.integers(name) : std::vector<std::int64_t>{};
  for (auto& axis : axes) axis = wrap(axis, rank);
  if (rank == 0) return {};
  if (axes.empty())
    for (std::size_t i = 0; i < rank; ++i) axes.push_back(static_cast<std::int64_t>(i));
  std::sort(axes.begin(), axes.end());
  return axes;
}

std::int64_t count_of(const IrValue* x, const std::vector<std::int64_t>& axes) {
  std::int64_t count = 1;
  for (const auto axis : axes) count *= Lowering::sizes(x)[static_cast<std::size_t>(axis)];
  return count;
}

bool keeps(const Call& call) { return call.find("keepdim") >= 0 && call.flag("keepdim"); }

template <const char* op>
Values reduce(Lowering& to, const Call& call) {
  IrValue* x = to.f32(call, "self");
  return {to.reduce(op, x, axes_of(call, x->shape().size()), keeps(call))};
}

struct Moments {
  IrValue *mean, *variance;  // dims kept
};
Moments moments(Lowering& to, IrValue* x, const std::vector<std::int64_t>& axes,
                double correction) {
  IrValue* mean = to.reduce("reduce_mean", x, axes, true);
  IrValue* centred = to.sub(x, mean);
  IrValue* squares = to.mul(centred, centred);
  const auto count = static_cast<double>(count_of(x, axes));
  IrValue* variance = correction == 0 ? to.reduce("reduce_mean", squares, axes, true)
                                      : to.div(to.reduce("reduce_sum", squares, axes, true),
                                               to.scalar(std::max(count - correction, 0.0)));
  return {mean, variance};
}
// Of no dimensions, eager's answer is NaN, with a warning.
bool accepts_variance(const Call& call) {
  const auto& info = call.info("self");
  if (!floats(call) || info.sizes.empty()) return false;
  std::int64_t count = 1;
  for (const auto axis : axes_of(call, info.sizes.size()))
    count *= info.sizes[static_cast<std::size_t>(axis)];
  return static_cast<double>(count) > call.real("correction", 1);
}
Values variance(Lowering& to, const Call& call) {
  IrValue* x = to.f32(call, "self");
  const Moments m = moments(to, x, axes_of(call, x->shape().size()), call.real("correction", 1));
  return {to.reshape(m.variance, call.output().sizes)};
}
Values var_mean(Lowering& to, const Call& call) {
  IrValue* x = to.f32(call, "self");
  const Moments m = moments(to, x, axes_of(call, x->shape().size()), call.real("correction", 1));
  return {to.reshape(m.variance, call.output(0).sizes), to.reshape(m.mean, call.output(1).sizes)};
}

bool accepts_softmax(const Call& call) { return floats(call) && !call.info("self").sizes.empty(); }

Values softmax(Lowering& to, const Call& call) {
  IrValue* x = to.f32(call, "self");
  return {to.apply("softmax", {x}, {{"axis", wrap(call.integer("dim"), x->shape().size())}})};
}

// The kernels of its parts are faster than the op's plain one.
Values log_softmax(Lowering& to, const Call& call) {
  IrValue* x = to.f32(call, "self");
  const std::vector<std::int64_t> axis{wrap(call.integer("dim"), x->shape().size())};
  IrValue* shifted = to.sub(x, to.reduce("reduce_max", x, axis, true));
  IrValue* sum = to.reduce("reduce_sum", to.apply("exp", {shifted}), axis, true);
  return {to.sub(shifted, to.apply("log", {sum}))};
}

// Of the orders that gradients are clipped by.
bool accepts_norm(const Call& call) {
  const double order = call.real("ord");
  return floats(call) && (order == 1 || order == 2 || order == INFINITY);
}
Values norm(Lowering& to, const Call& call) {
  IrValue* x = to.f32(call, "self");
  const double order = call.real("ord");
  const auto axes = axes_of(call, x->shape().size());
  if (order == 2)
    return {to.apply("sqrt", {to.reduce("reduce_sum", to.mul(x, x), axes, keeps(call))})};
  return {
      to.reduce(order == 1 ? "reduce_sum" : "reduce_max", to.apply("abs", {x}), axes, keeps(call))};
}

constexpr char sum_op[] = "reduce_sum", mean_op[] = "reduce_mean";

constexpr Rule rules[] = {
    {"aten::sum", floats, reduce<sum_op>},
    {"aten::sum.dim_IntList", floats, reduce<sum_op>},
    {"aten::mean", floats, reduce<mean_op>},
    {"aten::mean.dim", floats, reduce<mean_op>},
    {"aten::linalg_vector_norm", accepts_norm, norm},
    {"aten::var.correction", accepts_variance, variance},
    {"aten::var_mean.correction", accepts_variance, var_mean},
    {"aten::_softmax", accepts_softmax, softmax},
    {"aten::softmax.int", accepts_softmax, softmax},
    {"aten::_log_softmax", accepts_softmax, log_softmax},
    {"aten::log_softmax.int", accepts_softmax, log_softmax},
};

}  // namespace

std::span<const Rule> reduce_rules() { return rules; }

}  // namespace octavo::aten
