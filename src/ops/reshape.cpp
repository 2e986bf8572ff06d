// reshape, squeeze and unsqueeze: the same elements in the same order.
#include <cstring>

#include "ops/op.h"

namespace octavo::ops {
namespace {

void reference(const Node&, std::span<const Tensor* const> in, std::span<Tensor> out) {
  if (in[0]->bytes() > 0) std::memcpy(out[0].mutable_data(), in[0]->data(), in[0]->bytes());
}

std::vector<TensorType> infer_reshape(const Node& node) {
  const TensorType& x = node.input(0)->type();
  const auto known_shape = known_ints(node, "shape");
  if (!known_shape)
    return {{x.dtype, Shape(static_cast<size_t>(list_length(node, "shape")), Dim::unknown())}};
  const Ints& wanted = *known_shape;
  Shape y;
  std::optional<size_t> rest;
  require(node, wanted.size() <= 1024, "too many dimensions");
  constexpr int64_t most = int64_t{1} << 40;
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i] == 0 && node.integer("allow_zero") == 0) {
      require(node, i < x.shape.size(), "a 0 in the shape copies a dimension that the input lacks");
      y.push_back(x.shape[i]);
    } else if (wanted[i] == -1) {
      require(node, !rest, "the shape has more than one -1");
      rest = i;
      y.push_back(1);
    } else {
      require(node, wanted[i] >= 0, "a dimension is negative");
      require(node, wanted[i] <= most, "a dimension exceeds 2^40");
      y.push_back(wanted[i]);
    }
  }
  // What the known dims of both sides multiply to; symbols on both sides cancel.
  std::vector<Dim> x_symbols, y_symbols;
  const auto product = [&](const Shape& shape, std::vector<Dim>& symbols) {
    int64_t result = 1;
    for (const Dim& dim : shape) {
      if (!dim.is_static())
        symbols.push_back(dim);
      else if (dim.value() != 0 && result > most / dim.value())
        fail(node, "more than 2^40 elements");
      else
        result *= dim.value();
    }
    return result;
  };
  const int64_t from = product(x.shape, x_symbols), to = product(y, y_symbols);
  for (size_t i = 0; i < y_symbols.size();) {
    const auto it = std::find(x_symbols.begin(), x_symbols.end(), y_symbols[i]);
    if (it == x_symbols.end()) {
      ++i;
      continue;
    }
    x_symbols.erase(it);
    y_symbols.erase(y_symbols.begin() + static_cast<std::ptrdiff_t>(i));
  }
  const bool known = x_symbols.empty() && y_symbols.empty();
  const auto mismatch = [&] {
    fail(node, fmt::format("{} does not reshape to {}", x.shape.str(), Shape(wanted).str()));
  };
  if (rest) {
    if (known) {
      if (to == 0 || from % to != 0) mismatch();
      y[*rest] = from / to;
    } else {
      // One symbol left over and numbers that cancel: the -1 is that symbol.
      y[*rest] =
          x_symbols.size() == 1 && y_symbols.empty() && from == to ? x_symbols[0] : Dim::unknown();
    }
  } else if (known && from != to) {
    mismatch();
  }
  return {{x.dtype, y}};
}

std::vector<Value*> import_reshape(OnnxNodeReader& reader) {
  std::vector<Value*> inputs{inputs_of(reader)[0]};
  if (!reader.input(1) && !reader.has("shape")) reader.invalid("needs a shape");
  Attributes attributes{{"allow_zero", reader.integer("allowzero", 0)},
                        {"shape", reader.integers("shape", {})}};
  import_parameter(reader, 1, "reshape", "shape", attributes, inputs);
  return {reader.apply("reshape", std::move(inputs), std::move(attributes))};
}

std::vector<Value*> import_flatten(OnnxNodeReader& reader) {
  if (!reader.input(0)) reader.invalid("needs an input");
  const Shape& x = reader.input(0)->shape();
  int64_t axis = reader.integer("axis", 1);
  if (axis < -x.rank() || axis > x.rank()) reader.invalid("axis is outside the rank");
  if (axis < 0) axis += x.rank();
  if (axis == 1) return {reader.apply("reshape", {reader.input(0)}, {{"shape", Ints{0, -1}}})};
  int64_t first = 1, second = 1;
  bool first_known = true, second_known = true;
  for (int64_t i = 0; i < x.rank(); ++i) {
    const Dim& dim = x[static_cast<size_t>(i)];
    bool& known = i < axis ? first_known : second_known;
    known = known && dim.is_static();
    if (dim.is_static()) (i < axis ? first : second) *= dim.value();
  }
  if (!first_known && !second_known) {
    Value* rows =
        reader.apply("reduce_prod", {reader.apply("shape", {reader.input(0)}, {{"end", axis}})},
                     {{"keepdims", int64_t{1}}});
    Value* rest = reader.constant_value(Tensor::from(Dims{1}, Ints{-1}));
    Value* shape = reader.apply("concat", {rows, rest}, {{"axis", int64_t{0}}});
    return {reader.apply("reshape", {reader.input(0), shape})};
  }
  return {reader.apply("reshape", {reader.input(0)},
                       {{"shape", Ints{first_known ? first : -1, second_known ? second : -1}}})};
}

void write_reshape(const Node& node, OnnxNodeWriter& writer) {
  Attributes onnx;
  if (node.integer("allow_zero") != 0 && writer.opset() >= 14) onnx["allowzero"] = int64_t{1};
  writer.node("Reshape", {writer.value_name(node.input(0)), parameter_name(node, "shape", writer)},
              {writer.value_name(node.output())}, onnx);
}

Ints normalized(const Node& node, int64_t rank, Ints axes) {
  for (int64_t& axis : axes) axis = normalize_axis(axis, rank, node.where());
  std::sort(axes.begin(), axes.end());
  require(node, std::adjacent_find(axes.begin(), axes.end()) == axes.end(),
          "an axis is named twice");
  return axes;
}

std::vector<TensorType> infer_squeeze(const Node& node) {
  const TensorType& x = node.input(0)->type();
  const auto known = known_ints(node, "axes");
  if (!known) {
    const int64_t gone = list_length(node, "axes");
    require(node, gone > 0 && gone <= x.shape.rank(), "the number of axes does not fit the rank");
    return {{x.dtype, Shape(static_cast<size_t>(x.shape.rank() - gone), Dim::unknown())}};
  }
  const Ints axes = normalized(node, x.shape.rank(), *known);
  Shape y;
  for (size_t i = 0; i < x.shape.size(); ++i) {
    const bool named = std::binary_search(axes.begin(), axes.end(), static_cast<int64_t>(i));
    if (named && x.shape[i].is_static() && x.shape[i].value() != 1)
      fail(node, fmt::format("axis {} of {} is not 1", i, x.shape.str()));
    if (!(named || (axes.empty() && x.shape[i] == Dim(1)))) y.push_back(x.shape[i]);
  }
  return {{x.dtype, y}};
}

std::vector<TensorType> infer_unsqueeze(const Node& node) {
  const TensorType& x = node.input(0)->type();
  const int64_t rank = x.shape.rank() + list_length(node, "axes");
  require(node, rank <= 1024, "too many dimensions");
  const auto known = known_ints(node, "axes");
  if (!known) return {{x.dtype, Shape(static_cast<size_t>(rank), Dim::unknown())}};
  const Ints axes = normalized(node, rank, *known);
  Shape y;
  auto next = x.shape.begin();
  for (int64_t i = 0; i < rank; ++i)
    y.push_back(std::binary_search(axes.begin(), axes.end(), i) ? Dim(1) : *next++);
  return {{x.dtype, y}};
}

template <const char* op>
std::vector<Value*> import_axes(OnnxNodeReader& reader) {
  std::vector<Value*> inputs{inputs_of(reader)[0]};
  Attributes attributes{{"axes", reader.integers("axes", {})}};
  import_parameter(reader, 1, op, "axes", attributes, inputs);
  return {reader.apply(op, std::move(inputs), std::move(attributes))};
}

void write_axes(const Node& node, OnnxNodeWriter& writer) {
  const char* onnx_name = node.is("squeeze") ? "Squeeze" : "Unsqueeze";
  Attributes onnx;
  std::vector<std::string> inputs{writer.value_name(node.input(0))};
  if (node.input(1)) need_opset(node, writer, 13);
  const bool all = !node.input(1) && node.integers("axes").empty();
  if (!all && writer.opset() >= 13)
    inputs.push_back(parameter_name(node, "axes", writer));
  else if (!all)
    onnx["axes"] = node.integers("axes");
  writer.node(onnx_name, std::move(inputs), {writer.value_name(node.output())}, onnx);
}

constexpr char squeeze_name[] = "squeeze", unsqueeze_name[] = "unsqueeze";
constexpr OnnxImportRule reshape_import[] = {{.op_type = "Reshape", .import = import_reshape},
                                             {.op_type = "Flatten", .import = import_flatten}};
constexpr OnnxImportRule squeeze_import[] = {
    {.op_type = "Squeeze", .import = import_axes<squeeze_name>}};
constexpr OnnxImportRule unsqueeze_import[] = {
    {.op_type = "Unsqueeze", .import = import_axes<unsqueeze_name>}};
constexpr OnnxExportRule reshape_export{write_reshape}, axes_export{write_axes};

}  // namespace

const OpImpl op_reshape{.doc =
                            "The same elements in another shape; 0 copies the input's dim (unless "
                            "allow_zero), -1 is what remains.",
                        .max_inputs = 2,
                        .attributes = {{"shape", AttributeKind::integers, false, Ints{}},
                                       {"allow_zero", AttributeKind::integer, false, int64_t{0}}},
                        .parameters = {{"shape", 1}},
                        .infer = infer_reshape,
                        .reference = reference,
                        .onnx_import = reshape_import,
                        .onnx_export = &reshape_export};

const OpImpl op_squeeze{.doc = "Without the dims of 1 that `axes` names (none: all).",
                        .max_inputs = 2,
                        .attributes = {{"axes", AttributeKind::integers, false, Ints{}}},
                        .parameters = {{"axes", 1}},
                        .infer = infer_squeeze,
                        .reference = reference,
                        .onnx_import = squeeze_import,
                        .onnx_export = &axes_export};

const OpImpl op_unsqueeze{.doc = "With dims of 1 at `axes` of the output.",
                          .max_inputs = 2,
                          .attributes = {{"axes", AttributeKind::integers, false, Ints{}}},
                          .parameters = {{"axes", 1}},
                          .infer = infer_unsqueeze,
                          .reference = reference,
                          .onnx_import = unsqueeze_import,
                          .onnx_export = &axes_export};

}  // namespace octavo::ops
