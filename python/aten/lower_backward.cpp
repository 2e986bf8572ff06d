// Gradients as compositions of plain ops. The formulas are the derivatives of what the forward
// rules compute; comments say which.
#include <cmath>
#include <numbers>

#include "lower.h"

namespace octavo::aten {
namespace {

using Values = std::vector<IrValue*>;

// grad where x > threshold, or x is NaN
Values threshold(Lowering& to, const Call& call) {
  IrValue* low = to.apply("less_equal", {to.f32(call, "self"), to.scalar(call.real("threshold"))});
  return {to.where(low, to.scalar(0), to.f32(call, "grad_output"))};
}

// grad * y (1 - y)
Values sigmoid(Lowering& to, const Call& call) {
  IrValue* y = to.f32(call, "output");
  return {to.mul(to.mul(to.f32(call, "grad_output"), to.sub(to.scalar(1), y)), y)};
}

// grad * (1 - y^2)
Values tanh(Lowering& to, const Call& call) {
  IrValue* y = to.f32(call, "output");
  return {to.mul(to.f32(call, "grad_output"), to.sub(to.scalar(1), to.mul(y, y)))};
}

// grad * s (1 + x (1 - s)), s = sigmoid(x)
Values silu(Lowering& to, const Call& call) {
  IrValue* x = to.f32(call, "self");
  IrValue* s = to.apply("sigmoid", {x});
  IrValue* slope = to.mul(s, to.add(to.mul(x, to.sub(to.scalar(1), s)), 1.0));
  return {to.mul(to.f32(call, "grad_output"), slope)};
}

// x Phi(x): Phi(x) + x phi(x). x / 2 (1 + tanh u), u = k (x + c x^3):
// (1 + tanh u) / 2 + x / 2 (1 - tanh^2 u) k (1 + 3 c x^2)
Values gelu(Lowering& to, const Call& call) {
  IrValue *x = to.f32(call, "self"), *grad = to.f32(call, "grad_output");
  IrValue* square = to.mul(x, x);
  IrValue* slope = nullptr;
  if (call.text("approximate") == "tanh") {
    constexpr double c = 0.044715;
    const double k = std::numbers::sqrt2 * std::numbers::inv_sqrtpi;
    IrValue* u = to.mul(to.mul(x, to.add(to.mul(square, c), 1.0)), k);
    IrValue* t = to.apply("tanh", {u});
    IrValue* du = to.mul(to.add(to.mul(square, 3 * c), 1.0), k);
    IrValue* right = to.mul(to.mul(to.mul(x, 0.5), to.sub(to.scalar(1), to.mul(t, t))), du);
    slope = to.add(to.mul(to.add(t, 1.0), 0.5), right);
  } else {
    IrValue* erf = to.apply("erf", {to.mul(x, std::numbers::sqrt2 / 2)});
    IrValue* density = to.mul(to.apply("exp", {to.mul(square, -0.5)}),
                              std::numbers::inv_sqrtpi * std::numbers::sqrt2 / 2);
    slope = to.add(to.mul(to.add(erf, 1.0), 0.5), to.mul(x, density));
  }
  return {to.mul(grad, slope)};
}

Values leaky_relu(Lowering& to, const Call& call) {
  IrValue* grad = to.f32(call, "grad_output");
  IrValue* positive = to.apply("greater", {to.f32(call, "self"), to.scalar(0)});
  return {to.where(positive, grad, to.mul(grad, call.real("negative_slope")))};
}

// Strictly between the bounds.
IrValue* inside(Lowering& to, IrValue* x, double low, double high, IrValue* grad) {
  IrValue* below = to.apply("less_equal", {x, to.scalar(low)});
  IrValue* above = to.apply("greater_equal", {x, to.scalar(high)});
  return to.where(to.apply("logical_or", {below, above}), to.scalar(0), grad);
}
Values hardtanh(Lowering& to, const Call& call) {
  return {inside(to, to.f32(call, "self"), call.real("min_val"), call.real("max_val"),
                 to.f32(call, "grad_output"))};
}
Values hardsigmoid(Lowering& to, const Call& call) {
  IrValue* grad = to.mul(to.f32(call, "grad_output"), 1.0 / 6);
  return {inside(to, to.f32(call, "self"), -3, 3, grad)};
}
// x / 3 + 1 / 2 between -3 and 3, 0 below, 1 above
Values hardswish(Lowering& to, const Call& call) {
  IrValue *x = to.f32(call, "self"), *grad = to.f32(call, "grad_output");
  IrValue* middle = to.mul(grad, to.add(to.div(x, to.scalar(3)), 0.5));
  IrValue* low = to.where(to.apply("less", {x, to.scalar(-3)}), to.scalar(0), middle);
  return {to.where(to.apply("greater", {x, to.scalar(3)}), grad, low)};
}

std::vector<std::int64_t> dim_of(const Call& call, const char* of) {
  return {wrap(call.integer("dim"), call.info(of).sizes.size())};
}
bool accepts_softmax(const Call& call) {
  return floats(call) && !call.info("output").sizes.empty();
}

// y (grad - sum(grad y))
Values softmax(Lowering& to, const Call& call) {
  IrValue *grad = to.f32(call, "grad_output"), *y = to.f32(call, "output");
  IrValue* both = to.mul(grad, y);
  IrValue* sum = to.reduce("reduce_sum", both, dim_of(call, "output"), true);
  return {to.sub(both, to.mul(y, sum))};
}

// grad - exp(y) sum(grad)
Values log_softmax(Lowering& to, const Call& call) {
  IrValue *grad = to.f32(call, "grad_output"), *y = to.f32(call, "output");
  IrValue* sum = to.reduce("reduce_sum", grad, dim_of(call, "output"), true);
  return {to.sub(grad, to.mul(to.apply("exp", {y}), sum))};
}

constexpr std::int64_t mean_reduction = 1;

double share(const Call& call, const char* of) {
  if (call.integer("reduction") != mean_reduction) return 1;
  double count = 1;
  for (const auto size : call.info(of).sizes) count *= static_cast<double>(size);
  return 1 / count;
}
// 2 (x - target) grad, by the count if it was a mean
Values mse_loss(Lowering& to, const Call& call) {
  IrValue* difference = to.sub(to.f32(call, "self"), to.f32(call, "target"));
  return {to.mul(to.mul(difference, 2 * share(call, "self")), to.f32(call, "grad_output"))};
}

struct Normalized {
  std::vector<std::int64_t> axes;   // of the row
  std::vector<std::int64_t> outer;  // the others
  double count = 1;
};
Normalized normalized(const Call& call) {
  Normalized n;
  const auto& sizes = call.info("input").sizes;
  const std::size_t first = sizes.size() - call.integers("normalized_shape").size();
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    (i < first ? n.outer : n.axes).push_back(static_cast<std::int64_t>(i));
    if (i >= first) n.count *= static_cast<double>(sizes[i]);
  }
  return n;
}

// With h = (x - mean) rstd and g = grad weight:
//   dx = rstd (g - mean(g) - h mean(g h)), dweight = sum(grad h), dbias = sum(grad)
Values layer_norm(Lowering& to, const Call& call) {
  const Normalized n = normalized(call);
  const auto shape = call.integers("normalized_shape");
  IrValue *grad = to.f32(call, "grad_out"), *x = to.f32(call, "input");
  IrValue *mean = to.f32(call, "mean"), *rstd = to.f32(call, "rstd");
  IrValue* h = to.mul(to.sub(x, mean), rstd);
  Values results(3, nullptr);
  if (!call.unused(0)) {
    IrValue* g = call.given("weight") ? to.mul(grad, to.f32(call, "weight")) : grad;
    IrValue* mean_g = to.reduce("reduce_mean", g, n.axes, true);
    IrValue* mean_gh = to.reduce("reduce_mean", to.mul(g, h), n.axes, true);
    results[0] = to.mul(rstd, to.sub(to.sub(g, mean_g), to.mul(h, mean_gh)));
  }
  if (!call.unused(1))
    results[1] = to.reshape(to.reduce("reduce_sum", to.mul(grad, h), n.outer, false), shape);
  if (!call.unused(2))
    results[2] = to.reshape(to.reduce("reduce_sum", grad, n.outer, false), shape);
  return results;
}
bool accepts_layer_norm(const Call& call) {
  // What is masked out comes back undefined, and has no value.
  bool good = true;
  call.for_each_tensor(
      [&](ValueId value) { good = good && is_f32(call.graph().values[Call::at(value)]); });
  const auto& mask = call.constant("output_mask").toBoolList();
  for (std::size_t i = 0; i < 3; ++i) good = good && (mask[i] || call.unused(i));
  return good && call.node().outputs.size() == 3;
}

// Windows that do not overlap: each element has its window's gradient, by its size; zeros behind
// the last whole window.
bool accepts_avg_pool(const Call& call) {
  if (!floats(call) || call.info("self").sizes.size() != 4 || call.flag("ceil_mode") ||
      call.given("divisor_override"))
    return false;
  const auto kernel = call.integers("kernel_size"), stride = call.integers("stride");
  for (const auto pad : call.integers("padding"))
    if (pad != 0) return false;
  return stride.empty() || stride == kernel ||
         (kernel.size() == 2 && stride.size() == 1 && kernel[0] == kernel[1] &&
          stride[0] == kernel[0]);
}
IrValue* spread(Lowering& to, const Call& call, std::int64_t height, std::int64_t width) {
  IrValue* grad = to.mul(to.f32(call, "grad_output"), 1.0 / static_cast<double>(height * width));
  const auto y = Lowering::sizes(grad), x = call.info("self").sizes;
  grad = to.expand(to.reshape(grad, {y[0], y[1], y[2], 1, y[3], 1}),
                   {y[0], y[1], y[2], height, y[3], width});
  grad = to.reshape(grad, {y[0], y[1], y[2] * height, y[3] * width});
  const Ints pads{0, 0, 0, 0, 0, 0, x[2] - y[2] * height, x[3] - y[3] * width};
  return Lowering::sizes(grad) == x ? grad
                                    : to.apply("pad", {grad, to.scalar(0)}, {{"pads", pads}});
}
Values avg_pool(Lowering& to, const Call& call) {
  const auto kernel = call.integers("kernel_size");
  return {spread(to, call, kernel.front(), kernel.back())};
}
bool accepts_adaptive(const Call& call) {
  const auto& x = call.info("self").sizes;
  const auto& y = call.info("grad_output").sizes;
  return floats(call) && x.size() == 4 && x[2] % y[2] == 0 && x[3] % y[3] == 0;
}
Values adaptive_pool(Lowering& to, const Call& call) {
  const auto &x = call.info("self").sizes, &y = call.info("grad_output").sizes;
  return {spread(to, call, x[2] / y[2], x[3] / y[3])};
}

// grad * mask / (1 - p)
bool accepts_dropout(const Call& call) {
  return is_f32(call.info("grad_output")) && call.info("mask").dtype == at::kBool;
}
Values dropout(Lowering& to, const Call& call) {
  IrValue* kept = to.cast(to.tensor(call, "mask"), DType::f32);
  return {to.mul(to.mul(to.f32(call, "grad_output"), kept), call.real("scale"))};
}

constexpr Rule rules[] = {
    {"aten::threshold_backward", floats, threshold},
    {"aten::sigmoid_backward", floats, sigmoid},
    {"aten::tanh_backward", floats, tanh},
    {"aten::silu_backward", floats, silu},
    {"aten::gelu_backward", floats, gelu},
    {"aten::leaky_relu_backward", floats, leaky_relu},
    {"aten::hardtanh_backward", floats, hardtanh},
    {"aten::hardsigmoid_backward", floats, hardsigmoid},
    {"aten::hardswish_backward", floats, hardswish},
    {"aten::_softmax_backward_data", accepts_softmax, softmax},
    {"aten::_log_softmax_backward_data", accepts_softmax, log_softmax},
    {"aten::mse_loss_backward", floats, mse_loss},
    {"aten::native_layer_norm_backward", accepts_layer_norm, layer_norm},
    {"aten::avg_pool2d_backward", accepts_avg_pool, avg_pool},
    {"aten::_adaptive_avg_pool2d_backward", accepts_adaptive, adaptive_pool},
    {"aten::native_dropout_backward", accepts_dropout, dropout},
};

}  // namespace

std::span<const Rule> backward_rules() { return rules; }

}  // namespace octavo::aten
