#include <cmath>

#include "ops/op.h"

namespace octavo::ops {
namespace {

std::vector<TensorType> infer(const Node& node) {
  const TensorType& x = float_input(node);
  normalize_axis(node.integer("axis"), x.shape.rank(), node.where());
  return {x};
}

void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto x = in[0]->values<float>();
  auto y = out[0].mutable_values<float>();
  const Dims& dims = in[0]->dims();
  const auto axis =
      static_cast<size_t>(normalize_axis(node.integer("axis"), in[0]->rank(), node.where()));
  size_t inner = 1;
  for (size_t i = axis + 1; i < dims.size(); ++i) inner *= static_cast<size_t>(dims[i]);
  const auto length = static_cast<size_t>(dims[axis]);
  for (size_t i = 0; i < x.size(); ++i) {
    if (i / inner % length != 0) continue;  // i is the first element of a row
    double most = x[i], sum = 0;
    for (size_t k = 0; k < length; ++k) most = std::max<double>(most, x[i + k * inner]);
    for (size_t k = 0; k < length; ++k) sum += std::exp(x[i + k * inner] - most);
    for (size_t k = 0; k < length; ++k)
      y[i + k * inner] = static_cast<float>(std::exp(x[i + k * inner] - most) / sum);
  }
}

std::vector<Value*> import(OnnxNodeReader& reader) {
  if (!reader.input(0)) reader.invalid("needs an input");
  const int64_t rank = reader.input(0)->shape().rank();
  if (reader.opset() >= 13)
    return {reader.apply("softmax", {reader.input(0)}, {{"axis", reader.integer("axis", -1)}})};
  // Before opset 13 all axes from `axis` on are one.
  int64_t axis = reader.integer("axis", 1);
  if (axis < 0) axis += rank;
  if (axis != rank - 1) reader.unsupported("an axis that is not the last, before opset 13");
  return {reader.apply("softmax", {reader.input(0)}, {{"axis", axis}})};
}

constexpr OnnxImportRule import_rules[] = {{.op_type = "Softmax", .import = import}};
constexpr OnnxExportRule export_rule{[](const Node& node, OnnxNodeWriter& writer) {
  writer.node("Softmax", {writer.value_name(node.input(0))}, {writer.value_name(node.output())},
              {{"axis", normalize_axis(node.integer("axis"), node.input(0)->shape().rank(),
                                       node.where())}});
}};

}  // namespace

const OpImpl op_softmax{.doc = "exp(x - max) / sum exp(x - max) along `axis`.",
                        .attributes = {{"axis", AttributeKind::integer, false, int64_t{-1}}},
                        .infer = infer,
                        .reference = reference,
                        .onnx_import = import_rules,
                        .onnx_export = &export_rule};

}  // namespace octavo::ops
