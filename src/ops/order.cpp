// What depends on the order of values along an axis: argmax, argmin, topk; and running sums and
// products along it.
#include <cmath>
#include <numeric>

#include "ops/indexing.h"
#include "ops/op.h"

namespace octavo::ops {
namespace {

// ---- argmax and argmin

std::vector<TensorType> infer_arg(const Node& node) {
  const TensorType& x = number_input(node);
  const size_t axis = axis_of(node);
  require(node, !x.shape[axis].is_static() || x.shape[axis].value() > 0, "the axis is empty");
  Shape y = x.shape;
  if (node.integer("keepdims") != 0)
    y[axis] = 1;
  else
    y.erase(y.begin() + static_cast<std::ptrdiff_t>(axis));
  return {{DType::i64, y}};
}

template <bool largest>
void reference_arg(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Rows rows(in[0]->dims(), axis_of(node));
  const bool last = node.integer("last") != 0;
  auto y = out[0].mutable_values<int64_t>();
  visit_dtype(in[0]->dtype(), [&](auto tag) {
    const auto x = elements<decltype(tag)>(*in[0]);
    for (size_t r = 0; r < y.size(); ++r) {
      const size_t start = rows.start(r);
      size_t best = 0;
      for (size_t k = 1; k < rows.length; ++k) {
        const auto a = load_element(x[start + k * rows.inner]),
                   b = load_element(x[start + best * rows.inner]);
        if ((largest ? a > b : a < b) || (last && a == b)) best = k;
      }
      y[r] = static_cast<int64_t>(best);
    }
  });
}

template <const char* op>
std::vector<Value*> import_arg(OnnxNodeReader& reader) {
  return {reader.apply(op, {inputs_of(reader)[0]},
                       {{"axis", reader.integer("axis", 0)},
                        {"keepdims", reader.integer("keepdims", 1)},
                        {"last", reader.integer("select_last_index", 0)}})};
}
template <const char* onnx_name>
void write_arg(const Node& node, OnnxNodeWriter& writer) {
  write_as(node, writer, onnx_name,
           {{"axis", node.integer("axis")},
            {"keepdims", node.integer("keepdims")},
            {"select_last_index", node.integer("last")}});
}

// ---- topk

std::vector<TensorType> infer_topk(const Node& node) {
  TensorType values = number_input(node);
  const size_t axis = axis_of(node);
  const auto k = known_integer(node, "k");
  const Dim& dim = values.shape[axis];
  require(node, !k || (*k >= 0 && (!dim.is_static() || *k <= dim.value())),
          "k must be within the axis");
  values.shape[axis] = k ? Dim(*k) : Dim::unknown();
  return {values, {DType::i64, values.shape}};
}

void reference_topk(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const size_t axis = axis_of(node);
  const Rows rows(in[0]->dims(), axis), kept(out[0].dims(), axis);
  const bool largest = node.integer("largest") != 0;
  auto indices = out[1].mutable_values<int64_t>();
  if (kept.length == 0) return;
  visit_dtype(in[0]->dtype(), [&](auto tag) {
    using T = decltype(tag);
    const auto x = elements<T>(*in[0]);
    auto y = mutable_elements<T>(out[0]);
    std::vector<size_t> order(rows.length);
    for (size_t r = 0; r < rows.count(); ++r) {
      std::iota(order.begin(), order.end(), 0);
      // The earlier of equal values first; NaN counts as the largest, so that the order is total.
      std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
        const auto p = load_element(x[rows.start(r) + a * rows.inner]),
                   q = load_element(x[rows.start(r) + b * rows.inner]);
        const bool p_nan = p != p, q_nan = q != q;
        if (p_nan || q_nan) return largest ? p_nan && !q_nan : !p_nan && q_nan;
        return largest ? p > q : p < q;
      });
      for (size_t k = 0; k < kept.length; ++k) {
        const size_t at = kept.start(r) + k * kept.inner;
        y[at] = x[rows.start(r) + order[k] * rows.inner];
        indices[at] = static_cast<int64_t>(order[k]);
      }
    }
  });
}

std::vector<Value*> import_topk(OnnxNodeReader& reader) {
  std::vector<Value*> inputs{inputs_of(reader)[0]};
  Attributes attributes{{"axis", reader.integer("axis", -1)},
                        {"largest", reader.integer("largest", 1)},
                        {"k", reader.integer("k", 0)}};
  if (reader.opset() >= 10) {
    inputs_of(reader, 2);
    import_parameter(reader, 1, "topk", "k", attributes, inputs);
  }
  return reader.apply_all("topk", std::move(inputs), std::move(attributes));
}

void write_topk(const Node& node, OnnxNodeWriter& writer) {
  writer.node("TopK", {writer.value_name(node.input(0)), parameter_name(node, "k", writer)},
              {writer.value_name(node.output(0)), writer.value_name(node.output(1))},
              {{"axis", node.integer("axis")}, {"largest", node.integer("largest")}});
}

// ---- cumsum and cumprod

std::vector<TensorType> infer_running(const Node& node) {
  const TensorType& x = number_input(node);
  if (const auto axis = known_integer(node, "axis"))
    normalize_axis(*axis, x.shape.rank(), node.where());
  return {x};
}

template <bool product>
void reference_running(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const int64_t given = in.size() > 1 && in[1] ? in[1]->to_ints().at(0) : node.integer("axis");
  const Rows rows(in[0]->dims(),
                  static_cast<size_t>(normalize_axis(given, in[0]->rank(), node.where())));
  const bool exclusive = node.integer("exclusive") != 0, reverse = node.integer("reverse") != 0;
  visit_dtype(in[0]->dtype(), [&](auto tag) {
    using T = decltype(tag);
    using A = std::conditional_t<is_float_element<T>, double, uint64_t>;
    const auto x = elements<T>(*in[0]);
    auto y = mutable_elements<T>(out[0]);
    for (size_t r = 0; r < (x.empty() ? 0 : rows.count()); ++r) {
      A sum = product ? 1 : 0;
      for (size_t i = 0; i < rows.length; ++i) {
        const size_t k = reverse ? rows.length - 1 - i : i, at = rows.start(r) + k * rows.inner;
        const A before = sum, value = static_cast<A>(load_element(x[at]));
        sum = product ? sum * value : sum + value;
        y[at] = store_element<T>(exclusive ? before : sum);
      }
    }
  });
}

template <const char* op>
std::vector<Value*> import_running(OnnxNodeReader& reader) {
  std::vector<Value*> inputs{inputs_of(reader, 2)[0]};
  Attributes attributes{{"exclusive", reader.integer("exclusive", 0)},
                        {"reverse", reader.integer("reverse", 0)}};
  import_parameter(reader, 1, op, "axis", attributes, inputs);
  return {reader.apply(op, std::move(inputs), std::move(attributes))};
}
void write_cumsum(const Node& node, OnnxNodeWriter& writer) {
  std::string axis = node.input(1)
                         ? writer.value_name(node.input(1))
                         : writer.initializer("axis", Tensor::scalar(node.integer("axis")));
  writer.node("CumSum", {writer.value_name(node.input(0)), std::move(axis)},
              {writer.value_name(node.output())},
              {{"exclusive", node.integer("exclusive")}, {"reverse", node.integer("reverse")}});
}

constexpr char argmax_name[] = "argmax", argmin_name[] = "argmin", argmax_onnx[] = "ArgMax",
               argmin_onnx[] = "ArgMin", cumsum_name[] = "cumsum", cumprod_name[] = "cumprod";
constexpr OnnxImportRule argmax_import[] = {
    {.op_type = "ArgMax", .import = import_arg<argmax_name>}};
constexpr OnnxImportRule argmin_import[] = {
    {.op_type = "ArgMin", .import = import_arg<argmin_name>}};
constexpr OnnxImportRule topk_import[] = {{.op_type = "TopK", .import = import_topk}};
constexpr OnnxImportRule cumsum_import[] = {
    {.op_type = "CumSum", .since = 11, .import = import_running<cumsum_name>}};
constexpr OnnxImportRule cumprod_import[] = {
    {.op_type = "CumProd", .import = import_running<cumprod_name>}};
constexpr OnnxExportRule argmax_export{write_arg<argmax_onnx>},
    argmin_export{write_arg<argmin_onnx>}, topk_export{write_topk}, cumsum_export{write_cumsum};

std::vector<AttributeSpec> arg_attributes() {
  return {{"axis", AttributeKind::integer, false, int64_t{0}},
          {"keepdims", AttributeKind::integer, false, int64_t{1}},
          {"last", AttributeKind::integer, false, int64_t{0}}};
}
std::vector<AttributeSpec> running_attributes() {
  return {{"axis", AttributeKind::integer, false, int64_t{0}},
          {"exclusive", AttributeKind::integer, false, int64_t{0}},
          {"reverse", AttributeKind::integer, false, int64_t{0}}};
}

}  // namespace

const OpImpl op_argmax{.doc = "Index of the first (`last`: the last) maximum along `axis`, i64.",
                       .attributes = arg_attributes(),
                       .infer = infer_arg,
                       .reference = reference_arg<true>,
                       .onnx_import = argmax_import,
                       .onnx_export = &argmax_export};

const OpImpl op_argmin{.doc = "Index of the first (`last`: the last) minimum along `axis`, i64.",
                       .attributes = arg_attributes(),
                       .infer = infer_arg,
                       .reference = reference_arg<false>,
                       .onnx_import = argmin_import,
                       .onnx_export = &argmin_export};

const OpImpl op_topk{
    .doc = "The k largest (or smallest) values along `axis` in order, and their indices (i64).",
    .max_inputs = 2,
    .outputs = 2,
    .attributes = {{"k", AttributeKind::integer, false, int64_t{1}},
                   {"axis", AttributeKind::integer, false, int64_t{-1}},
                   {"largest", AttributeKind::integer, false, int64_t{1}}},
    .parameters = {{"k", 1}},
    .infer = infer_topk,
    .reference = reference_topk,
    .onnx_import = topk_import,
    .onnx_export = &topk_export};

const OpImpl op_cumsum{
    .doc =
        "Running sums along `axis`, from the end if `reverse`, before each element if "
        "`exclusive`.",
    .max_inputs = 2,
    .attributes = running_attributes(),
    .parameters = {{"axis", 1}},
    .infer = infer_running,
    .reference = reference_running<false>,
    .onnx_import = cumsum_import,
    .onnx_export = &cumsum_export};

const OpImpl op_cumprod{.doc = "Running products along `axis`, otherwise as cumsum.",
                        .max_inputs = 2,
                        .attributes = running_attributes(),
                        .parameters = {{"axis", 1}},
                        .infer = infer_running,
                        .reference = reference_running<true>,
                        .onnx_import = cumprod_import};

}  // namespace octavo::ops
