#include <cmath>

#include "ops/op.h"

namespace octavo::ops {
namespace {

std::vector<TensorType> infer(const Node& node) {
  const TensorType& x = float_input(node);
  require(node, x.shape.rank() >= 2, "the input needs a channel axis");
  for (size_t i = 1; i < 5; ++i) {
    const Shape& p = node.input(i)->shape();
    require(node,
            p.rank() == 1 && (!x.shape[1].is_static() || !p[0].is_static() || p[0] == x.shape[1]),
            "scale, bias, mean and variance must be one per channel");
  }
  return {x};
}

void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto scale = doubles(*in[1]), bias = doubles(*in[2]), mean = doubles(*in[3]),
             variance = doubles(*in[4]);
  std::vector<double> x = doubles(*in[0]);
  size_t inner = 1;
  for (size_t i = 2; i < in[0]->dims().size(); ++i) inner *= static_cast<size_t>(in[0]->dims()[i]);
  const double epsilon = node.real("epsilon");
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t c = i / inner % scale.size();
    x[i] = (x[i] - mean[c]) / std::sqrt(variance[c] + epsilon) * scale[c] + bias[c];
  }
  store_doubles(x, out[0]);
}

// Statistics of this batch, and running ones as further outputs.
std::vector<Value*> import_training(OnnxNodeReader& reader) {
  const auto in = inputs_of(reader, 5);
  const int64_t rank = in[0]->shape().rank();
  Ints axes{0};
  for (int64_t i = 2; i < rank; ++i) axes.push_back(i);
  const auto number = [&](double v, Value* like) {
    return reader.constant_value(convert(Tensor::scalar(v), like->dtype()));
  };
  const auto mean_of = [&](Value* x, int64_t keep) {
    return reader.apply("reduce_mean", {x}, {{"axes", axes}, {"keepdims", keep}});
  };
  Value* centred = reader.apply("sub", {in[0], mean_of(in[0], 1)});
  Value *mean = mean_of(in[0], 0), *variance = mean_of(reader.apply("mul", {centred, centred}), 0);
  Value* y = reader.apply("batch_norm", {in[0], in[1], in[2], mean, variance},
                          {{"epsilon", reader.real("epsilon", 1e-5)}});
  const double momentum = reader.real("momentum", 0.9);
  const auto running = [&](Value* old, Value* now) {
    return reader.apply("add", {reader.apply("mul", {old, number(momentum, old)}),
                                reader.apply("mul", {now, number(1 - momentum, now)})});
  };
  return {y, running(in[3], mean), running(in[4], variance)};
}

std::vector<Value*> import(OnnxNodeReader& reader) {
  if (reader.integer("training_mode", 0) != 0) return import_training(reader);
  if (reader.integer("spatial", 1) != 1) reader.unsupported("spatial 0");
  auto inputs = inputs_of(reader, 5);
  inputs.resize(5);
  return {reader.apply("batch_norm", inputs, {{"epsilon", reader.real("epsilon", 1e-5)}})};
}

constexpr OnnxImportRule import_rules[] = {
    {.op_type = "BatchNormalization", .since = 7, .import = import}};
constexpr OnnxExportRule export_rule{[](const Node& node, OnnxNodeWriter& writer) {
  std::vector<std::string> inputs;
  for (size_t i = 0; i < 5; ++i) inputs.push_back(writer.value_name(node.input(i)));
  writer.node("BatchNormalization", std::move(inputs), {writer.value_name(node.output())},
              {{"epsilon", node.real("epsilon")}});
}};

}  // namespace

const OpImpl op_batch_norm{
    .doc = "y = (x - mean) / sqrt(variance + epsilon) * scale + bias, per channel (axis 1).",
    .min_inputs = 5,
    .max_inputs = 5,
    .attributes = {{"epsilon", AttributeKind::real, false, 1e-5}},
    .infer = infer,
    .reference = reference,
    .onnx_import = import_rules,
    .onnx_export = &export_rule};

}  // namespace octavo::ops
