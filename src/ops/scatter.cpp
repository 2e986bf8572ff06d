// scatter_elements and scatter_nd: a copy of a tensor with elements replaced at indices.
#include "ops/gather.h"
#include "ops/indexing.h"
#include "ops/op.h"

namespace octavo::ops {
namespace {

constexpr std::string_view reductions[] = {"none", "add", "mul", "max", "min"};

const std::string& reduction_of(const Node& node) {
  const std::string& name = node.text("reduction");
  require(node,
          std::find(std::begin(reductions), std::end(reductions), name) != std::end(reductions),
          "reduction must be none, add, mul, max or min");
  require(node, name == "none" || node.input(0)->dtype() != DType::boolean,
          "bool has no reduction");
  return name;
}

// y = y (reduction) x, one element.
void combine(const std::string& reduction, const Tensor& from, int64_t i, Tensor& to, int64_t j) {
  if (reduction == "none") return copy_element(from, i, to, j, dtype_size(to.dtype()));
  visit_dtype(to.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using A = std::conditional_t<is_float_element<T>, double,
                                 std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>>;
    T& y = mutable_elements<T>(to)[static_cast<size_t>(j)];
    const A a = static_cast<A>(load_element(y)),
            b = static_cast<A>(load_element(elements<T>(from)[static_cast<size_t>(i)]));
    A result = std::min(a, b);
    if (reduction == "add") result = a + b;
    if (reduction == "mul") result = a * b;
    if (reduction == "max") result = std::max(a, b);
    y = store_element<T>(result);
  });
}

void copy_all(const Tensor& from, Tensor& to) {
  std::copy(from.data(), from.data() + from.bytes(), to.mutable_data());
}

void check_data(const Node& node) {
  require(node, node.input(0)->dtype() == node.input(2)->dtype(),
          "data and updates differ in element type");
  require_indices(node, 1);
  reduction_of(node);
}

std::vector<TensorType> infer_elements(const Node& node) {
  check_data(node);
  axis_of(node);
  const int64_t rank = node.input(0)->shape().rank();
  require(node, node.input(1)->shape().rank() == rank && node.input(2)->shape().rank() == rank,
          "data, indices and updates need one rank");
  return {node.input(0)->type()};
}

void reference_elements(const Node& node, std::span<const Tensor* const> in,
                        std::span<Tensor> out) {
  copy_all(*in[0], out[0]);
  const size_t axis = axis_of(node);
  const Dims& dims = in[0]->dims();
  require(node, in[1]->dims() == in[2]->dims(), "indices and updates differ in shape");
  for (size_t d = 0; d < dims.size(); ++d)
    require(node, d == axis || in[1]->dims()[d] <= dims[d], "indices exceed the data");
  const auto indices = in[1]->to_ints();
  Strides strides = strides_of(dims);
  const int64_t step = strides[axis];
  strides[axis] = 0;
  const std::string& reduction = reduction_of(node);
  for_each_index<1>(in[1]->dims(), {strides}, [&](size_t i, const auto& at) {
    const int64_t k = checked_index(node, indices[i], dims[axis]);
    combine(reduction, *in[2], static_cast<int64_t>(i), out[0], at[0] + k * step);
  });
}

std::vector<TensorType> infer_nd(const Node& node) {
  check_data(node);
  const Shape& indices = node.input(1)->shape();
  require(node,
          indices.rank() >= 1 && indices.back().is_static() &&
              indices.back().value() <= node.input(0)->shape().rank(),
          "the last axis of the indices must be known and within the rank");
  return {node.input(0)->type()};
}

void reference_nd(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  copy_all(*in[0], out[0]);
  const Dims &dims = in[0]->dims(), &id = in[1]->dims();
  const auto indices = in[1]->to_ints();
  const auto depth = static_cast<size_t>(id.back());
  const Strides strides = strides_of(dims);
  Dims wanted(id.begin(), id.end() - 1);
  wanted.insert(wanted.end(), dims.begin() + static_cast<std::ptrdiff_t>(depth), dims.end());
  require(node, in[2]->dims() == wanted, "the updates' shape does not fit the indices");
  int64_t inner = 1;
  for (size_t d = depth; d < dims.size(); ++d) inner *= dims[d];
  const std::string& reduction = reduction_of(node);
  const size_t count = depth == 0 ? 0 : indices.size() / depth;
  for (size_t i = 0; i < count; ++i) {
    int64_t at = 0;
    for (size_t k = 0; k < depth; ++k)
      at += checked_index(node, indices[i * depth + k], dims[k]) * strides[k];
    for (int64_t e = 0; e < inner; ++e)
      combine(reduction, *in[2], static_cast<int64_t>(i) * inner + e, out[0], at + e);
  }
}

std::vector<Value*> import_elements(OnnxNodeReader& reader) {
  return {reader.apply(
      "scatter_elements", inputs_of(reader, 3),
      {{"axis", reader.integer("axis", 0)}, {"reduction", reader.text("reduction", "none")}})};
}
std::vector<Value*> import_nd(OnnxNodeReader& reader) {
  return {reader.apply("scatter_nd", inputs_of(reader, 3),
                       {{"reduction", reader.text("reduction", "none")}})};
}

void write(const Node& node, OnnxNodeWriter& writer) {
  const std::string& reduction = node.text("reduction");
  Attributes onnx;
  if (reduction != "none") {
    need_opset(node, writer, reduction == "add" || reduction == "mul" ? 16 : 18);
    onnx["reduction"] = reduction;
  }
  if (node.is("scatter_elements")) onnx["axis"] = node.integer("axis");
  write_as(node, writer, node.is("scatter_elements") ? "ScatterElements" : "ScatterND", onnx);
}

constexpr OnnxImportRule elements_import[] = {
    {.op_type = "ScatterElements", .since = 11, .import = import_elements},
    {.op_type = "Scatter", .import = import_elements}};
constexpr OnnxImportRule nd_import[] = {{.op_type = "ScatterND", .since = 11, .import = import_nd}};
constexpr OnnxExportRule export_rule{write};

}  // namespace

const OpImpl op_scatter_elements{
    .doc =
        "x with y[..., indices[..., i, ...], ...] = updates[..., i, ...] along `axis`; inputs x, "
        "indices, updates; `reduction` none, add, mul, max or min combines them.",
    .min_inputs = 3,
    .max_inputs = 3,
    .attributes = {{"axis", AttributeKind::integer, false, int64_t{0}},
                   {"reduction", AttributeKind::text, false, std::string("none")}},
    .infer = infer_elements,
    .reference = reference_elements,
    .onnx_import = elements_import,
    .onnx_export = &export_rule};

const OpImpl op_scatter_nd{
    .doc =
        "x with updates at index vectors, the last axis of indices; inputs x, indices, updates; "
        "`reduction` as of scatter_elements.",
    .min_inputs = 3,
    .max_inputs = 3,
    .attributes = {{"reduction", AttributeKind::text, false, std::string("none")}},
    .infer = infer_nd,
    .reference = reference_nd,
    .onnx_import = nd_import,
    .onnx_export = &export_rule};

}  // namespace octavo::ops
