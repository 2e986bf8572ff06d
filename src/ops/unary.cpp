// The family of float functions of one element: y[i] = f(x[i]), same shape.
#include <cmath>
#include <limits>

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
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double tanh(double x) { return std::tanh(x); }
double exp(double x) { return std::exp(x); }
double log(double x) { return std::log(x); }
double sqrt(double x) { return std::sqrt(x); }
double neg(double x) { return -x; }
double abs(double x) { return std::fabs(x); }
double erf(double x) { return std::erf(x); }
double floor(double x) { return std::floor(x); }
double ceil(double x) { return std::ceil(x); }
double round(double x) { return std::nearbyint(x); }
double reciprocal(double x) { return 1 / x; }
double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }
double hard_swish(double x) { return x * std::min(std::max(x / 6 + 0.5, 0.0), 1.0); }
double silu(double x) { return x / (1 + std::exp(-x)); }

// x * sigmoid(x): ONNX has no node of its own for it (Swish is new in opset 24).
void write_silu(const Node& node, OnnxNodeWriter& writer) {
  const std::string x = writer.value_name(node.input(0)), gate = writer.temporary("sigmoid");
  writer.node("Sigmoid", {x}, {gate});
  writer.node("Mul", {x, gate}, {writer.value_name(node.output())});
}
constexpr OnnxExportRule silu_export{write_silu};

void write_hard_swish(const Node& node, OnnxNodeWriter& writer) {
  const std::string x = writer.value_name(node.input(0)), y = writer.value_name(node.output());
  if (writer.opset() >= 14) return writer.node("HardSwish", {x}, {y});
  const std::string gate = writer.temporary("gate");
  writer.node("HardSigmoid", {x}, {gate}, {{"alpha", 1.0 / 6}, {"beta", 0.5}});
  writer.node("Mul", {x, gate}, {y});
}
constexpr OnnxExportRule hard_swish_export{write_hard_swish};
constexpr char hard_swish_name[] = "hard_swish";
constexpr OnnxImportRule hard_swish_import[] = {
    {.op_type = "HardSwish", .import = import <hard_swish_name>}};

// ---- functions with parameters

template <class F>
void apply(const Tensor& in, Tensor& out, F f) {
  const auto x = in.values<float>();
  auto y = out.mutable_values<float>();
  for (size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(f(static_cast<double>(x[i])));
}

void reference_clip(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  // The bounds are float32 values, so that clipping gives the bound itself.
  const double lo = static_cast<float>(node.real("min")), hi = static_cast<float>(node.real("max"));
  apply(*in[0], out[0], [&](double x) { return x != x ? x : std::min(std::max(x, lo), hi); });
}

std::vector<Value*> import_clip(OnnxNodeReader& reader) {
  if (!reader.input(0)) reader.invalid("needs an input");
  constexpr double inf = std::numeric_limits<double>::infinity();
  double lo = -inf, hi = inf;
  if (reader.opset() < 11) {
    lo = reader.real("min", lo), hi = reader.real("max", hi);
  } else {
    for (size_t i : {1u, 2u}) {
      if (!reader.input(i)) continue;
      const Tensor* bound = reader.constant(i);
      if (!bound || bound->size() != 1) reader.unsupported("a bound that is not a constant number");
      (i == 1 ? lo : hi) = bound->to_doubles()[0];
    }
  }
  return {reader.apply("clip", {reader.input(0)}, {{"min", lo}, {"max", hi}})};
}

void write_clip(const Node& node, OnnxNodeWriter& writer) {
  const auto bound = [&](const char* name) {
    const double value = node.real(name);
    return std::isinf(value) ? std::string()
                             : writer.initializer(name, Tensor::scalar(static_cast<float>(value)));
  };
  const std::string lo = bound("min"), hi = bound("max");
  std::vector<std::string> inputs{writer.value_name(node.input(0))};
  if (!lo.empty() || !hi.empty()) inputs.push_back(lo);
  if (!hi.empty()) inputs.push_back(hi);
  writer.node("Clip", std::move(inputs), {writer.value_name(node.output())});
}

void reference_leaky(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const double alpha = node.real("alpha");
  apply(*in[0], out[0], [&](double x) { return x < 0 ? alpha * x : x; });
}
void reference_elu(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const double alpha = node.real("alpha");
  apply(*in[0], out[0], [&](double x) { return x < 0 ? alpha * std::expm1(x) : x; });
}
void reference_hard_sigmoid(const Node& node, std::span<const Tensor* const> in,
                            std::span<Tensor> out) {
  const double alpha = node.real("alpha"), beta = node.real("beta");
  apply(*in[0], out[0], [&](double x) { return std::min(std::max(alpha * x + beta, 0.0), 1.0); });
}

std::vector<Value*> import_alpha(OnnxNodeReader& reader, const char* op, double fallback) {
  if (!reader.input(0)) reader.invalid("needs an input");
  return {reader.apply(op, {reader.input(0)}, {{"alpha", reader.real("alpha", fallback)}})};
}

constexpr OnnxImportRule clip_import[] = {{.op_type = "Clip", .import = import_clip}};
constexpr OnnxExportRule clip_export{write_clip};
constexpr OnnxImportRule leaky_import[] = {
    {.op_type = "LeakyRelu",
     .import = [](OnnxNodeReader& r) { return import_alpha(r, "leaky_relu", 0.01); }}};
constexpr OnnxImportRule elu_import[] = {
    {.op_type = "Elu", .import = [](OnnxNodeReader& r) { return import_alpha(r, "elu", 1.0); }}};
constexpr OnnxImportRule hard_sigmoid_import[] = {
    {.op_type = "HardSigmoid", .import = [](OnnxNodeReader& r) -> std::vector<Value*> {
       if (!r.input(0)) r.invalid("needs an input");
       return {r.apply("hard_sigmoid", {r.input(0)},
                       {{"alpha", r.real("alpha", 0.2)}, {"beta", r.real("beta", 0.5)}})};
     }}};
constexpr OnnxExportRule leaky_export{[](const Node& node, OnnxNodeWriter& w) {
  w.node("LeakyRelu", {w.value_name(node.input(0))}, {w.value_name(node.output())},
         {{"alpha", node.real("alpha")}});
}};
constexpr OnnxExportRule elu_export{[](const Node& node, OnnxNodeWriter& w) {
  w.node("Elu", {w.value_name(node.input(0))}, {w.value_name(node.output())},
         {{"alpha", node.real("alpha")}});
}};
constexpr OnnxExportRule hard_sigmoid_export{[](const Node& node, OnnxNodeWriter& w) {
  w.node("HardSigmoid", {w.value_name(node.input(0))}, {w.value_name(node.output())},
         {{"alpha", node.real("alpha")}, {"beta", node.real("beta")}});
}};

}  // namespace

#define UNARY(op, onnx_name, formula)                                                              \
  namespace {                                                                                      \
  constexpr char op##_name[] = #op, op##_onnx[] = onnx_name;                                       \
  constexpr OnnxImportRule op##_import[] = {{.op_type = onnx_name, .import = import <op##_name>}}; \
  constexpr OnnxExportRule op##_export{write<op##_onnx>};                                          \
  }                                                                                                \
  const OpImpl op_##op{.doc = formula,                                                             \
                       .infer = infer,                                                             \
                       .reference = reference<op>,                                                 \
                       .onnx_import = op##_import,                                                 \
                       .onnx_export = &op##_export};

UNARY(relu, "Relu", "y = max(x, 0); NaN stays NaN")
UNARY(sigmoid, "Sigmoid", "y = 1 / (1 + exp(-x))")
UNARY(tanh, "Tanh", "y = tanh(x)")
UNARY(exp, "Exp", "y = exp(x)")
UNARY(log, "Log", "y = log(x)")
UNARY(sqrt, "Sqrt", "y = sqrt(x)")
UNARY(neg, "Neg", "y = -x")
UNARY(abs, "Abs", "y = |x|")
UNARY(erf, "Erf", "y = erf(x)")
UNARY(floor, "Floor", "y = the largest integer up to x")
UNARY(ceil, "Ceil", "y = the smallest integer from x")
UNARY(round, "Round", "y = the nearest integer, halves to even")
UNARY(reciprocal, "Reciprocal", "y = 1 / x")
UNARY(softplus, "Softplus", "y = log(1 + exp(x))")

const OpImpl op_hard_swish{.doc = "y = x * min(max(x / 6 + 1/2, 0), 1)",
                           .infer = infer,
                           .reference = reference<hard_swish>,
                           .onnx_import = hard_swish_import,
                           .onnx_export = &hard_swish_export};

const OpImpl op_silu{.doc = "y = x / (1 + exp(-x))",
                     .infer = infer,
                     .reference = reference<silu>,
                     .onnx_export = &silu_export};

const OpImpl op_clip{
    .doc = "y = min(max(x, min), max); NaN stays NaN",
    .attributes = {{"min", AttributeKind::real, false, -std::numeric_limits<double>::infinity()},
                   {"max", AttributeKind::real, false, std::numeric_limits<double>::infinity()}},
    .infer = infer,
    .reference = reference_clip,
    .onnx_import = clip_import,
    .onnx_export = &clip_export};

const OpImpl op_leaky_relu{.doc = "y = x, or alpha * x below 0",
                           .attributes = {{"alpha", AttributeKind::real, false, 0.01}},
                           .infer = infer,
                           .reference = reference_leaky,
                           .onnx_import = leaky_import,
                           .onnx_export = &leaky_export};

const OpImpl op_elu{.doc = "y = x, or alpha * (exp(x) - 1) below 0",
                    .attributes = {{"alpha", AttributeKind::real, false, 1.0}},
                    .infer = infer,
                    .reference = reference_elu,
                    .onnx_import = elu_import,
                    .onnx_export = &elu_export};

const OpImpl op_hard_sigmoid{.doc = "y = min(max(alpha * x + beta, 0), 1)",
                             .attributes = {{"alpha", AttributeKind::real, false, 0.2},
                                            {"beta", AttributeKind::real, false, 0.5}},
                             .infer = infer,
                             .reference = reference_hard_sigmoid,
                             .onnx_import = hard_sigmoid_import,
                             .onnx_export = &hard_sigmoid_export};

}  // namespace octavo::ops
