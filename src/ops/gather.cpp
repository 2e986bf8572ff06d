// gather, gather_elements and gather_nd: elements picked by indices.
#include "ops/gather.h"

#include "ops/indexing.h"
#include "ops/op.h"

namespace octavo::ops {

void require_indices(const Node& node, size_t i) {
  const DType dtype = node.input(i)->dtype();
  require(node, dtype == DType::i64 || dtype == DType::i32, "indices must be i64 or i32");
}

int64_t checked_index(const Node& node, int64_t index, int64_t size) {
  if (index < -size || index >= size)
    fail(node, fmt::format("index {} is outside an axis of {}", index, size));
  return index < 0 ? index + size : index;
}

namespace {

// ---- gather

std::vector<TensorType> infer_gather(const Node& node) {
  const TensorType& x = node.input(0)->type();
  require_indices(node, 1);
  const size_t axis = axis_of(node);
  Shape y(x.shape.begin(), x.shape.begin() + static_cast<std::ptrdiff_t>(axis));
  const Shape& indices = node.input(1)->shape();
  y.insert(y.end(), indices.begin(), indices.end());
  y.insert(y.end(), x.shape.begin() + static_cast<std::ptrdiff_t>(axis) + 1, x.shape.end());
  return {{x.dtype, y}};
}

void reference_gather(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Rows rows(in[0]->dims(), axis_of(node));
  const auto indices = in[1]->to_ints();
  const size_t bytes = rows.inner * dtype_size(out[0].dtype());
  std::byte* to = out[0].mutable_data();
  for (size_t o = 0; o < rows.outer; ++o)
    for (const int64_t index : indices) {
      const auto k =
          static_cast<size_t>(checked_index(node, index, static_cast<int64_t>(rows.length)));
      const std::byte* from = in[0]->data() + (o * rows.length + k) * bytes;
      to = std::copy(from, from + bytes, to);
    }
}

// ---- gather_elements

std::vector<TensorType> infer_elements(const Node& node) {
  const TensorType& x = node.input(0)->type();
  require_indices(node, 1);
  axis_of(node);
  require(node, node.input(1)->shape().rank() == x.shape.rank(),
          "indices need the rank of the input");
  return {{x.dtype, node.input(1)->shape()}};
}

void reference_elements(const Node& node, std::span<const Tensor* const> in,
                        std::span<Tensor> out) {
  const size_t axis = axis_of(node), size = dtype_size(out[0].dtype());
  const auto indices = in[1]->to_ints();
  const Dims& x = in[0]->dims();
  for (size_t d = 0; d < x.size(); ++d)
    require(node, d == axis || out[0].dims()[d] <= x[d], "indices exceed the input");
  Strides strides = strides_of(x);
  const int64_t step = strides[axis];
  strides[axis] = 0;
  for_each_index<1>(out[0].dims(), {strides}, [&](size_t i, const auto& at) {
    const int64_t k = checked_index(node, indices[i], x[axis]);
    copy_element(*in[0], at[0] + k * step, out[0], static_cast<int64_t>(i), size);
  });
}

// ---- gather_nd

std::vector<TensorType> infer_nd(const Node& node) {
  const TensorType& x = node.input(0)->type();
  const Shape& indices = node.input(1)->shape();
  require_indices(node, 1);
  const int64_t batch = node.integer("batch_dims");
  require(node, indices.rank() >= 1 && indices.back().is_static(),
          "the last axis of the indices must be known");
  const int64_t depth = indices.back().value();
  require(node,
          batch >= 0 && batch < indices.rank() && depth >= 1 && batch + depth <= x.shape.rank(),
          "indices and batch_dims do not fit the input's rank");
  Shape y(indices.begin(), indices.end() - 1);
  y.insert(y.end(), x.shape.begin() + batch + depth, x.shape.end());
  return {{x.dtype, y}};
}

void reference_nd(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto batch = static_cast<size_t>(node.integer("batch_dims"));
  const Dims &x = in[0]->dims(), &id = in[1]->dims();
  const auto indices = in[1]->to_ints();
  const auto depth = static_cast<size_t>(id.back());
  const Strides strides = strides_of(x);
  size_t inner = dtype_size(out[0].dtype()), batch_count = 1, per_batch = 1;
  for (size_t d = batch + depth; d < x.size(); ++d) inner *= static_cast<size_t>(x[d]);
  for (size_t d = 0; d < batch; ++d) {
    require(node, x[d] == id[d], "batch axes differ");
    batch_count *= static_cast<size_t>(x[d]);
  }
  for (size_t d = batch; d + 1 < id.size(); ++d) per_batch *= static_cast<size_t>(id[d]);
  const int64_t batch_stride = batch == 0 ? 0 : strides[batch - 1];
  const size_t element = dtype_size(out[0].dtype());
  std::byte* to = out[0].mutable_data();
  for (size_t b = 0; b < batch_count; ++b)
    for (size_t i = 0; i < per_batch; ++i) {
      int64_t at = static_cast<int64_t>(b) * batch_stride;
      for (size_t k = 0; k < depth; ++k)
        at += checked_index(node, indices[(b * per_batch + i) * depth + k], x[batch + k]) *
              strides[batch + k];
      const std::byte* from = in[0]->data() + static_cast<size_t>(at) * element;
      to = std::copy(from, from + inner, to);
    }
}

template <const char* op, const char* attribute>
std::vector<Value*> import(OnnxNodeReader& reader) {
  const auto inputs = inputs_of(reader, 2);
  return {reader.apply(op, {inputs[0], inputs[1]}, {{attribute, reader.integer(attribute, 0)}})};
}
template <const char* onnx_name, const char* attribute, int64_t since>
void write(const Node& node, OnnxNodeWriter& writer) {
  write_as(node, writer, onnx_name, {{attribute, node.integer(attribute)}}, since);
}

constexpr char axis[] = "axis", batch_dims[] = "batch_dims";

}  // namespace

#define GATHER(op, onnx_name, attr, types, kernel, formula)                               \
  namespace {                                                                             \
  constexpr char op##_name[] = #op, op##_onnx[] = onnx_name;                              \
  constexpr OnnxImportRule op##_import[] = {                                              \
      {.op_type = onnx_name, .import = import <op##_name, attr>}};                        \
  constexpr OnnxExportRule op##_export{write<op##_onnx, attr, 11>};                       \
  }                                                                                       \
  const OpImpl op_##op{.doc = formula,                                                    \
                       .min_inputs = 2,                                                   \
                       .max_inputs = 2,                                                   \
                       .attributes = {{attr, AttributeKind::integer, false, int64_t{0}}}, \
                       .infer = types,                                                    \
                       .reference = kernel,                                               \
                       .onnx_import = op##_import,                                        \
                       .onnx_export = &op##_export};

GATHER(gather, "Gather", axis, infer_gather, reference_gather,
       "Slices of x along `axis` at indices (input 1), which take the axis's place; negative ones "
       "count from the end.")
GATHER(gather_elements, "GatherElements", axis, infer_elements, reference_elements,
       "y[..., i, ...] = x[..., indices[..., i, ...], ...] along `axis`.")
GATHER(gather_nd, "GatherND", batch_dims, infer_nd, reference_nd,
       "Elements or slices of x at index vectors, the last axis of indices; the first `batch_dims` "
       "axes belong together.")

}  // namespace octavo::ops
