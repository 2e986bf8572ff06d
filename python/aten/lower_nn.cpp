// Layers: convolution, layer normalization, pooling, a loss.
#include <algorithm>
#include <cmath>

#include "lower.h"

namespace octavo::aten {
namespace {

using Values = std::vector<IrValue*>;

constexpr std::int64_t no_reduction = 0, mean_reduction = 1;

Values mse_loss(Lowering& to, const Call& call) {
  IrValue* difference = to.sub(to.f32(call, "self"), to.f32(call, "target"));
  IrValue* squares = to.mul(difference, difference);
  const std::int64_t reduction = call.integer("reduction");
  if (reduction == no_reduction) return {squares};
  std::vector<std::int64_t> axes(squares->shape().size());
  for (std::size_t i = 0; i < axes.size(); ++i) axes[i] = static_cast<std::int64_t>(i);
  return {to.reduce(reduction == mean_reduction ? "reduce_mean" : "reduce_sum", squares,
                    std::move(axes), false)};
}

// y, mean and 1 / sqrt(variance + eps), the last two with dims of 1 for the row.
Values native_layer_norm(Lowering& to, const Call& call) {
  IrValue* x = to.f32(call, "input");
  const auto rank = static_cast<std::int64_t>(x->shape().size());
  const auto first = rank - static_cast<std::int64_t>(call.integers("normalized_shape").size());
  IrValue* weight = call.given("weight") ? to.f32(call, "weight") : nullptr;
  IrValue* bias = call.given("bias") ? to.f32(call, "bias") : nullptr;
  const bool statistics = call.node().outputs.size() > 1 && !(call.unused(1) && call.unused(2));
  if (!statistics) {
    octavo::Node* node = to.graph().add("layer_norm", {x, weight, bias},
                                        {{"axis", first}, {"epsilon", call.real("eps")}});
    node->trim_inputs();
    Values results(call.node().outputs.size(), nullptr);
    results[0] = node->output();
    return results;
  }
  std::vector<std::int64_t> axes;
  for (auto axis = first; axis < rank; ++axis) axes.push_back(axis);
  IrValue* mean = to.reduce("reduce_mean", x, axes, true);
  IrValue* centred = to.sub(x, mean);
  IrValue* variance = to.reduce("reduce_mean", to.mul(centred, centred), axes, true);
  IrValue* rstd = to.apply("reciprocal", {to.apply("sqrt", {to.add(variance, call.real("eps"))})});
  IrValue* y = to.mul(centred, rstd);
  if (weight) y = to.mul(y, weight);
  if (bias) y = to.add(y, bias);
  return {y, mean, rstd};
}

// ---- convolution with weights that are constants of the program

bool constant(const Call& call, const char* name) {
  if (!call.given(name)) return true;
  const auto& constants = call.graph().constants;
  return std::any_of(constants.begin(), constants.end(),
                     [&](const auto& entry) { return entry.first == call.id(name); });
}

bool accepts_convolution(const Call& call) {
  return floats(call) && constant(call, "weight") && constant(call, "bias") &&
         call.info("weight").sizes.size() == 4 && call.info("input").sizes.size() == 4 &&
         (call.find("transposed") < 0 || !call.flag("transposed"));
}
Ints twice(const std::vector<std::int64_t>& values, std::size_t rank) {
  Ints both;
  for (int side = 0; side < 2; ++side)
    for (std::size_t i = 0; i < rank; ++i) both.push_back(values[values.size() == 1 ? 0 : i]);
  return both;
}
Ints per_axis(std::vector<std::int64_t> values, std::size_t rank) {
  if (values.size() == 1) values.resize(rank, values[0]);
  return values;
}
Values convolution(Lowering& to, const Call& call) {
  std::vector<IrValue*> inputs{to.tensor(call, "input"), to.tensor(call, "weight")};
  if (call.given("bias")) inputs.push_back(to.tensor(call, "bias"));
  return {to.apply("conv", std::move(inputs),
                   {{"strides", per_axis(call.integers("stride"), 2)},
                    {"pads", twice(call.integers("padding"), 2)},
                    {"dilations", per_axis(call.integers("dilation"), 2)},
                    {"group", call.integer("groups")}})};
}

// ---- pooling, upsampling

bool accepts_pool(const Call& call) {
  return floats(call) && call.info("self").sizes.size() == 4 && call.node().outputs.size() == 1;
}
bool accepts_pool_indices(const Call& call) {
  return is_f32(call.info("self")) && call.info("self").sizes.size() == 4 && call.unused(1);
}
Attributes window(const Call& call) {
  const Ints kernel = per_axis(call.integers("kernel_size"), 2);
  const auto stride = call.integers("stride");
  return {{"kernel", kernel},
          {"strides", stride.empty() ? kernel : per_axis(stride, 2)},
          {"pads", twice(call.integers("padding"), 2)},
          {"ceil_mode", std::int64_t{call.flag("ceil_mode")}}};
}
Values max_pool(Lowering& to, const Call& call) {
  Attributes attributes = window(call);
  attributes["dilations"] = per_axis(call.integers("dilation"), 2);
  Values results(call.node().outputs.size(), nullptr);
  results[0] = to.apply("max_pool", {to.tensor(call, "self")}, std::move(attributes));
  return results;
}
bool accepts_avg_pool(const Call& call) {
  return accepts_pool(call) && !call.given("divisor_override") && !call.flag("ceil_mode");
}
Values avg_pool(Lowering& to, const Call& call) {
  Attributes attributes = window(call);
  attributes["count_include_pad"] = std::int64_t{call.flag("count_include_pad")};
  return {to.apply("avg_pool", {to.tensor(call, "self")}, std::move(attributes))};
}
bool accepts_adaptive(const Call& call) {
  const auto& y = call.output().sizes;
  return accepts_pool(call) && y[2] == 1 && y[3] == 1;
}
Values adaptive_pool(Lowering& to, const Call& call) {
  return {to.reduce("reduce_mean", to.tensor(call, "self"), {2, 3}, true)};
}

bool accepts_nearest(const Call& call) {
  if (!floats(call) || call.info("self").sizes.size() != 4) return false;
  const auto &x = call.info("self").sizes, &y = call.output().sizes;
  // Whole factors, where every convention of coordinates agrees.
  return y[2] % x[2] == 0 && y[3] % x[3] == 0 && !call.given("scales_h") && !call.given("scales_w");
}
Values nearest(Lowering& to, const Call& call) {
  return {to.apply("resize", {to.tensor(call, "self")},
                   {{"mode", std::string("nearest")},
                    {"coordinates", std::string("asymmetric")},
                    {"rounding", std::string("floor")},
                    {"sizes", Ints(call.output().sizes)}})};
}

constexpr Rule rules[] = {
    {"aten::mse_loss", floats, mse_loss},
    {"aten::native_layer_norm", floats, native_layer_norm},
    {"aten::convolution", accepts_convolution, convolution},
    {"aten::conv2d", accepts_convolution, convolution},
    {"aten::max_pool2d", accepts_pool, max_pool},
    {"aten::max_pool2d_with_indices", accepts_pool_indices, max_pool},
    {"aten::avg_pool2d", accepts_avg_pool, avg_pool},
    {"aten::adaptive_avg_pool2d", accepts_adaptive, adaptive_pool},
    {"aten::_adaptive_avg_pool2d", accepts_adaptive, adaptive_pool},
    {"aten::upsample_nearest2d", accepts_nearest, nearest},
};

}  // namespace

std::span<const Rule> nn_rules() { return rules; }

}  // namespace octavo::aten
