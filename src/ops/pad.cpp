#include "ops/pad.h"

#include "ops/indexing.h"
#include "ops/op.h"

namespace octavo::ops {

int64_t pad_source(const std::string& mode, int64_t at, int64_t size) {
  if (at >= 0 && at < size) return at;
  if (mode == "constant") return -1;
  if (mode == "edge") return at < 0 ? 0 : size - 1;
  if (mode == "wrap") return ((at % size) + size) % size;
  if (size == 1) return 0;
  const int64_t period = 2 * (size - 1), folded = ((at % period) + period) % period;
  return folded < size ? folded : period - folded;
}

std::optional<PadAmounts> pad_amounts(const Node& node) {
  const int64_t rank = node.input(0)->shape().rank();
  const auto pads = known_ints(node, "pads");
  auto axes = known_ints(node, "axes");
  if (!pads || !axes) return std::nullopt;
  if (axes->empty())
    for (int64_t i = 0; i < rank; ++i) axes->push_back(i);
  const size_t count = axes->size();
  require(node, pads->size() == 2 * count, "pads must have two numbers for each axis");
  PadAmounts amounts{Ints(static_cast<size_t>(rank), 0), Ints(static_cast<size_t>(rank), 0)};
  for (size_t i = 0; i < count; ++i) {
    const auto axis = static_cast<size_t>(normalize_axis((*axes)[i], rank, node.where()));
    amounts.before[axis] = (*pads)[i];
    amounts.after[axis] = (*pads)[count + i];
  }
  constexpr int64_t most = int64_t{1} << 32;
  for (const Ints* list : {&amounts.before, &amounts.after})
    for (const int64_t n : *list) require(node, n >= -most && n <= most, "a pad is out of range");
  return amounts;
}

namespace {

std::vector<TensorType> infer(const Node& node) {
  TensorType y = node.input(0)->type();
  const std::string& mode = node.text("mode");
  require(node, mode == "constant" || mode == "reflect" || mode == "edge" || mode == "wrap",
          "mode must be constant, reflect, edge or wrap");
  if (const Value* value = node.input(1))
    require(node, value->dtype() == y.dtype && value->shape().rank() <= 1,
            "the value must be one number of the input's type");
  const auto amounts = pad_amounts(node);
  if (!amounts) {
    y.shape.assign(y.shape.size(), Dim::unknown());
    return {y};
  }
  for (size_t i = 0; i < y.shape.size(); ++i) {
    const int64_t before = amounts->before[i], after = amounts->after[i];
    if (before == 0 && after == 0) continue;
    if (!y.shape[i].is_static()) {
      y.shape[i] = Dim::unknown();
      continue;
    }
    const int64_t size = y.shape[i].value();
    require(node, size + before + after >= 0, "the pads take away more than there is");
    require(node, mode == "constant" || size > 0 || before + after <= 0,
            "an empty axis has nothing to repeat");
    y.shape[i] = size + before + after;
  }
  return {y};
}

void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const PadAmounts amounts = *pad_amounts(node);
  const std::string& mode = node.text("mode");
  const Dims &x = in[0]->dims(), &y = out[0].dims();
  // For each axis the offset of each output index, -1 outside.
  std::vector<Ints> offsets(y.size());
  const Strides strides = strides_of(x);
  for (size_t d = 0; d < y.size(); ++d)
    for (int64_t i = 0; i < y[d]; ++i) {
      const int64_t from = pad_source(mode, i - amounts.before[d], x[d]);
      offsets[d].push_back(from < 0 ? -1 : from * strides[d]);
    }
  const size_t size = dtype_size(out[0].dtype());
  const Tensor* value = in.size() > 1 ? in[1] : nullptr;
  if (value) require(node, value->size() == 1, "the value must be one number");
  const Tensor zero = value ? *value : convert(Tensor::scalar(0.0f), out[0].dtype());
  for (int64_t i = 0; i < out[0].size(); ++i) {
    int64_t rest = i, at = 0;
    bool inside = true;
    for (size_t d = y.size(); d-- > 0; rest /= y[d]) {
      const int64_t offset = offsets[d][static_cast<size_t>(rest % y[d])];
      inside = inside && offset >= 0;
      at += offset;
    }
    copy_element(inside ? *in[0] : zero, inside ? at : 0, out[0], i, size);
  }
}

std::vector<Value*> import(OnnxNodeReader& reader) {
  std::vector<Value*> inputs{inputs_of(reader)[0]};
  Attributes attributes{{"mode", reader.text("mode", "constant")}};
  if (reader.opset() < 11) {
    attributes["pads"] = reader.integers("pads", {});
    const double value = reader.real("value", 0);
    if (value != 0)
      inputs.push_back(
          reader.constant_value(convert(Tensor::scalar(value), reader.input(0)->dtype())));
    return {reader.apply("pad", std::move(inputs), std::move(attributes))};
  }
  inputs_of(reader, 2);
  inputs.push_back(reader.input(2));
  import_parameter(reader, 1, "pad", "pads", attributes, inputs);
  import_parameter(reader, 3, "pad", "axes", attributes, inputs);
  return {reader.apply("pad", std::move(inputs), std::move(attributes))};
}

void write(const Node& node, OnnxNodeWriter& writer) {
  if (node.text("mode") == "wrap") need_opset(node, writer, 19);
  const auto amounts = pad_amounts(node);
  std::vector<std::string> inputs{writer.value_name(node.input(0))};
  if (amounts) {
    Ints pads = amounts->before;
    pads.insert(pads.end(), amounts->after.begin(), amounts->after.end());
    inputs.push_back(
        writer.initializer("pads", Tensor::from(Dims{static_cast<int64_t>(pads.size())}, pads)));
  } else {
    inputs.push_back(parameter_name(node, "pads", writer));
  }
  if (node.input(1)) inputs.push_back(writer.value_name(node.input(1)));
  if (!amounts && (node.input(3) || !node.integers("axes").empty())) {
    need_opset(node, writer, 18);
    inputs.resize(3);
    inputs.push_back(parameter_name(node, "axes", writer));
  }
  writer.node("Pad", std::move(inputs), {writer.value_name(node.output())},
              {{"mode", node.text("mode")}});
}

// To a size about the centre: slices and pads of constant amounts.
std::vector<Value*> import_center(OnnxNodeReader& reader) {
  Value* x = inputs_of(reader, 2)[0];
  const Shape& shape = x->shape();
  Ints axes = reader.integers("axes", {});
  if (axes.empty())
    for (int64_t i = 0; i < shape.rank(); ++i) axes.push_back(i);
  // amount = size - wanted, from run-time values where need be: before = floor(|amount| / 2).
  const auto vector = [&](const Ints& v) {
    const auto count = static_cast<int64_t>(v.size());
    return reader.constant_value(Tensor::from(Dims{count}, v));
  };
  Value* have = reader.apply("gather", {reader.apply("shape", {x}), vector(axes)});
  Value* want = reader.apply("cast", {reader.input(1)}, {{"to", std::string("i64")}});
  Value *zero = vector({0}), *two = vector({2});
  Value* surplus = reader.apply("maximum", {reader.apply("sub", {have, want}), zero});
  Value* start = reader.apply("div", {surplus, two});
  Value* end = reader.apply("add", {start, reader.apply("minimum", {have, want})});
  Value* cropped = reader.apply("slice", {x, start, end, vector(axes)});
  Value* lack = reader.apply("maximum", {reader.apply("sub", {want, have}), zero});
  Value* before = reader.apply("div", {lack, two});
  Value* pads =
      reader.apply("concat", {before, reader.apply("sub", {lack, before})}, {{"axis", int64_t{0}}});
  return {reader.apply("pad", {cropped, nullptr, pads, vector(axes)})};
}

constexpr OnnxImportRule import_rules[] = {
    {.op_type = "Pad", .import = import},
    {.op_type = "CenterCropPad", .since = 18, .import = import_center}};
constexpr OnnxExportRule export_rule{write};

}  // namespace

const OpImpl op_pad{
    .doc =
        "x with pads[i] elements before and pads[n + i] after axis axes[i] (none: all axes): "
        "the value (input 1, 0 if left out), or by `mode` reflect, edge or wrap its own "
        "elements. Negative pads take elements away.",
    .max_inputs = 4,
    .attributes = {{"mode", AttributeKind::text, false, std::string("constant")},
                   {"pads", AttributeKind::integers, false, Ints{}},
                   {"axes", AttributeKind::integers, false, Ints{}}},
    .parameters = {{"pads", 2}, {"axes", 3}},
    .infer = infer,
    .reference = reference,
    .onnx_import = import_rules,
    .onnx_export = &export_rule};

}  // namespace octavo::ops
