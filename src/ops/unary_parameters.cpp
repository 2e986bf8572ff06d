// The family of functions of one element with parameters: y[i] = f(x[i]; attributes).
#include <cmath>
#include <limits>
#include <numbers>

#include "ops/op.h"

namespace octavo::ops {
namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

std::vector<TensorType> infer(const Node& node) { return {float_input(node)}; }
std::vector<TensorType> infer_number(const Node& node) { return {number_input(node)}; }

template <class F>
void apply(const Node& node, const Tensor& in, Tensor& out, F f) {
  visit_floats(node, in.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const auto x = elements<T>(in);
    auto y = mutable_elements<T>(out);
    for (size_t i = 0; i < x.size(); ++i)
      y[i] = store_element<T>(static_cast<double>(f(static_cast<double>(load_element(x[i])))));
  });
}

// The bounds as values of the element type, so that clipping gives the bound itself.
void reference_clip(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const double lo = node.real("min"), hi = node.real("max");
  if (is_float(in[0]->dtype()))
    return apply(node, *in[0], out[0],
                 [&](double x) { return x != x ? x : std::min(std::max(x, lo), hi); });
  visit_dtype(in[0]->dtype(), [&](auto tag) {
    using T = decltype(tag);
    if constexpr (std::is_integral_v<T>) {
      // Bounds beyond the type's range are none.
      using Limits = std::numeric_limits<T>;
      const auto bound = [](double b, T none) {
        return b > static_cast<double>(Limits::min()) && b < static_cast<double>(Limits::max())
                   ? static_cast<T>(b)
                   : none;
      };
      const T least = bound(std::ceil(lo), lo > 0 ? Limits::max() : Limits::min());
      const T most = bound(std::floor(hi), hi > 0 ? Limits::max() : Limits::min());
      const auto x = elements<T>(*in[0]);
      auto y = mutable_elements<T>(out[0]);
      for (size_t i = 0; i < x.size(); ++i) y[i] = std::min(std::max(x[i], least), most);
    }
  });
}

// Bounds that are constant numbers are attributes; others make a maximum and a minimum.
std::vector<Value*> import_clip(OnnxNodeReader& reader) {
  Value* x = inputs_of(reader)[0];
  double lo = reader.opset() < 11 ? reader.real("min", -inf) : -inf,
         hi = reader.opset() < 11 ? reader.real("max", inf) : inf;
  for (size_t i : {1u, 2u}) {
    if (!reader.input(i)) continue;
    const Tensor* bound = reader.constant(i);
    if (bound && bound->size() != 1) reader.invalid("a bound must be one number");
    // A 64-bit bound may not be a double: it is compared as it is.
    const bool wide = x->dtype() == DType::i64 || x->dtype() == DType::u64;
    if (bound && !wide)
      (i == 1 ? lo : hi) = bound->to_doubles()[0];
    else
      x = reader.apply(i == 1 ? "maximum" : "minimum", {x, reader.input(i)});
  }
  if (lo == -inf && hi == inf && x != reader.input(0)) return {x};
  return {reader.apply("clip", {x}, {{"min", lo}, {"max", hi}})};
}

void write_clip(const Node& node, OnnxNodeWriter& writer) {
  const DType dtype = node.input(0)->dtype();
  const auto bound = [&](const char* name) {
    const double value = node.real(name);
    return std::isinf(value) ? std::string()
                             : writer.initializer(name, convert(Tensor::scalar(value), dtype));
  };
  const std::string lo = bound("min"), hi = bound("max");
  std::vector<std::string> inputs{writer.value_name(node.input(0))};
  if (!lo.empty() || !hi.empty()) inputs.push_back(lo);
  if (!hi.empty()) inputs.push_back(hi);
  writer.node("Clip", std::move(inputs), {writer.value_name(node.output())});
}

constexpr OnnxImportRule clip_import[] = {{.op_type = "Clip", .import = import_clip}};
constexpr OnnxExportRule clip_export{write_clip};

// Functions of x and up to two numbers.
using Function = double (*)(double x, double a, double b);

double leaky_relu(double x, double a, double) { return x < 0 ? a * x : x; }
double elu(double x, double a, double) { return x < 0 ? a * std::expm1(x) : x; }
double celu(double x, double a, double) { return x < 0 ? a * std::expm1(x / a) : x; }
double selu(double x, double a, double b) { return b * (x > 0 ? x : a * std::expm1(x)); }
double thresholded_relu(double x, double a, double) { return x > a ? x : 0; }
double hard_sigmoid(double x, double a, double b) {
  return std::min(std::max(a * x + b, 0.0), 1.0);
}
double shrink(double x, double a, double b) { return x < -b ? x + a : x > b ? x - a : 0; }
double swish(double x, double a, double) { return x / (1 + std::exp(-a * x)); }

template <Function f, const char* a, const char* b>
void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const double p = node.real(a), q = std::string_view(b).empty() ? 0 : node.real(b);
  apply(node, *in[0], out[0], [&](double x) { return f(x, p, q); });
}

template <const char* op, const char* a, const char* b>
std::vector<Value*> import(OnnxNodeReader& reader) {
  Attributes attributes;
  for (const char* name : {a, b})
    if (!std::string_view(name).empty())
      attributes[name] =
          reader.real(name, std::get<double>(find_op(op)->attribute(name)->fallback));
  return {reader.apply(op, {inputs_of(reader)[0]}, std::move(attributes))};
}

template <const char* onnx_name, const char* a, const char* b, int64_t since>
void write(const Node& node, OnnxNodeWriter& writer) {
  Attributes attributes;
  for (const char* name : {a, b})
    if (!std::string_view(name).empty()) attributes[name] = node.real(name);
  write_as(node, writer, onnx_name, attributes, since);
}

// Infinity of either sign, or of one only.
std::vector<TensorType> infer_bool(const Node& node) {
  return {{DType::boolean, float_input(node).shape}};
}
void reference_is_inf(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto x = doubles(*in[0]);
  auto y = out[0].mutable_values<bool>();
  const bool negative = node.integer("negative") != 0, positive = node.integer("positive") != 0;
  for (size_t i = 0; i < x.size(); ++i) y[i] = std::isinf(x[i]) && (x[i] < 0 ? negative : positive);
}
constexpr OnnxImportRule is_inf_import[] = {
    {.op_type = "IsInf", .import = [](OnnxNodeReader& r) -> std::vector<Value*> {
       return {r.apply("is_inf", {inputs_of(r)[0]},
                       {{"negative", r.integer("detect_negative", 1)},
                        {"positive", r.integer("detect_positive", 1)}})};
     }}};
constexpr OnnxExportRule is_inf_export{[](const Node& node, OnnxNodeWriter& writer) {
  write_as(node, writer, "IsInf",
           {{"detect_negative", node.integer("negative")},
            {"detect_positive", node.integer("positive")}});
}};

// ---- gelu

void reference_gelu(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  if (node.text("approximate") == "tanh")
    return apply(node, *in[0], out[0], [](double x) {
      return 0.5 * x *
             (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    });
  apply(node, *in[0], out[0],
        [](double x) { return 0.5 * x * std::erfc(-x / std::numbers::sqrt2); });
}

std::vector<TensorType> infer_gelu(const Node& node) {
  require(node, node.text("approximate") == "none" || node.text("approximate") == "tanh",
          "approximate must be none or tanh");
  return {float_input(node)};
}

void write_gelu(const Node& node, OnnxNodeWriter& writer) {
  if (writer.opset() >= 20)
    return write_as(node, writer, "Gelu", {{"approximate", node.text("approximate")}});
  const std::string x = writer.value_name(node.input(0));
  const auto number = [&](double v) {
    return writer.initializer("gelu", convert(Tensor::scalar(v), node.input(0)->dtype()));
  };
  const auto step = [&](const char* op, std::vector<std::string> inputs) {
    std::string y = writer.temporary("gelu");
    writer.node(op, std::move(inputs), {y});
    return y;
  };
  std::string gate;
  if (node.text("approximate") == "tanh") {
    const std::string cube = step("Mul", {step("Mul", {x, x}), x});
    const std::string inner = step("Add", {x, step("Mul", {cube, number(0.044715)})});
    gate = step("Tanh", {step("Mul", {inner, number(std::sqrt(2 / std::numbers::pi))})});
  } else {
    gate = step("Erf", {step("Div", {x, number(std::numbers::sqrt2)})});
  }
  const std::string half = step("Mul", {x, step("Add", {gate, number(1)})});
  writer.node("Mul", {half, number(0.5)}, {writer.value_name(node.output())});
}

constexpr OnnxImportRule gelu_import[] = {
    {.op_type = "Gelu",
     .since = 20,
     .import = [](OnnxNodeReader& r) -> std::vector<Value*> {
       return {
           r.apply("gelu", {inputs_of(r)[0]}, {{"approximate", r.text("approximate", "none")}})};
     }},
    {.op_type = "Gelu",
     .import = [](OnnxNodeReader& r) -> std::vector<Value*> {
       return {r.apply("gelu", {inputs_of(r)[0]})};
     },
     .domain = "com.microsoft"},
    {.op_type = "FastGelu",
     .import = [](OnnxNodeReader& r) -> std::vector<Value*> {
       Value* x = inputs_of(r)[0];
       if (r.input(1)) x = r.apply("add", {x, r.input(1)});
       return {r.apply("gelu", {x}, {{"approximate", std::string("tanh")}})};
     },
     .domain = "com.microsoft"},
    {.op_type = "BiasGelu",
     .import = [](OnnxNodeReader& r) -> std::vector<Value*> {
       inputs_of(r, 2);
       return {r.apply("gelu", {r.apply("add", {r.input(0), r.input(1)})})};
     },
     .domain = "com.microsoft"},
    {.op_type = "QuickGelu",
     .import = [](OnnxNodeReader& r) -> std::vector<Value*> {
       return {r.apply("swish", {inputs_of(r)[0]}, {{"alpha", r.real("alpha", 1.702)}})};
     },
     .domain = "com.microsoft"}};
constexpr OnnxExportRule gelu_export{write_gelu};

constexpr char alpha[] = "alpha", beta[] = "beta", gamma[] = "gamma", bias[] = "bias",
               lambd[] = "lambd", none[] = "";

std::vector<AttributeSpec> reals(const char* a, double x, const char* b, double y) {
  if (std::string_view(b).empty()) return {{a, AttributeKind::real, false, x}};
  return {{a, AttributeKind::real, false, x}, {b, AttributeKind::real, false, y}};
}

}  // namespace

#define UNARY(op, onnx_name, since, a, x, b, y, formula)               \
  namespace {                                                          \
  constexpr char op##_name[] = #op, op##_onnx[] = onnx_name;           \
  constexpr OnnxImportRule op##_import[] = {                           \
      {.op_type = onnx_name, .import = import <op##_name, a, b>}};     \
  constexpr OnnxExportRule op##_export{write<op##_onnx, a, b, since>}; \
  }                                                                    \
  const OpImpl op_##op{.doc = formula,                                 \
                       .attributes = reals(a, x, b, y),                \
                       .infer = infer,                                 \
                       .reference = reference<op, a, b>,               \
                       .onnx_import = op##_import,                     \
                       .onnx_export = &op##_export};

UNARY(leaky_relu, "LeakyRelu", 1, alpha, 0.01, none, 0, "y = x, or alpha * x below 0")
UNARY(elu, "Elu", 1, alpha, 1.0, none, 0, "y = x, or alpha * (exp(x) - 1) below 0")
UNARY(celu, "Celu", 12, alpha, 1.0, none, 0, "y = x, or alpha * (exp(x / alpha) - 1) below 0")
UNARY(selu, "Selu", 1, alpha, 1.67326319217681884765625, gamma, 1.05070102214813232421875,
      "y = gamma * (x, or alpha * (exp(x) - 1) below 0)")
UNARY(thresholded_relu, "ThresholdedRelu", 1, alpha, 1.0, none, 0, "y = x above alpha, else 0")
UNARY(hard_sigmoid, "HardSigmoid", 1, alpha, 0.2, beta, 0.5, "y = min(max(alpha * x + beta, 0), 1)")
UNARY(shrink, "Shrink", 9, bias, 0.0, lambd, 0.5,
      "y = x + bias below -lambd, x - bias above lambd, else 0")
UNARY(swish, "Swish", 24, alpha, 1.0, none, 0, "y = x / (1 + exp(-alpha * x))")

const OpImpl op_clip{.doc = "y = min(max(x, min), max); NaN stays NaN",
                     .attributes = {{"min", AttributeKind::real, false, -inf},
                                    {"max", AttributeKind::real, false, inf}},
                     .infer = infer_number,
                     .reference = reference_clip,
                     .onnx_import = clip_import,
                     .onnx_export = &clip_export};

const OpImpl op_is_inf{.doc = "y = whether x is infinite, of the signs asked for, as bool",
                       .attributes = {{"negative", AttributeKind::integer, false, int64_t{1}},
                                      {"positive", AttributeKind::integer, false, int64_t{1}}},
                       .infer = infer_bool,
                       .reference = reference_is_inf,
                       .onnx_import = is_inf_import,
                       .onnx_export = &is_inf_export};

const OpImpl op_gelu{
    .doc = "y = x * Phi(x), the normal distribution's, or its approximation by tanh",
    .attributes = {{"approximate", AttributeKind::text, false, std::string("none")}},
    .infer = infer_gelu,
    .reference = reference_gelu,
    .onnx_import = gelu_import,
    .onnx_export = &gelu_export};

}  // namespace octavo::ops
