// expand and tile: elements repeated along axes; range and one_hot: elements made of numbers.
#include <cmath>

#include "ops/indexing.h"
#include "ops/op.h"

namespace octavo::ops {
namespace {

// ---- expand

std::vector<TensorType> infer_expand(const Node& node) {
  const TensorType& x = node.input(0)->type();
  const auto shape = known_ints(node, "shape");
  if (!shape) {
    const int64_t rank = std::max(x.shape.rank(), list_length(node, "shape"));
    return {{x.dtype, Shape(static_cast<size_t>(rank), Dim::unknown())}};
  }
  require(node, shape->size() <= 1024, "too many dimensions");
  for (const int64_t dim : *shape) require(node, dim >= 0, "a dimension is negative");
  return {{x.dtype, broadcast_shapes(x.shape, Shape(*shape), node.where())}};
}

void reference_expand(const Node&, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const size_t size = dtype_size(out[0].dtype());
  for_each_index<1>(out[0].dims(), {broadcast_strides(in[0]->dims(), out[0].dims())},
                    [&](size_t i, const auto& at) {
                      copy_element(*in[0], at[0], out[0], static_cast<int64_t>(i), size);
                    });
}

std::vector<Value*> import_expand(OnnxNodeReader& reader) {
  std::vector<Value*> inputs{inputs_of(reader, 2)[0]};
  Attributes attributes;
  import_parameter(reader, 1, "expand", "shape", attributes, inputs);
  return {reader.apply("expand", std::move(inputs), std::move(attributes))};
}

// One number, expanded to a shape.
std::vector<Value*> import_constant_of_shape(OnnxNodeReader& reader) {
  inputs_of(reader);
  const Tensor* value = reader.tensor("value");
  if (value && value->size() != 1) reader.invalid("value must have one element");
  std::vector<Value*> inputs{
      reader.constant_value(value ? value->reshaped({}) : Tensor::scalar(0.0f))};
  Attributes attributes;
  import_parameter(reader, 0, "expand", "shape", attributes, inputs);
  return {reader.apply("expand", std::move(inputs), std::move(attributes))};
}

// ---- tile

std::vector<TensorType> infer_tile(const Node& node) {
  TensorType y = node.input(0)->type();
  const auto repeats = known_ints(node, "repeats");
  if (!repeats) {
    y.shape.assign(y.shape.size(), Dim::unknown());
    return {y};
  }
  require(node, static_cast<int64_t>(repeats->size()) == y.shape.rank(),
          "repeats must have one number per axis");
  for (size_t i = 0; i < repeats->size(); ++i) {
    const int64_t n = (*repeats)[i];
    require(node, n >= 0 && n <= (int64_t{1} << 40), "a number of repeats is out of range");
    if (n == 1) continue;
    if (!y.shape[i].is_static()) {
      y.shape[i] = Dim::unknown();
      continue;
    }
    y.shape[i] = element_count({y.shape[i].value(), n});
  }
  return {y};
}

void reference_tile(const Node&, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Dims &x = in[0]->dims(), &y = out[0].dims();
  const Strides strides = strides_of(x);
  const size_t size = dtype_size(out[0].dtype());
  for (int64_t i = 0; i < out[0].size(); ++i) {
    int64_t rest = i, at = 0;
    for (size_t d = y.size(); d-- > 0; rest /= y[d]) at += rest % y[d] % x[d] * strides[d];
    copy_element(*in[0], at, out[0], i, size);
  }
}

std::vector<Value*> import_tile(OnnxNodeReader& reader) {
  std::vector<Value*> inputs{inputs_of(reader, 2)[0]};
  Attributes attributes;
  import_parameter(reader, 1, "tile", "repeats", attributes, inputs);
  return {reader.apply("tile", std::move(inputs), std::move(attributes))};
}

// ---- range

std::optional<int64_t> range_length(const Node& node) {
  for (size_t i = 0; i < 3; ++i)
    require(node, node.input(i)->shape().rank() <= 1, "start, limit and delta must be numbers");
  for (size_t i = 0; i < 3; ++i)
    if (!node.input(i)->is_constant()) return std::nullopt;
  const auto value = [&](size_t i) {
    const auto v = doubles(node.input(i)->constant());
    require(node, v.size() == 1, "start, limit and delta must be numbers");
    return v[0];
  };
  const double count = std::ceil((value(1) - value(0)) / value(2));
  require(node, count < 0x1p40, "the range is endless or too long");
  return count > 0 ? static_cast<int64_t>(count) : 0;
}

std::vector<TensorType> infer_range(const Node& node) {
  number_input(node);
  require_one_dtype(node);
  const auto length = range_length(node);
  return {{node.input(0)->dtype(), {length ? Dim(*length) : Dim::unknown()}}};
}

void reference_range(const Node&, std::span<const Tensor* const> in, std::span<Tensor> out) {
  visit_dtype(out[0].dtype(), [&](auto tag) {
    using T = decltype(tag);
    using A = std::conditional_t<is_float_element<T>, double, int64_t>;
    const auto start = static_cast<A>(load_element(elements<T>(*in[0])[0])),
               delta = static_cast<A>(load_element(elements<T>(*in[2])[0]));
    auto y = mutable_elements<T>(out[0]);
    for (size_t i = 0; i < y.size(); ++i)
      y[i] = store_element<T>(static_cast<A>(start + static_cast<A>(i) * delta));
  });
}

// ---- one_hot

std::vector<TensorType> infer_one_hot(const Node& node) {
  const Shape& indices = number_input(node).shape;
  const auto depth = known_integer(node, "depth");
  require(node, node.input(1)->shape().rank() == 1, "the values must be two: off and on");
  require(node, !depth || (*depth > 0 && *depth <= (int64_t{1} << 40)), "depth is out of range");
  Shape y = indices;
  const int64_t axis = normalize_axis(node.integer("axis"), indices.rank() + 1, node.where());
  y.insert(y.begin() + axis, depth ? Dim(*depth) : Dim::unknown());
  return {{node.input(1)->dtype(), y}};
}

void reference_one_hot(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto axis =
      static_cast<size_t>(normalize_axis(node.integer("axis"), out[0].rank(), node.where()));
  const Rows rows(out[0].dims(), axis);
  const auto indices = in[0]->to_ints();
  const size_t size = dtype_size(out[0].dtype());
  require(node, in[1]->size() == 2, "the values must be two: off and on");
  const auto depth = static_cast<int64_t>(rows.length);
  for (size_t r = 0; r < rows.count(); ++r) {
    const int64_t index = indices[r] < 0 ? indices[r] + depth : indices[r];
    for (size_t k = 0; k < rows.length; ++k)
      copy_element(*in[1], index == static_cast<int64_t>(k) ? 1 : 0, out[0],
                   static_cast<int64_t>(rows.start(r) + k * rows.inner), size);
  }
}

// The depth may come as a float.
Value* as_ints(OnnxNodeReader& reader, Value* value) {
  if (value->dtype() == DType::i64) return value;
  return reader.apply("cast", {value}, {{"to", std::string("i64")}});
}

std::vector<Value*> import_one_hot(OnnxNodeReader& reader) {
  inputs_of(reader, 3);
  return {reader.apply("one_hot",
                       {reader.input(0), reader.input(2), as_ints(reader, reader.input(1))},
                       {{"axis", reader.integer("axis", -1)}})};
}

constexpr OnnxImportRule expand_import[] = {
    {.op_type = "Expand", .since = 8, .import = import_expand},
    {.op_type = "ConstantOfShape", .since = 9, .import = import_constant_of_shape}};
constexpr OnnxExportRule expand_export{[](const Node& node, OnnxNodeWriter& writer) {
  writer.node("Expand", {writer.value_name(node.input(0)), parameter_name(node, "shape", writer)},
              {writer.value_name(node.output())});
}};
constexpr OnnxImportRule tile_import[] = {{.op_type = "Tile", .import = import_tile}};
constexpr OnnxExportRule tile_export{[](const Node& node, OnnxNodeWriter& writer) {
  writer.node("Tile", {writer.value_name(node.input(0)), parameter_name(node, "repeats", writer)},
              {writer.value_name(node.output())});
}};
constexpr OnnxImportRule range_import[] = {
    {.op_type = "Range", .since = 11, .import = [](OnnxNodeReader& r) -> std::vector<Value*> {
       return {r.apply("range", inputs_of(r, 3))};
     }}};
constexpr OnnxExportRule range_export{
    [](const Node& node, OnnxNodeWriter& writer) { write_as(node, writer, "Range"); }};
constexpr OnnxImportRule one_hot_import[] = {
    {.op_type = "OneHot", .since = 9, .import = import_one_hot}};
constexpr OnnxExportRule one_hot_export{[](const Node& node, OnnxNodeWriter& writer) {
  writer.node("OneHot",
              {writer.value_name(node.input(0)), parameter_name(node, "depth", writer),
               writer.value_name(node.input(1))},
              {writer.value_name(node.output())}, {{"axis", node.integer("axis")}});
}};

}  // namespace

const OpImpl op_expand{.doc = "x broadcast with `shape`, as NumPy does with a tensor of it.",
                       .max_inputs = 2,
                       .attributes = {{"shape", AttributeKind::integers, false, Ints{}}},
                       .parameters = {{"shape", 1}},
                       .infer = infer_expand,
                       .reference = reference_expand,
                       .onnx_import = expand_import,
                       .onnx_export = &expand_export};

const OpImpl op_tile{.doc = "x repeated repeats[i] times along each axis i.",
                     .max_inputs = 2,
                     .attributes = {{"repeats", AttributeKind::integers, false, Ints{}}},
                     .parameters = {{"repeats", 1}},
                     .infer = infer_tile,
                     .reference = reference_tile,
                     .onnx_import = tile_import,
                     .onnx_export = &tile_export};

const OpImpl op_range{.doc = "start, start + delta, … before limit; inputs start, limit, delta.",
                      .min_inputs = 3,
                      .max_inputs = 3,
                      .infer = infer_range,
                      .reference = reference_range,
                      .onnx_import = range_import,
                      .onnx_export = &range_export};

const OpImpl op_one_hot{
    .doc =
        "For each index (input 0) a vector along `axis`: values[1] there, else values[0] "
        "(input 1). An index outside [-depth, depth) is nowhere.",
    .min_inputs = 2,
    .max_inputs = 3,
    .attributes = {{"axis", AttributeKind::integer, false, int64_t{-1}},
                   {"depth", AttributeKind::integer, false, int64_t{1}}},
    .parameters = {{"depth", 2}},
    .infer = infer_one_hot,
    .reference = reference_one_hot,
    .onnx_import = one_hot_import,
    .onnx_export = &one_hot_export};

}  // namespace octavo::ops
