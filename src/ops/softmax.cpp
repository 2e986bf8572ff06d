// softmax, log_softmax and hardmax along an axis.
#include <cmath>

#include "ops/indexing.h"
#include "ops/op.h"

namespace octavo::ops {
namespace {

std::vector<TensorType> infer(const Node& node) {
  axis_of(node);
  return {float_input(node)};
}

// f(row of x, row of y), both contiguous.
template <class F>
void each_row(const Node& node, const Tensor& in, Tensor& out, F f) {
  const Rows rows(in.dims(), axis_of(node));
  const std::vector<double> x = doubles(in);
  std::vector<double> y(x.size()), from(rows.length), to(rows.length);
  for (size_t r = 0; r < (x.empty() ? 0 : rows.count()); ++r) {
    const size_t start = rows.start(r);
    for (size_t k = 0; k < rows.length; ++k) from[k] = x[start + k * rows.inner];
    f(from, to);
    for (size_t k = 0; k < rows.length; ++k) y[start + k * rows.inner] = to[k];
  }
  store_doubles(y, out);
}

double rounded_to_half(double x) { return load_element(store_element<Half>(x)); }

// In float16 the difference, the exponential, the sum and the quotient are each rounded, as in
// ONNX's reference: its node tests allow less than one rounding alone would differ.
void reference_softmax(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto row = [](auto round) {
    return [round](const std::vector<double>& x, std::vector<double>& y) {
      const double most = *std::max_element(x.begin(), x.end());
      double sum = 0;
      for (size_t k = 0; k < x.size(); ++k) sum += y[k] = round(std::exp(round(x[k] - most)));
      if (const double rounded = round(sum); std::isfinite(rounded)) sum = rounded;
      for (double& v : y) v /= sum;
    };
  };
  if (in[0]->dtype() == DType::f16)
    each_row(node, *in[0], out[0], row(rounded_to_half));
  else
    each_row(node, *in[0], out[0], row([](double v) { return v; }));
}

void reference_log_softmax(const Node& node, std::span<const Tensor* const> in,
                           std::span<Tensor> out) {
  each_row(node, *in[0], out[0], [](const std::vector<double>& x, std::vector<double>& y) {
    const double most = *std::max_element(x.begin(), x.end());
    double sum = 0;
    for (const double v : x) sum += std::exp(v - most);
    for (size_t k = 0; k < x.size(); ++k) y[k] = x[k] - most - std::log(sum);
  });
}

void reference_hardmax(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  each_row(node, *in[0], out[0], [](const std::vector<double>& x, std::vector<double>& y) {
    std::fill(y.begin(), y.end(), 0.0);
    y[static_cast<size_t>(std::max_element(x.begin(), x.end()) - x.begin())] = 1;
  });
}

// Before opset 13 all axes from `axis` on are one.
template <const char* op>
std::vector<Value*> import(OnnxNodeReader& reader) {
  Value* x = inputs_of(reader)[0];
  const int64_t rank = x->shape().rank();
  if (reader.opset() >= 13) return {reader.apply(op, {x}, {{"axis", reader.integer("axis", -1)}})};
  int64_t axis = reader.integer("axis", 1);
  if (axis < 0) axis += rank;
  if (axis < 0 || axis > rank) reader.invalid("axis is outside the rank");
  if (axis == rank - 1) return {reader.apply(op, {x}, {{"axis", axis}})};
  Ints rows;
  for (int64_t i = 0; i < axis; ++i) rows.push_back(0);
  rows.push_back(-1);
  Value* y = reader.apply(op, {reader.apply("reshape", {x}, {{"shape", rows}})}, {{"axis", axis}});
  return {reader.apply("reshape", {y, reader.apply("shape", {x})})};
}

template <const char* onnx_name>
void write(const Node& node, OnnxNodeWriter& writer) {
  write_as(node, writer, onnx_name, {{"axis", static_cast<int64_t>(axis_of(node))}});
}

}  // namespace

#define SOFTMAX(op, onnx_name, kernel, formula)                                                    \
  namespace {                                                                                      \
  constexpr char op##_name[] = #op, op##_onnx[] = onnx_name;                                       \
  constexpr OnnxImportRule op##_import[] = {{.op_type = onnx_name, .import = import <op##_name>}}; \
  constexpr OnnxExportRule op##_export{write<op##_onnx>};                                          \
  }                                                                                                \
  const OpImpl op_##op{.doc = formula,                                                             \
                       .attributes = {{"axis", AttributeKind::integer, false, int64_t{-1}}},       \
                       .infer = infer,                                                             \
                       .reference = kernel,                                                        \
                       .onnx_import = op##_import,                                                 \
                       .onnx_export = &op##_export};

SOFTMAX(softmax, "Softmax", reference_softmax, "exp(x - max) / sum exp(x - max) along `axis`.")
SOFTMAX(log_softmax, "LogSoftmax", reference_log_softmax,
        "x - max - ln(sum exp(x - max)) along `axis`.")
SOFTMAX(hardmax, "Hardmax", reference_hardmax,
        "1 at the first of the largest values along `axis`, else 0.")

}  // namespace octavo::ops
