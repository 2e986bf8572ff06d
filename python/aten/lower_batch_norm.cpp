// Batch normalization, in use and in training, and its gradients.
#include "lower.h"

namespace octavo::aten {
namespace {

using Values = std::vector<IrValue*>;

bool f32_arguments(const Call& call) {
  bool good = true;
  call.for_each_tensor(
      [&](ValueId value) { good = good && is_f32(call.graph().values[Call::at(value)]); });
  return good && call.info("input").sizes.size() >= 2;
}

// Everything but the channels.
struct Over {
  explicit Over(const std::vector<std::int64_t>& sizes) : shape(sizes.size(), 1) {
    shape[1] = sizes[1];
    for (std::size_t i = 0; i < sizes.size(); ++i)
      if (i != 1) {
        axes.push_back(static_cast<std::int64_t>(i));
        count *= static_cast<double>(sizes[i]);
      }
  }
  std::vector<std::int64_t> axes;
  std::vector<std::int64_t> shape;  // of what each channel has one of
  double count = 1;
};

bool trains(const Call& call) { return call.find("training") >= 0 && call.flag("training"); }

bool accepts(const Call& call) {
  if (!f32_arguments(call)) return false;
  if (trains(call)) return Over(call.info("input").sizes).count > 1;
  for (std::size_t i = 1; i < call.node().outputs.size(); ++i)
    if (!call.unused(i)) return false;
  for (const char* name : {"weight", "bias", "running_mean", "running_var"})
    if (call.find(name) < 0 || !call.is_tensor(name)) return false;
  return true;
}

// y, mean, 1 / sqrt(variance + eps), then the running statistics if there are any.
Values in_training(Lowering& to, const Call& call) {
  IrValue* x = to.tensor(call, "input");
  const Over over(Lowering::sizes(x));
  const std::vector<std::int64_t> channels{over.shape[1]};
  IrValue* mean = to.reduce("reduce_mean", x, over.axes, true);
  IrValue* centred = to.sub(x, mean);
  IrValue* variance = to.reduce("reduce_mean", to.mul(centred, centred), over.axes, true);
  IrValue* root = to.apply("sqrt", {to.add(variance, call.real("eps"))});
  IrValue* inverse = to.apply("reciprocal", {root});
  IrValue* scale = inverse;
  if (call.is_tensor("weight"))
    scale = to.mul(scale, to.reshape(to.tensor(call, "weight"), over.shape));
  IrValue* y = to.mul(centred, scale);
  if (call.is_tensor("bias")) y = to.add(y, to.reshape(to.tensor(call, "bias"), over.shape));
  Values results{y, to.reshape(mean, channels), to.reshape(inverse, channels)};
  if (call.node().outputs.size() < 5) return results;
  const double momentum = call.real("momentum");
  const auto moved = [&](const char* name, IrValue* now) {
    return to.add(to.mul(to.reshape(now, channels), momentum),
                  to.mul(to.tensor(call, name), 1 - momentum));
  };
  results.push_back(moved("running_mean", mean));
  results.push_back(moved("running_var", to.mul(variance, over.count / (over.count - 1))));
  return results;
}

Values batch_norm(Lowering& to, const Call& call) {
  if (trains(call)) return in_training(to, call);
  Values results(call.node().outputs.size(), nullptr);
  results[0] =
      to.apply("batch_norm",
               {to.tensor(call, "input"), to.tensor(call, "weight"), to.tensor(call, "bias"),
                to.tensor(call, "running_mean"), to.tensor(call, "running_var")},
               {{"epsilon", call.real("eps")}});
  return results;
}

bool accepts_backward(const Call& call) {
  if (!f32_arguments(call)) return false;
  for (const char* name : {"save_mean", "save_invstd"})
    if (call.flag("train") && !call.is_tensor(name)) return false;
  for (const char* name : {"running_mean", "running_var"})
    if (!call.flag("train") && !call.is_tensor(name)) return false;
  const auto& mask = call.constant("output_mask").toBoolList();
  for (std::size_t i = 0; i < 3; ++i)
    if (!mask[i] && !call.unused(i)) return false;
  return call.node().outputs.size() == 3;
}

// With h = (x - mean) r: dweight = sum(grad h), dbias = sum(grad),
//   dx = weight r (grad - mean(grad) - h mean(grad h)); with fixed statistics weight r grad.
Values backward(Lowering& to, const Call& call) {
  const bool train = call.flag("train");
  IrValue *grad = to.tensor(call, "grad_out"), *x = to.tensor(call, "input");
  const Over over(Lowering::sizes(x));
  const std::vector<std::int64_t> channels{over.shape[1]};
  IrValue* mean = to.reshape(to.tensor(call, train ? "save_mean" : "running_mean"), over.shape);
  IrValue* inverse = nullptr;
  if (train)
    inverse = to.reshape(to.tensor(call, "save_invstd"), over.shape);
  else
    inverse =
        to.apply("reciprocal",
                 {to.apply("sqrt", {to.add(to.reshape(to.tensor(call, "running_var"), over.shape),
                                           call.real("eps"))})});
  IrValue* h = to.mul(to.sub(x, mean), inverse);
  IrValue* sum = to.reduce("reduce_sum", grad, over.axes, true);
  IrValue* sum_h = to.reduce("reduce_sum", to.mul(grad, h), over.axes, true);
  Values results(3, nullptr);
  if (!call.unused(0)) {
    IrValue* scale = inverse;
    if (call.is_tensor("weight"))
      scale = to.mul(scale, to.reshape(to.tensor(call, "weight"), over.shape));
    IrValue* slope = grad;
    if (train) {
      const double share = 1 / over.count;
      slope = to.sub(to.sub(grad, to.mul(sum, share)), to.mul(h, to.mul(sum_h, share)));
    }
    results[0] = to.mul(slope, scale);
  }
  if (!call.unused(1)) results[1] = to.reshape(sum_h, channels);
  if (!call.unused(2)) results[2] = to.reshape(sum, channels);
  return results;
}

constexpr Rule rules[] = {
    {"aten::native_batch_norm", accepts, batch_norm},
    {"aten::_native_batch_norm_legit_functional", accepts, batch_norm},
    {"aten::_native_batch_norm_legit_no_training", accepts, batch_norm},
    {"aten::native_batch_norm_backward", accepts_backward, backward},
};

}  // namespace

std::span<const Rule> batch_norm_rules() { return rules; }

}  // namespace octavo::aten
