#include "ops/shape.h"

#include "ops/op.h"

namespace octavo::ops {

Ints shape_axes(const Node& node) {
  const int64_t rank = node.input(0)->shape().rank();
  const auto clamped = [&](int64_t i) {
    return std::clamp<int64_t>(i < 0 ? i + rank : i, 0, rank);
  };
  Ints axes;
  for (int64_t i = clamped(node.integer("start")); i < clamped(node.integer("end")); ++i)
    axes.push_back(i);
  return axes;
}

namespace {

std::vector<TensorType> infer(const Node& node) {
  return {{DType::i64, Shape{static_cast<int64_t>(shape_axes(node).size())}}};
}

void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  auto y = out[0].mutable_values<int64_t>();
  size_t i = 0;
  for (const int64_t axis : shape_axes(node)) y[i++] = in[0]->dims()[static_cast<size_t>(axis)];
}

std::vector<Value*> import_shape(OnnxNodeReader& reader) {
  if (!reader.input(0)) reader.invalid("needs an input");
  return {reader.apply(
      "shape", {reader.input(0)},
      {{"start", reader.integer("start", 0)}, {"end", reader.integer("end", INT64_MAX)}})};
}

std::vector<Value*> import_size(OnnxNodeReader& reader) {
  if (!reader.input(0)) reader.invalid("needs an input");
  Value* dims = reader.apply("shape", {reader.input(0)});
  return {reader.apply("reduce_prod", {dims}, {{"keepdims", int64_t{0}}})};
}

constexpr OnnxImportRule import_rules[] = {{.op_type = "Shape", .import = import_shape},
                                           {.op_type = "Size", .import = import_size}};
constexpr OnnxExportRule export_rule{[](const Node& node, OnnxNodeWriter& writer) {
  Attributes onnx;
  const Ints axes = shape_axes(node);
  const int64_t rank = node.input(0)->shape().rank(), count = static_cast<int64_t>(axes.size());
  if (count != rank) {
    if (writer.opset() < 15) fail(node, "a part of the shape needs ONNX opset 15");
    onnx["start"] = count == 0 ? rank : axes.front();
    onnx["end"] = count == 0 ? rank : axes.back() + 1;
  }
  writer.node("Shape", {writer.value_name(node.input(0))}, {writer.value_name(node.output())},
              onnx);
}};

}  // namespace

const OpImpl op_shape{.doc = "The sizes of x's axes from `start` to `end`, as i64.",
                      .attributes = {{"start", AttributeKind::integer, false, int64_t{0}},
                                     {"end", AttributeKind::integer, false, int64_t{INT64_MAX}}},
                      .infer = infer,
                      .reference = reference,
                      .onnx_import = import_rules,
                      .onnx_export = &export_rule};

}  // namespace octavo::ops
