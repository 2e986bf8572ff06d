// The family of reductions along axes.
#include <cmath>
#include <limits>

#include "ops/indexing.h"
#include "ops/op.h"

namespace octavo::ops {
namespace {

// Sorted and from 0; none given means all, or with `noop_empty` none. Nothing if not known yet.
std::optional<Ints> axes_of(const Node& node) {
  const int64_t rank = node.input(0)->shape().rank();
  auto axes = known_ints(node, "axes");
  if (!axes) return std::nullopt;
  if (axes->empty() && node.integer("noop_empty") == 0)
    for (int64_t i = 0; i < rank; ++i) axes->push_back(i);
  for (int64_t& axis : *axes) axis = normalize_axis(axis, rank, node.where());
  std::sort(axes->begin(), axes->end());
  require(node, std::adjacent_find(axes->begin(), axes->end()) == axes->end(),
          "an axis is named twice");
  return axes;
}

std::vector<TensorType> infer_any(const Node& node) {
  const TensorType& x = node.input(0)->type();
  const auto axes = axes_of(node);
  const bool keep = node.integer("keepdims") != 0;
  if (!axes) {
    const int64_t gone = keep ? 0 : list_length(node, "axes");
    require(node, gone <= x.shape.rank(), "more axes than the input has");
    return {{x.dtype, Shape(static_cast<size_t>(x.shape.rank() - gone), Dim::unknown())}};
  }
  Shape y;
  for (int64_t i = 0; i < x.shape.rank(); ++i) {
    const bool reduced = std::binary_search(axes->begin(), axes->end(), i);
    if (!reduced)
      y.push_back(x.shape[static_cast<size_t>(i)]);
    else if (keep)
      y.push_back(1);
  }
  return {{x.dtype, y}};
}

std::vector<TensorType> infer(const Node& node) {
  number_input(node);
  return infer_any(node);
}

// Each reduction is a fold: start, step and finish on A, the type that it accumulates in.
template <class A>
struct Zero {
  static constexpr A start() { return 0; }
  static A finish(A a, int64_t) { return a; }
};
template <class A>
struct Sum : Zero<A> {
  static A step(A a, A b) { return a + b; }
};
template <class A>
struct Mean : Sum<A> {
  static A finish(A a, int64_t count) { return a / static_cast<A>(count); }
};
template <class A>
struct Prod {
  static constexpr A start() { return 1; }
  static A step(A a, A b) { return a * b; }
  static A finish(A a, int64_t) { return a; }
};
template <class A>
struct Max {
  static constexpr A start() {
    if constexpr (std::is_floating_point_v<A>) return -std::numeric_limits<A>::infinity();
    return std::numeric_limits<A>::min();
  }
  static A step(A a, A b) { return a > b || a != a ? a : b; }  // NaN stays
  static A finish(A a, int64_t) { return a; }
};
template <class A>
struct Min {
  static constexpr A start() {
    if constexpr (std::is_floating_point_v<A>) return std::numeric_limits<A>::infinity();
    return std::numeric_limits<A>::max();
  }
  static A step(A a, A b) { return a < b || a != a ? a : b; }
  static A finish(A a, int64_t) { return a; }
};
template <class A>
struct L1 : Zero<A> {
  static A step(A a, A b) { return a + (b < 0 ? -b : b); }
};
template <class A>
struct SumSquare : Zero<A> {
  static A step(A a, A b) { return a + b * b; }
};
template <class A>
struct L2 : SumSquare<A> {
  static A finish(A a, int64_t) { return static_cast<A>(std::sqrt(static_cast<double>(a))); }
};
template <class A>
struct LogSum : Sum<A> {
  static A finish(A a, int64_t) { return static_cast<A>(std::log(static_cast<double>(a))); }
};
// The largest term so far times the sum of the others over it: no term overflows.
template <class A>
struct LogSumExp {
  static A finish(A a, int64_t) { return a; }
  static constexpr A start() { return Max<A>::start(); }
  static A step(A a, A b) {
    if constexpr (std::is_floating_point_v<A>) {
      if (a != a || b != b) return a + b;
      const A most = std::max(a, b), least = std::min(a, b);
      if (std::isinf(most)) return most;
      return most + std::log1p(std::exp(least - most));
    }
    return a;
  }
};

template <template <class> class R, class T, class A>
void run(const Node& node, const Tensor& in, Tensor& out) {
  const Ints axes = *axes_of(node);
  const Dims& dims = in.dims();
  Strides strides(dims.size(), 0);  // of each input axis in the output, 0 for the reduced ones
  int64_t step = 1, count = 1;
  for (size_t i = dims.size(); i-- > 0;) {
    if (std::binary_search(axes.begin(), axes.end(), static_cast<int64_t>(i))) {
      count *= dims[i];
    } else {
      strides[i] = step;
      step *= dims[i];
    }
  }
  std::vector<A> sums(static_cast<size_t>(out.size()), R<A>::start());
  const auto x = elements<T>(in);
  for_each_index<1>(dims, {strides}, [&](size_t i, const auto& at) {
    A& sum = sums[static_cast<size_t>(at[0])];
    sum = R<A>::step(sum, static_cast<A>(load_element(x[i])));
  });
  auto y = mutable_elements<T>(out);
  for (size_t i = 0; i < y.size(); ++i) y[i] = store_element<T>(R<A>::finish(sums[i], count));
}

// Integers are accumulated in integers, wrapping around; what needs a root or a logarithm in
// double.
template <template <class> class R, bool needs_double>
void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  visit_dtype(in[0]->dtype(), [&](auto tag) {
    using T = decltype(tag);
    if constexpr (is_float_element<T> || needs_double)
      run<R, T, double>(node, *in[0], out[0]);
    else if constexpr (std::is_signed_v<T>)
      run<R, T, int64_t>(node, *in[0], out[0]);
    else
      run<R, T, uint64_t>(node, *in[0], out[0]);
    if constexpr (std::is_integral_v<T>)  // of nothing: the ends of T, not of 64 bits
      if (in[0]->size() == 0 && !needs_double) {
        const bool least = std::is_same_v<R<int64_t>, Max<int64_t>>;
        if (least || std::is_same_v<R<int64_t>, Min<int64_t>>)
          for (T& y : mutable_elements<T>(out[0]))
            y = least ? std::numeric_limits<T>::min() : std::numeric_limits<T>::max();
      }
  });
}

// Axes are an attribute up to an opset (17; for ReduceSum 12) and an input after it.
std::vector<Value*> import_reduce(OnnxNodeReader& reader, const char* op) {
  std::vector<Value*> inputs{inputs_of(reader)[0]};
  Attributes attributes{{"axes", reader.integers("axes", {})},
                        {"keepdims", reader.integer("keepdims", 1)},
                        {"noop_empty", reader.integer("noop_with_empty_axes", 0)}};
  import_parameter(reader, 1, op, "axes", attributes, inputs);
  return {reader.apply(op, std::move(inputs), std::move(attributes))};
}

// Global pooling: over all axes after the first two.
template <const char* op>
std::vector<Value*> import_global(OnnxNodeReader& reader) {
  if (inputs_of(reader)[0]->shape().rank() < 3) reader.invalid("needs an input of rank 3 or more");
  Ints axes;
  for (int64_t i = 2; i < reader.input(0)->shape().rank(); ++i) axes.push_back(i);
  return {reader.apply(op, {reader.input(0)}, {{"axes", axes}, {"keepdims", int64_t{1}}})};
}

// Over all axes after the first two: what INT8 runtimes know as global pooling.
bool is_global(const Node& node, const Ints& axes) {
  const TensorType& x = node.input(0)->type();
  if (x.shape.rank() < 3 || node.integer("keepdims") == 0 || !is_float(x.dtype)) return false;
  return static_cast<int64_t>(axes.size()) == x.shape.rank() - 2 && axes.front() == 2;
}

void write_reduce(const Node& node, OnnxNodeWriter& writer, const char* onnx_name,
                  std::string_view global_name, int64_t axes_become_input) {
  const auto axes = axes_of(node);
  std::vector<std::string> inputs{writer.value_name(node.input(0))};
  if (axes && !global_name.empty() && is_global(node, *axes))
    return writer.node(global_name, std::move(inputs), {writer.value_name(node.output())});
  if (axes && axes->empty())  // reduces nothing: no opset's ReduceX says so but with noop
    need_opset(node, writer, axes_become_input);
  Attributes onnx{{"keepdims", node.integer("keepdims")}};
  if (axes && axes->empty()) onnx["noop_with_empty_axes"] = int64_t{1};
  if (!axes) {
    need_opset(node, writer, axes_become_input);
    inputs.push_back(writer.value_name(node.input(1)));
    onnx["noop_with_empty_axes"] = node.integer("noop_empty");
  } else if (writer.opset() >= axes_become_input) {
    inputs.push_back(
        writer.initializer("axes", Tensor::from(Dims{static_cast<int64_t>(axes->size())}, *axes)));
  } else {
    onnx["axes"] = *axes;
  }
  writer.node(onnx_name, std::move(inputs), {writer.value_name(node.output())}, onnx);
}

template <const char* op>
std::vector<Value*> import(OnnxNodeReader& reader) {
  return import_reduce(reader, op);
}
// Of bool: any and all.
template <const char* op>
std::vector<Value*> import_extreme(OnnxNodeReader& reader) {
  Value* x = inputs_of(reader)[0];
  if (x->dtype() != DType::boolean) return import_reduce(reader, op);
  std::vector<Value*> inputs{reader.apply("cast", {x}, {{"to", std::string("u8")}})};
  Attributes attributes{{"axes", reader.integers("axes", {})},
                        {"keepdims", reader.integer("keepdims", 1)},
                        {"noop_empty", reader.integer("noop_with_empty_axes", 0)}};
  import_parameter(reader, 1, op, "axes", attributes, inputs);
  Value* y = reader.apply(op, std::move(inputs), std::move(attributes));
  return {reader.apply("cast", {y}, {{"to", std::string("bool")}})};
}
template <const char* onnx_name, const char* global_name, int64_t axes_become_input>
void write(const Node& node, OnnxNodeWriter& writer) {
  write_reduce(node, writer, onnx_name, global_name, axes_become_input);
}

std::vector<AttributeSpec> attributes() {
  return {{"axes", AttributeKind::integers, false, Ints{}},
          {"keepdims", AttributeKind::integer, false, int64_t{1}},
          {"noop_empty", AttributeKind::integer, false, int64_t{0}}};
}

}  // namespace

#define REDUCE(op, onnx_name, global_name, kernel, needs_double, rule, axes_become_input, formula) \
  namespace {                                                                                      \
  constexpr char op##_name[] = #op, op##_onnx[] = onnx_name, op##_global[] = global_name;          \
  constexpr OnnxImportRule op##_import[] = {                                                       \
      {.op_type = onnx_name, .import = rule<op##_name>},                                           \
      {.op_type = global_name, .import = import_global<op##_name>}};                               \
  constexpr OnnxExportRule op##_export{write<op##_onnx, op##_global, axes_become_input>};          \
  }                                                                                                \
  const OpImpl op_##op{                                                                            \
      .doc = formula,                                                                              \
      .max_inputs = 2,                                                                             \
      .attributes = attributes(),                                                                  \
      .parameters = {{"axes", 1}},                                                                 \
      .infer = infer,                                                                              \
      .reference = reference<kernel, needs_double>,                                                \
      .onnx_import = std::span(op##_import, std::string_view(global_name).empty() ? 1 : 2),        \
      .onnx_export = &op##_export};

REDUCE(reduce_mean, "ReduceMean", "GlobalAveragePool", Mean, false, import, 18,
       "Mean over `axes` (none: all, or with `noop_empty` none).")
REDUCE(reduce_max, "ReduceMax", "GlobalMaxPool", Max, false, import_extreme, 18,
       "Maximum over `axes` (none: all, or with `noop_empty` none).")
REDUCE(reduce_min, "ReduceMin", "", Min, false, import_extreme, 18,
       "Minimum over `axes` (none: all, or with `noop_empty` none).")
REDUCE(reduce_sum, "ReduceSum", "", Sum, false, import, 13,
       "Sum over `axes` (none: all, or with `noop_empty` none).")
REDUCE(reduce_prod, "ReduceProd", "", Prod, false, import, 18,
       "Product over `axes` (none: all, or with `noop_empty` none).")
REDUCE(reduce_l1, "ReduceL1", "", L1, false, import, 18, "Sum of |x| over `axes`, as reduce_sum.")
REDUCE(reduce_l2, "ReduceL2", "", L2, true, import, 18,
       "Square root of the sum of x² over `axes`, as reduce_sum.")
REDUCE(reduce_sum_square, "ReduceSumSquare", "", SumSquare, false, import, 18,
       "Sum of x² over `axes`, as reduce_sum.")
REDUCE(reduce_log_sum, "ReduceLogSum", "", LogSum, true, import, 18,
       "Logarithm of the sum over `axes`, as reduce_sum.")
REDUCE(reduce_log_sum_exp, "ReduceLogSumExp", "", LogSumExp, true, import, 18,
       "Logarithm of the sum of exp(x) over `axes`, as reduce_sum.")

}  // namespace octavo::ops
