// The family of reductions along axes.
#include <limits>

#include "ops/op.h"

namespace octavo::ops {
namespace {

Ints axes_of(const Node& node) {
  const int64_t rank = node.input(0)->shape().rank();
  Ints axes = node.integers("axes");
  if (axes.empty())
    for (int64_t i = 0; i < rank; ++i) axes.push_back(i);
  for (int64_t& axis : axes) axis = normalize_axis(axis, rank, node.where());
  std::sort(axes.begin(), axes.end());
  require(node, std::adjacent_find(axes.begin(), axes.end()) == axes.end(),
          "an axis is named twice");
  return axes;
}

std::vector<TensorType> infer(const Node& node) {
  const TensorType& x = node.input(0)->type();
  const Ints axes = axes_of(node);
  Shape y;
  for (int64_t i = 0; i < x.shape.rank(); ++i) {
    const bool reduced = std::binary_search(axes.begin(), axes.end(), i);
    if (!reduced)
      y.push_back(x.shape[static_cast<size_t>(i)]);
    else if (node.integer("keepdims") != 0)
      y.push_back(1);
  }
  return {{x.dtype, y}};
}

struct Mean {
  static constexpr double start = 0;
  static double step(double a, double b) { return a + b; }
  static double finish(double a, int64_t count) { return a / static_cast<double>(count); }
};
struct Sum {
  static constexpr double start = 0;
  static double step(double a, double b) { return a + b; }
  static double finish(double a, int64_t) { return a; }
};
struct Prod {
  static constexpr double start = 1;
  static double step(double a, double b) { return a * b; }
  static double finish(double a, int64_t) { return a; }
};
struct Max {
  static constexpr double start = -std::numeric_limits<double>::infinity();
  static double step(double a, double b) { return a > b || a != a ? a : b; }  // NaN stays
  static double finish(double a, int64_t) { return a; }
};
struct Min {
  static constexpr double start = std::numeric_limits<double>::infinity();
  static double step(double a, double b) { return a < b || a != a ? a : b; }
  static double finish(double a, int64_t) { return a; }
};

template <class R, class T>
void run(const Node& node, const Tensor& in, Tensor& out) {
  const Ints axes = axes_of(node);
  const Dims& dims = in.dims();
  // Stride of each input axis in the output, 0 for the reduced ones.
  std::vector<int64_t> strides(dims.size(), 0);
  int64_t step = 1, count = 1;
  for (size_t i = dims.size(); i-- > 0;) {
    if (std::binary_search(axes.begin(), axes.end(), static_cast<int64_t>(i))) {
      count *= dims[i];
    } else {
      strides[i] = step;
      step *= dims[i];
    }
  }
  std::vector<double> sums(static_cast<size_t>(out.size()), R::start);
  const auto x = in.values<T>();
  for (size_t i = 0; i < x.size(); ++i) {
    auto rest = static_cast<int64_t>(i);
    int64_t at = 0;
    for (size_t d = dims.size(); d-- > 0; rest /= dims[d]) at += rest % dims[d] * strides[d];
    double& sum = sums[static_cast<size_t>(at)];
    sum = R::step(sum, static_cast<double>(x[i]));
  }
  auto y = out.mutable_values<T>();
  for (size_t i = 0; i < y.size(); ++i) y[i] = static_cast<T>(R::finish(sums[i], count));
}

template <class R>
void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  switch (in[0]->dtype()) {
    case DType::f32:
      return run<R, float>(node, *in[0], out[0]);
    case DType::f64:
      return run<R, double>(node, *in[0], out[0]);
    case DType::i32:
      return run<R, int32_t>(node, *in[0], out[0]);
    case DType::i64:
      return run<R, int64_t>(node, *in[0], out[0]);
    default:
      fail(node, fmt::format("no kernel for {}", dtype_name(in[0]->dtype())));
  }
}

// Axes are an attribute up to an opset (17; for ReduceSum 12) and an input after it.
template <const char* op>
std::vector<Value*> import(OnnxNodeReader& reader) {
  if (!reader.input(0)) reader.invalid("needs an input");
  Ints axes = reader.integers("axes", {});
  if (const auto given = reader.constant_ints(1, "axes")) axes = *given;
  if (axes.empty() && reader.integer("noop_with_empty_axes", 0) != 0) return {reader.input(0)};
  return {reader.apply(op, {reader.input(0)},
                       {{"axes", axes}, {"keepdims", reader.integer("keepdims", 1)}})};
}

// Global pooling: over all axes after the first two.
template <const char* op>
std::vector<Value*> import_global(OnnxNodeReader& reader) {
  if (!reader.input(0) || reader.input(0)->shape().rank() < 3)
    reader.invalid("needs an input of rank 3 or more");
  Ints axes;
  for (int64_t i = 2; i < reader.input(0)->shape().rank(); ++i) axes.push_back(i);
  return {reader.apply(op, {reader.input(0)}, {{"axes", axes}, {"keepdims", int64_t{1}}})};
}

// Over all axes after the first two: what INT8 runtimes know as global pooling.
bool is_global(const Node& node, const Ints& axes) {
  const TensorType& x = node.input(0)->type();
  if (x.shape.rank() < 3 || node.integer("keepdims") == 0 || !is_float(x.dtype)) return false;
  return axes.front() == 2 && static_cast<int64_t>(axes.size()) == x.shape.rank() - 2;
}

template <const char* onnx_name, const char* global_name, int64_t axes_become_input>
void write(const Node& node, OnnxNodeWriter& writer) {
  const Ints axes = axes_of(node);
  if (!std::string_view(global_name).empty() && is_global(node, axes))
    return writer.node(global_name, {writer.value_name(node.input(0))},
                       {writer.value_name(node.output())});
  Attributes onnx{{"keepdims", node.integer("keepdims")}};
  std::vector<std::string> inputs{writer.value_name(node.input(0))};
  if (writer.opset() >= axes_become_input)
    inputs.push_back(
        writer.initializer("axes", Tensor::from(Dims{static_cast<int64_t>(axes.size())}, axes)));
  else
    onnx["axes"] = axes;
  writer.node(onnx_name, std::move(inputs), {writer.value_name(node.output())}, onnx);
}

}  // namespace

#define REDUCE(op, onnx_name, global_name, kernel, axes_become_input, formula)              \
  namespace {                                                                               \
  constexpr char op##_name[] = #op, op##_onnx[] = onnx_name, op##_global[] = global_name;   \
  constexpr OnnxImportRule op##_import[] = {                                                \
      {.op_type = onnx_name, .import = import <op##_name>},                                 \
      {.op_type = global_name, .import = import_global<op##_name>}};                        \
  constexpr OnnxExportRule op##_export{write<op##_onnx, op##_global, axes_become_input>};   \
  }                                                                                         \
  const OpImpl op_##op{                                                                     \
      .doc = formula,                                                                       \
      .attributes = {{"axes", AttributeKind::integers, false, Ints{}},                      \
                     {"keepdims", AttributeKind::integer, false, int64_t{1}}},              \
      .infer = infer,                                                                       \
      .reference = reference<kernel>,                                                       \
      .onnx_import = std::span(op##_import, std::string_view(global_name).empty() ? 1 : 2), \
      .onnx_export = &op##_export};

REDUCE(reduce_mean, "ReduceMean", "GlobalAveragePool", Mean, 18, "Mean over `axes` (none: all).")
REDUCE(reduce_max, "ReduceMax", "GlobalMaxPool", Max, 18, "Maximum over `axes` (none: all).")
REDUCE(reduce_min, "ReduceMin", "", Min, 18, "Minimum over `axes` (none: all).")
REDUCE(reduce_sum, "ReduceSum", "", Sum, 13, "Sum over `axes` (none: all).")
REDUCE(reduce_prod, "ReduceProd", "", Prod, 18, "Product over `axes` (none: all).")

}  // namespace octavo::ops
