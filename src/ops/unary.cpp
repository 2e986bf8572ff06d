// The family of functions of one element without parameters: y[i] = f(x[i]), same shape.
#include <cmath>
#include <numbers>

#include "ops/op.h"

namespace octavo::ops {
namespace {

std::vector<TensorType> infer_float(const Node& node) { return {float_input(node)}; }
std::vector<TensorType> infer_number(const Node& node) { return {number_input(node)}; }
std::vector<TensorType> infer_bool(const Node& node) {
  return {{DType::boolean, float_input(node).shape}};
}

template <double (*f)(double)>
void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  visit_floats(node, in[0]->dtype(), [&](auto tag) {
    using T = decltype(tag);
    const auto x = elements<T>(*in[0]);
    auto y = mutable_elements<T>(out[0]);
    for (size_t i = 0; i < x.size(); ++i)
      y[i] = store_element<T>(f(static_cast<double>(load_element(x[i]))));
  });
}

// Integers too, by the functor, which may wrap around.
template <double (*f)(double), class G>
void reference_number(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  if (is_float(in[0]->dtype())) return reference<f>(node, in, out);
  visit_dtype(in[0]->dtype(), [&](auto tag) {
    using T = decltype(tag);
    if constexpr (std::is_integral_v<T>) {
      const auto x = elements<T>(*in[0]);
      auto y = mutable_elements<T>(out[0]);
      for (size_t i = 0; i < x.size(); ++i) y[i] = static_cast<T>(G()(x[i]));
    }
  });
}

template <bool (*f)(double)>
void reference_bool(const Node&, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto x = doubles(*in[0]);
  auto y = out[0].mutable_values<bool>();
  for (size_t i = 0; i < x.size(); ++i) y[i] = f(x[i]);
}

double relu(double x) { return x > 0 || x != x ? x : 0; }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double neg(double x) { return -x; }
double abs(double x) { return std::fabs(x); }
double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : x; }
double round(double x) { return std::nearbyint(x); }
double reciprocal(double x) { return 1 / x; }
double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }
double softsign(double x) { return x / (1 + std::fabs(x)); }
double mish(double x) { return x * std::tanh(softplus(x)); }
double hard_swish(double x) { return x * std::min(std::max(x / 6 + 0.5, 0.0), 1.0); }
double silu(double x) { return x / (1 + std::exp(-x)); }
bool is_nan(double x) { return std::isnan(x); }
#define LIBRARY(name) \
  double name(double x) { return std::name(x); }
// clang-format off
LIBRARY(tanh)
LIBRARY(exp)
LIBRARY(log)
LIBRARY(sqrt)
LIBRARY(erf)
LIBRARY(floor)
LIBRARY(ceil)
LIBRARY(sin)
LIBRARY(cos)
LIBRARY(tan)
LIBRARY(asin)
LIBRARY(acos)
LIBRARY(atan)
LIBRARY(sinh)
LIBRARY(cosh)
LIBRARY(asinh)
LIBRARY(acosh)
LIBRARY(atanh)
// clang-format on
#undef LIBRARY

struct ReluInt {
  template <class T>
  T operator()(T x) const {
    return x > T{0} ? x : T{0};
  }
};
struct NegInt {
  template <class T>
  T operator()(T x) const {
    return static_cast<T>(-static_cast<uint64_t>(x));
  }
};
struct AbsInt {
  template <class T>
  T operator()(T x) const {
    return x > T{0} ? x : NegInt()(x);
  }
};
struct SignInt {
  template <class T>
  int operator()(T x) const {
    return x > T{0} ? 1 : x == T{0} ? 0 : -1;
  }
};

// ONNX's node has the same meaning and no attributes.
template <const char* op>
std::vector<Value*> import(OnnxNodeReader& reader) {
  return {reader.apply(op, {inputs_of(reader)[0]})};
}
template <const char* onnx_name, int64_t since>
void write(const Node& node, OnnxNodeWriter& writer) {
  write_as(node, writer, onnx_name, {}, since);
}

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

void write_mish(const Node& node, OnnxNodeWriter& writer) {
  const std::string x = writer.value_name(node.input(0)), y = writer.value_name(node.output());
  if (writer.opset() >= 18) return writer.node("Mish", {x}, {y});
  const std::string plus = writer.temporary("softplus"), gate = writer.temporary("tanh");
  writer.node("Softplus", {x}, {plus});
  writer.node("Tanh", {plus}, {gate});
  writer.node("Mul", {x, gate}, {y});
}
constexpr OnnxExportRule mish_export{write_mish};
constexpr char mish_name[] = "mish";
constexpr OnnxImportRule mish_import[] = {{.op_type = "Mish", .import = import <mish_name>}};

}  // namespace

#define UNARY(op, onnx_name, types, kernel, formula)                                               \
  namespace {                                                                                      \
  constexpr char op##_name[] = #op, op##_onnx[] = onnx_name;                                       \
  constexpr OnnxImportRule op##_import[] = {{.op_type = onnx_name, .import = import <op##_name>}}; \
  constexpr OnnxExportRule op##_export{write<op##_onnx, 1>};                                       \
  }                                                                                                \
  const OpImpl op_##op{.doc = formula,                                                             \
                       .infer = types,                                                             \
                       .reference = kernel,                                                        \
                       .onnx_import = op##_import,                                                 \
                       .onnx_export = &op##_export};

UNARY(relu, "Relu", infer_number, (reference_number<relu, ReluInt>), "y = max(x, 0)")
UNARY(neg, "Neg", infer_number, (reference_number<neg, NegInt>), "y = -x")
UNARY(abs, "Abs", infer_number, (reference_number<abs, AbsInt>), "y = |x|")
UNARY(sign, "Sign", infer_number, (reference_number<sign, SignInt>), "y = -1, 0 or 1; NaN stays")
UNARY(sigmoid, "Sigmoid", infer_float, reference<sigmoid>, "y = 1 / (1 + exp(-x))")
UNARY(tanh, "Tanh", infer_float, reference<tanh>, "y = tanh(x)")
UNARY(erf, "Erf", infer_float, reference<erf>, "y = erf(x)")
UNARY(exp, "Exp", infer_float, reference<exp>, "y = exp(x)")
UNARY(log, "Log", infer_float, reference<log>, "y = ln(x)")
UNARY(sqrt, "Sqrt", infer_float, reference<sqrt>, "y = square root of x")
UNARY(reciprocal, "Reciprocal", infer_float, reference<reciprocal>, "y = 1 / x")
UNARY(floor, "Floor", infer_float, reference<floor>, "y = the integer at or below x")
UNARY(ceil, "Ceil", infer_float, reference<ceil>, "y = the integer at or above x")
UNARY(round, "Round", infer_float, reference<round>, "y = the integer nearest to x, half to even")
UNARY(softplus, "Softplus", infer_float, reference<softplus>, "y = ln(1 + exp(x))")
UNARY(softsign, "Softsign", infer_float, reference<softsign>, "y = x / (1 + |x|)")
UNARY(sin, "Sin", infer_float, reference<sin>, "y = sin(x)")
UNARY(cos, "Cos", infer_float, reference<cos>, "y = cos(x)")
UNARY(tan, "Tan", infer_float, reference<tan>, "y = tan(x)")
UNARY(asin, "Asin", infer_float, reference<asin>, "y = arcsin(x)")
UNARY(acos, "Acos", infer_float, reference<acos>, "y = arccos(x)")
UNARY(atan, "Atan", infer_float, reference<atan>, "y = arctan(x)")
UNARY(sinh, "Sinh", infer_float, reference<sinh>, "y = sinh(x)")
UNARY(cosh, "Cosh", infer_float, reference<cosh>, "y = cosh(x)")
UNARY(asinh, "Asinh", infer_float, reference<asinh>, "y = arsinh(x)")
UNARY(acosh, "Acosh", infer_float, reference<acosh>, "y = arcosh(x)")
UNARY(atanh, "Atanh", infer_float, reference<atanh>, "y = artanh(x)")
UNARY(is_nan, "IsNaN", infer_bool, reference_bool<is_nan>, "y = whether x is NaN, as bool")

const OpImpl op_hard_swish{.doc = "y = x * min(max(x / 6 + 1/2, 0), 1)",
                           .infer = infer_float,
                           .reference = reference<hard_swish>,
                           .onnx_import = hard_swish_import,
                           .onnx_export = &hard_swish_export};

const OpImpl op_silu{.doc = "y = x / (1 + exp(-x))",
                     .infer = infer_float,
                     .reference = reference<silu>,
                     .onnx_export = &silu_export};

const OpImpl op_mish{.doc = "y = x * tanh(ln(1 + exp(x)))",
                     .infer = infer_float,
                     .reference = reference<mish>,
                     .onnx_import = mish_import,
                     .onnx_export = &mish_export};

}  // namespace octavo::ops
