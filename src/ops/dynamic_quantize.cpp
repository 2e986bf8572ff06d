// dynamic_quantize: u8 over the range of the values themselves, one float32 rounding each step:
//   least = min(0, x), most = max(0, x), NaN left out;  scale = (most - least) / 255, or 1 for 0
//   zero = saturate(round_half_even(-least / scale))
//   q = saturate(round_half_even(x / scale) + zero), where NaN counts as 0
#include <cmath>

#include "ops/op.h"

namespace octavo::ops {
namespace {

bool by_row(const Node& node) {
  const std::string& granularity = node.text("granularity");
  require(node, granularity == "tensor" || granularity == "row",
          "granularity must be tensor or row");
  return granularity == "row";
}

std::vector<TensorType> infer(const Node& node) {
  const TensorType& x = node.input(0)->type();
  require(node, x.dtype == DType::f32, "the input must be f32");
  Shape parameters;
  if (by_row(node)) {
    require(node, x.shape.rank() >= 1, "rows need an axis");
    parameters = x.shape;
    parameters.back() = Dim(1);
  }
  return {{DType::u8, x.shape}, {DType::f32, parameters}, {DType::u8, parameters}};
}

void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto x = in[0]->values<float>();
  const size_t rows = static_cast<size_t>(out[1].size());
  const size_t length = by_row(node) ? static_cast<size_t>(in[0]->dims().back()) : x.size();
  const auto rounded = [](float value) { return std::isnan(value) ? 0 : std::nearbyint(value); };
  for (size_t row = 0; row < rows; ++row) {
    float least = 0, most = 0;
    for (size_t i = row * length; i < (row + 1) * length; ++i) {
      least = x[i] < least ? x[i] : least;
      most = x[i] > most ? x[i] : most;
    }
    float scale = (most - least) / 255.0f;
    if (!(scale > 0)) scale = 1;
    const float zero = std::clamp(rounded(-least / scale), 0.0f, 255.0f);
    out[1].mutable_values<float>()[row] = scale;
    out[2].mutable_values<uint8_t>()[row] = static_cast<uint8_t>(zero);
    for (size_t i = row * length; i < (row + 1) * length; ++i)
      out[0].mutable_values<uint8_t>()[i] =
          static_cast<uint8_t>(std::clamp(rounded(x[i] / scale) + zero, 0.0f, 255.0f));
  }
}

std::vector<Value*> import(OnnxNodeReader& reader) {
  if (!reader.input(0)) reader.invalid("needs an input");
  return reader.apply_all("dynamic_quantize", {reader.input(0)});
}

void write(const Node& node, OnnxNodeWriter& writer) {
  if (by_row(node)) fail(node, "ONNX quantizes dynamically with one scale for all");
  need_opset(node, writer, 11);
  writer.node("DynamicQuantizeLinear", {writer.value_name(node.input(0))},
              {writer.value_name(node.output(0)), writer.value_name(node.output(1)),
               writer.value_name(node.output(2))});
}

constexpr OnnxImportRule import_rules[] = {
    {.op_type = "DynamicQuantizeLinear", .since = 11, .import = import}};
constexpr OnnxExportRule export_rule{write};

}  // namespace

const OpImpl op_dynamic_quantize{
    .doc =
        "u8 over the range of x and 0: q, scale, zero_point. granularity tensor: one scale; row: "
        "one for each row of the last axis, shape [..., 1].",
    .outputs = 3,
    .attributes = {{"granularity", AttributeKind::text, false, std::string("tensor")}},
    .infer = infer,
    .reference = reference,
    .onnx_import = import_rules,
    .onnx_export = &export_rule};

}  // namespace octavo::ops
