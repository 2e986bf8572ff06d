// Normalisation over axes: layer_norm, rms_norm, group_norm (instance norm is one group per
// channel), lp_norm, lrn.
#include <cmath>

#include "ops/indexing.h"
#include "ops/op.h"

namespace octavo::ops {
namespace {

// ---- layer_norm and rms_norm: over the axes from `axis` on

std::vector<TensorType> infer_layer(const Node& node) {
  const TensorType& x = float_input(node);
  axis_of(node);
  for (size_t i = 1; i < node.inputs().size(); ++i) {
    if (!node.input(i)) continue;
    float_input(node, i);
    const Shape both = broadcast_shapes(x.shape, node.input(i)->shape(), node.where());
    require(node, both.rank() == x.shape.rank(), "scale and bias must broadcast to x");
  }
  if (node.is("rms_norm")) return {x};
  Shape statistics = x.shape;
  for (size_t i = axis_of(node); i < statistics.size(); ++i) statistics[i] = 1;
  return {x, {DType::f32, statistics}, {DType::f32, statistics}};
}

template <bool centre>
void reference_layer(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Dims& dims = in[0]->dims();
  const size_t axis = axis_of(node);
  size_t length = 1;
  for (size_t i = axis; i < dims.size(); ++i) length *= static_cast<size_t>(dims[i]);
  std::vector<double> x = doubles(*in[0]), means, inverses;
  const double epsilon = node.real("epsilon");
  for (size_t r = 0; length > 0 && r < x.size() / length; ++r) {
    double* row = &x[r * length];
    double mean = 0, square = 0;
    if (centre)
      for (size_t i = 0; i < length; ++i) mean += row[i] / static_cast<double>(length);
    for (size_t i = 0; i < length; ++i) square += (row[i] - mean) * (row[i] - mean);
    const double inverse = 1 / std::sqrt(square / static_cast<double>(length) + epsilon);
    for (size_t i = 0; i < length; ++i) row[i] = (row[i] - mean) * inverse;
    means.push_back(mean);
    inverses.push_back(inverse);
  }
  const auto affine = [&](size_t i, auto f) {
    if (in.size() <= i || !in[i]) return;
    const auto p = doubles(*in[i]);
    for_each_index<1>(dims, {broadcast_strides(in[i]->dims(), dims)},
                      [&](size_t k, const auto& at) { f(x[k], p[static_cast<size_t>(at[0])]); });
  };
  affine(1, [](double& v, double p) { v *= p; });
  affine(2, [](double& v, double p) { v += p; });
  store_doubles(x, out[0]);
  if (out.size() > 1) store_doubles(means, out[1]), store_doubles(inverses, out[2]);
}

void write_layer(const Node& node, OnnxNodeWriter& writer) {
  for (size_t i = 1; i < node.outputs().size(); ++i)
    if (!node.output(i)->uses().empty()) need_opset(node, writer, 17);
  const std::string x = writer.value_name(node.input(0)), y = writer.value_name(node.output());
  if (writer.opset() >= 17 && node.input(1)) {
    std::vector<std::string> inputs{x, writer.value_name(node.input(1))}, outputs{y};
    if (node.input(2)) inputs.push_back(writer.value_name(node.input(2)));
    for (size_t i = 1; i < 3; ++i) outputs.push_back(writer.value_name(node.output(i)));
    return writer.node("LayerNormalization", std::move(inputs), std::move(outputs),
                       {{"axis", node.integer("axis")}, {"epsilon", node.real("epsilon")}});
  }
  Ints axes;
  for (int64_t i = static_cast<int64_t>(axis_of(node)); i < node.input(0)->shape().rank(); ++i)
    axes.push_back(i);
  const auto step = [&](const char* op, std::vector<std::string> inputs, bool last = false) {
    std::string name = last ? y : writer.temporary("norm");
    Attributes attributes;
    if (std::string_view(op) == "ReduceMean" && writer.opset() < 18) attributes["axes"] = axes;
    if (std::string_view(op) == "ReduceMean" && writer.opset() >= 18)
      inputs.push_back(
          writer.initializer("axes", Tensor::from(Dims{static_cast<int64_t>(axes.size())}, axes)));
    writer.node(op, std::move(inputs), {name}, attributes);
    return name;
  };
  const DType dtype = node.input(0)->dtype();
  const std::string centred = step("Sub", {x, step("ReduceMean", {x})});
  const std::string variance = step("ReduceMean", {step("Mul", {centred, centred})});
  const std::string epsilon =
      writer.initializer("epsilon", convert(Tensor::scalar(node.real("epsilon")), dtype));
  const std::string deviation = step("Sqrt", {step("Add", {variance, epsilon})});
  std::string result = step("Div", {centred, deviation}, !node.input(1) && !node.input(2));
  if (node.input(1))
    result = step("Mul", {result, writer.value_name(node.input(1))}, !node.input(2));
  if (node.input(2)) step("Add", {result, writer.value_name(node.input(2))}, true);
}

std::vector<Value*> import_layer(OnnxNodeReader& reader) {
  return reader.apply_all(
      "layer_norm", inputs_of(reader, 2),
      {{"axis", reader.integer("axis", -1)}, {"epsilon", reader.real("epsilon", 1e-5)}});
}
std::vector<Value*> import_rms(OnnxNodeReader& reader) {
  return {reader.apply(
      "rms_norm", {inputs_of(reader, 2)[0], reader.input(1)},
      {{"axis", reader.integer("axis", -1)}, {"epsilon", reader.real("epsilon", 1e-5)}})};
}
// x + skip (+ bias), normalised; the sum is the fourth output.
template <bool rms>
std::vector<Value*> import_skip(OnnxNodeReader& reader) {
  const auto inputs = inputs_of(reader, 3);
  Value* sum = reader.apply("add", {inputs[0], inputs[1]});
  const size_t bias = rms ? 3 : 4;
  if (reader.input(bias)) sum = reader.apply("add", {sum, reader.input(bias)});
  const Attributes a{{"axis", int64_t{-1}}, {"epsilon", reader.real("epsilon", 1e-5)}};
  Value* y = rms ? reader.apply("rms_norm", {sum, inputs[2]}, a)
                 : reader.apply("layer_norm", {sum, inputs[2], reader.input(3)}, a);
  return {y, nullptr, nullptr, sum};
}

// ---- group_norm

std::vector<TensorType> infer_group(const Node& node) {
  const TensorType& x = float_input(node);
  require(node, x.shape.rank() >= 2, "the input needs a channel axis");
  const int64_t groups = node.integer("groups");
  require(node, groups >= 0, "groups must not be negative");
  for (size_t i = 1; i < 3; ++i) {
    const Shape& p = float_input(node, i).shape;
    require(node, p.rank() == 1 && (!x.shape[1].is_static() || p[0] == x.shape[1]),
            "scale and bias must be one per channel");
  }
  if (groups > 0 && x.shape[1].is_static())
    require(node, x.shape[1].value() % groups == 0, "groups must divide the channels");
  return {x};
}

void reference_group(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Dims& dims = in[0]->dims();
  const auto channels = static_cast<size_t>(dims[1]);
  const size_t groups =
      node.integer("groups") == 0 ? channels : static_cast<size_t>(node.integer("groups"));
  std::vector<double> x = doubles(*in[0]);
  const auto scale = doubles(*in[1]), bias = doubles(*in[2]);
  const size_t inner =
      dims[0] * dims[1] == 0 ? 0 : x.size() / static_cast<size_t>(dims[0] * dims[1]);
  const size_t length = channels / std::max<size_t>(groups, 1) * inner;
  for (size_t g = 0; length > 0 && g < x.size() / length; ++g) {
    double* row = &x[g * length];
    double mean = 0, square = 0;
    for (size_t i = 0; i < length; ++i) mean += row[i] / static_cast<double>(length);
    for (size_t i = 0; i < length; ++i) square += (row[i] - mean) * (row[i] - mean);
    const double inverse =
        1 / std::sqrt(square / static_cast<double>(length) + node.real("epsilon"));
    for (size_t i = 0; i < length; ++i) {
      const size_t c = (g * length + i) / inner % channels;
      row[i] = (row[i] - mean) * inverse * scale[c] + bias[c];
    }
  }
  store_doubles(x, out[0]);
}

std::vector<Value*> import_instance(OnnxNodeReader& reader) {
  return {reader.apply("group_norm", inputs_of(reader, 3),
                       {{"epsilon", reader.real("epsilon", 1e-5)}})};
}

// Before opset 21 scale and bias are one per group.
std::vector<Value*> import_group(OnnxNodeReader& reader) {
  auto inputs = inputs_of(reader, 3);
  const int64_t groups = reader.integer("num_groups", 0);
  const Shape& x = inputs[0]->shape();
  if (groups < 1) reader.invalid("num_groups must be positive");
  if (reader.opset() < 21) {
    if (x.rank() < 2 || !x[1].is_static()) reader.unsupported("a dynamic number of channels");
    for (size_t i : {1u, 2u}) {
      Value* column = reader.apply("reshape", {inputs[i]}, {{"shape", Ints{-1, 1}}});
      Value* all =
          reader.apply("expand", {column}, {{"shape", Ints{groups, x[1].value() / groups}}});
      inputs[i] = reader.apply("reshape", {all}, {{"shape", Ints{-1}}});
    }
  }
  return {reader.apply("group_norm", std::move(inputs),
                       {{"groups", groups}, {"epsilon", reader.real("epsilon", 1e-5)}})};
}

void write_group(const Node& node, OnnxNodeWriter& writer) {
  Attributes onnx{{"epsilon", node.real("epsilon")}};
  if (node.integer("groups") == 0) return write_as(node, writer, "InstanceNormalization", onnx);
  onnx["num_groups"] = node.integer("groups");
  write_as(node, writer, "GroupNormalization", onnx, 21);
}

// ---- lp_norm

std::vector<TensorType> infer_lp(const Node& node) {
  axis_of(node);
  require(node, node.integer("p") == 1 || node.integer("p") == 2, "p must be 1 or 2");
  return {float_input(node)};
}

void reference_lp(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Rows rows(in[0]->dims(), axis_of(node));
  std::vector<double> x = doubles(*in[0]);
  for (size_t r = 0; r < (x.empty() ? 0 : rows.count()); ++r) {
    double sum = 0;
    for (size_t k = 0; k < rows.length; ++k) {
      const double v = x[rows.start(r) + k * rows.inner];
      sum += node.integer("p") == 1 ? std::fabs(v) : v * v;
    }
    if (node.integer("p") == 2) sum = std::sqrt(sum);
    for (size_t k = 0; k < rows.length; ++k) {
      double& v = x[rows.start(r) + k * rows.inner];
      v = sum == 0 ? 0 : v / sum;
    }
  }
  store_doubles(x, out[0]);
}

// ---- lrn

std::vector<TensorType> infer_lrn(const Node& node) {
  const TensorType& x = float_input(node);
  require(node, x.shape.rank() >= 2, "the input needs a channel axis");
  require(node, node.integer("size") > 0, "size must be positive");
  return {x};
}

void reference_lrn(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Rows rows(in[0]->dims(), 1);
  const std::vector<double> x = doubles(*in[0]);
  std::vector<double> y(x.size());
  const int64_t size = node.integer("size"), before = (size - 1) / 2, after = size - 1 - before;
  const auto channels = static_cast<int64_t>(rows.length);
  for (size_t r = 0; r < (x.empty() ? 0 : rows.count()); ++r)
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (int64_t k = std::max<int64_t>(0, c - before); k <= std::min(channels - 1, c + after);
           ++k) {
        const double v = x[rows.start(r) + static_cast<size_t>(k) * rows.inner];
        sum += v * v;
      }
      const size_t at = rows.start(r) + static_cast<size_t>(c) * rows.inner;
      y[at] =
          x[at] / std::pow(node.real("bias") + node.real("alpha") / static_cast<double>(size) * sum,
                           node.real("beta"));
    }
  store_doubles(y, out[0]);
}

constexpr OnnxImportRule layer_import[] = {
    {.op_type = "LayerNormalization", .import = import_layer},
    {.op_type = "LayerNormalization", .import = import_layer, .domain = "com.microsoft"},
    {.op_type = "SkipLayerNormalization", .import = import_skip<false>, .domain = "com.microsoft"}};
constexpr OnnxImportRule rms_import[] = {
    {.op_type = "RMSNormalization", .since = 23, .import = import_rms},
    {.op_type = "SimplifiedLayerNormalization", .import = import_rms},
    {.op_type = "SimplifiedLayerNormalization", .import = import_rms, .domain = "com.microsoft"},
    {.op_type = "SkipSimplifiedLayerNormalization",
     .import = import_skip<true>,
     .domain = "com.microsoft"}};
constexpr OnnxImportRule group_import[] = {
    {.op_type = "InstanceNormalization", .import = import_instance},
    {.op_type = "GroupNormalization", .since = 18, .import = import_group}};
constexpr OnnxImportRule lp_import[] = {
    {.op_type = "LpNormalization", .import = [](OnnxNodeReader& r) -> std::vector<Value*> {
       return {r.apply("lp_norm", {inputs_of(r)[0]},
                       {{"axis", r.integer("axis", -1)}, {"p", r.integer("p", 2)}})};
     }}};
constexpr OnnxImportRule lrn_import[] = {
    {.op_type = "LRN", .import = [](OnnxNodeReader& r) -> std::vector<Value*> {
       return {r.apply("lrn", {inputs_of(r)[0]},
                       {{"size", r.integer("size", 0)},
                        {"alpha", r.real("alpha", 1e-4)},
                        {"beta", r.real("beta", 0.75)},
                        {"bias", r.real("bias", 1)}})};
     }}};
constexpr OnnxExportRule layer_export{write_layer}, group_export{write_group};
constexpr OnnxExportRule lp_export{[](const Node& node, OnnxNodeWriter& writer) {
  write_as(node, writer, "LpNormalization",
           {{"axis", node.integer("axis")}, {"p", node.integer("p")}});
}};
constexpr OnnxExportRule lrn_export{[](const Node& node, OnnxNodeWriter& writer) {
  write_as(node, writer, "LRN",
           {{"size", node.integer("size")},
            {"alpha", node.real("alpha")},
            {"beta", node.real("beta")},
            {"bias", node.real("bias")}});
}};

std::vector<AttributeSpec> layer_attributes() {
  return {{"axis", AttributeKind::integer, false, int64_t{-1}},
          {"epsilon", AttributeKind::real, false, 1e-5}};
}

}  // namespace

const OpImpl op_layer_norm{
    .doc =
        "(x - mean) / sqrt(variance + epsilon) * scale + bias over the axes from `axis` on; "
        "inputs x, scale, bias, the last two broadcast; then the mean and the factor, f32.",
    .max_inputs = 3,
    .outputs = 3,
    .attributes = layer_attributes(),
    .infer = infer_layer,
    .reference = reference_layer<true>,
    .onnx_import = layer_import,
    .onnx_export = &layer_export};

const OpImpl op_rms_norm{
    .doc = "x / sqrt(mean of x² + epsilon) * scale over the axes from `axis` on; inputs x, scale.",
    .max_inputs = 2,
    .attributes = layer_attributes(),
    .infer = infer_layer,
    .reference = reference_layer<false>,
    .onnx_import = rms_import};

const OpImpl op_group_norm{
    .doc =
        "(x - mean) / sqrt(variance + epsilon) over each of `groups` of channels (0: each "
        "channel) of each sample, times scale plus bias per channel; inputs x, scale, bias.",
    .min_inputs = 3,
    .max_inputs = 3,
    .attributes = {{"groups", AttributeKind::integer, false, int64_t{0}},
                   {"epsilon", AttributeKind::real, false, 1e-5}},
    .infer = infer_group,
    .reference = reference_group,
    .onnx_import = group_import,
    .onnx_export = &group_export};

const OpImpl op_lp_norm{.doc = "x over its norm of order p (1 or 2) along `axis`; 0 where that is.",
                        .attributes = {{"axis", AttributeKind::integer, false, int64_t{-1}},
                                       {"p", AttributeKind::integer, false, int64_t{2}}},
                        .infer = infer_lp,
                        .reference = reference_lp,
                        .onnx_import = lp_import,
                        .onnx_export = &lp_export};

const OpImpl op_lrn{
    .doc = "x / (bias + alpha / size * sum of x² over `size` channels about it) to the power beta.",
    .attributes = {{"size", AttributeKind::integer, true},
                   {"alpha", AttributeKind::real, false, 1e-4},
                   {"beta", AttributeKind::real, false, 0.75},
                   {"bias", AttributeKind::real, false, 1.0}},
    .infer = infer_lrn,
    .reference = reference_lrn,
    .onnx_import = lrn_import,
    .onnx_export = &lrn_export};

}  // namespace octavo::ops
