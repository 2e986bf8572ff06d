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
  const auto x = in[0]->values<float>(), scale = in[1]->values<float>(),
             bias = in[2]->values<float>(), mean = in[3]->values<float>(),
             variance = in[4]->values<float>();
  auto y = out[0].mutable_values<float>();
  size_t inner = 1;
  for (size_t i = 2; i < in[0]->dims().size(); ++i) inner *= static_cast<size_t>(in[0]->dims()[i]);
  const double epsilon = node.real("epsilon");
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t c = i / inner % scale.size();
    y[i] = static_cast<float>((static_cast<double>(x[i]) - mean[c]) /
                                  std::sqrt(variance[c] + epsilon) * scale[c] +
                              bias[c]);
  }
}

std::vector<Value*> import(OnnxNodeReader& reader) {
  if (reader.integer("training_mode", 0) != 0) reader.unsupported("training_mode 1");
  if (reader.integer("spatial", 1) != 1) reader.unsupported("spatial 0");
  for (size_t i = 0; i < 5; ++i)
    if (!reader.input(i)) reader.invalid("needs input, scale, bias, mean and variance");
  return {reader.apply(
      "batch_norm",
      {reader.input(0), reader.input(1), reader.input(2), reader.input(3), reader.input(4)},
      {{"epsilon", reader.real("epsilon", 1e-5)}})};
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
