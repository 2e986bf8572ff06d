// The family of float functions of one element: y[i] = f(x[i]), same shape.
#include "ops/op.h"

namespace octavo::ops {
namespace {

std::vector<TensorType> infer(const Node& node) { return {float_input(node)}; }

template <double (*f)(double)>
void reference(const Node&, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto x = in[0]->values<float>();
  auto y = out[0].mutable_values<float>();
  for (size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(f(x[i]));
}

// ONNX's node has the same meaning and no attributes.
template <const char* op>
std::vector<Value*> import(OnnxNodeReader& reader) {
  if (!reader.input(0)) reader.invalid("needs an input");
  return {reader.apply(op, {reader.input(0)})};
}
template <const char* onnx_name>
void write(const Node& node, OnnxNodeWriter& writer) {
  writer.node(onnx_name, {writer.value_name(node.input(0))}, {writer.value_name(node.output())});
}

double relu(double x) { return x > 0 || x != x ? x : 0; }

}  // namespace

#define UNARY(op, onnx_name, formula)                                                      \
  namespace {                                                                              \
  constexpr char op##_name[] = #op, op##_onnx[] = onnx_name;                                \
  constexpr OnnxImportRule op##_import[] = {{.op_type = onnx_name, .import = import<op##_name>}}; \
  constexpr OnnxExportRule op##_export{write<op##_onnx>};                                   \
  }                                                                                        \
  const OpImpl op_##op{.doc = formula,                                                      \
                       .infer = infer,                                                     \
                       .reference = reference<op>,                                         \
                       .onnx_import = op##_import,                                         \
                       .onnx_export = &op##_export};

UNARY(relu, "Relu", "y = max(x, 0); NaN stays NaN")

}  // namespace octavo::ops
