// quantize, dequantize and fake_quantize in the `onnx` arithmetic, one float32 rounding each step:
//   q = saturate(round_half_even(x / scale) + zero_point),   x' = (q - zero_point) * scale
// dequantize also reads integers of 4 bits, packed two to a byte (ops/packed.h).
#include <cmath>

#include "ops/op.h"
#include "ops/packed.h"

namespace octavo::ops {
namespace {

struct Limits {
  int32_t least, most;
};

Limits limits_of(const Node& node, DType dtype) {
  switch (dtype) {
    case DType::i8:
      return {-128, 127};
    case DType::u8:
      return {0, 255};
    case DType::i16:
      return {-32768, 32767};
    case DType::u16:
      return {0, 65535};
    case DType::i32:
      return {INT32_MIN, INT32_MAX};
    default:
      fail(node, fmt::format("{} is no quantized type", dtype_name(dtype)));
  }
}

// Which scale each element has: (i / inner) % count for one per index of an axis.
struct Granularity {
  size_t inner = 1, count = 1;
  size_t group = 0, dim = 1;  // group: elements of the axis that share a scale
  size_t operator()(size_t i) const {
    if (group == 0) return i / inner % count;
    const size_t along = i / inner % dim, blocks = (dim + group - 1) / group;
    return (i / inner / dim * blocks + along / group) * inner + i % inner;
  }
};

Granularity granularity(const Node& node, const Dims& x, const Dims& scale) {
  Granularity g;
  if (element_count(scale) == 1 && scale.size() <= 1) return g;
  const int64_t axis =
      normalize_axis(node.integer("axis"), static_cast<int64_t>(x.size()), node.where());
  for (size_t i = static_cast<size_t>(axis) + 1; i < x.size(); ++i)
    g.inner *= static_cast<size_t>(x[i]);
  g.dim = static_cast<size_t>(x[static_cast<size_t>(axis)]);
  g.count = static_cast<size_t>(element_count(scale));
  g.group = static_cast<size_t>(node.integer("group_size"));
  return g;
}

// `x`: the shape of the elements.
void check_parameters(const Node& node, const Shape& x) {
  const Shape& scale = node.input(1)->shape();
  const DType scale_type = node.input(1)->dtype();
  require(node, scale_type == DType::f32 || scale_type == DType::f16 || scale_type == DType::bf16,
          "the scale must be f32, f16 or bf16");
  if (const Value* zero = node.input(2))
    require(node, zero->shape() == scale, "scale and zero point must have one shape");
  const int64_t group = node.integer("group_size");
  require(node, group >= 0, "group_size must not be negative");
  if (scale.rank() == 0 || (scale.rank() == 1 && scale[0] == Dim(1) && group == 0)) return;
  const auto axis =
      static_cast<size_t>(normalize_axis(node.integer("axis"), x.rank(), node.where()));
  if (group == 0) {
    require(node, scale.rank() == 1 && (!x[axis].is_static() || scale[0] == x[axis]),
            "the scale must be one number, or one per index of the axis");
    return;
  }
  require(node, scale.rank() == x.rank(), "a scale per group needs the input's rank");
  for (size_t i = 0; i < x.size(); ++i)
    if (x[i].is_static() && scale[i].is_static())
      require(node,
              scale[i].value() == (i == axis ? (x[i].value() + group - 1) / group : x[i].value()),
              "the scale's shape does not match the groups");
}

const TensorType& float_or_i32(const Node& node) {
  const TensorType& x = node.input(0)->type();
  return x.dtype == DType::i32 ? x : float_input(node);
}

std::vector<TensorType> infer_quantize(const Node& node) {
  const TensorType& x = float_or_i32(node);
  check_parameters(node, x.shape);
  const DType dtype = node.input(2) ? node.input(2)->dtype() : parse_dtype(node.text("output"));
  if (node.input(2)) require(node, !is_float(dtype), "the zero point must be an integer");
  limits_of(node, dtype);
  return {{dtype, x.shape}};
}

std::vector<TensorType> infer_dequantize(const Node& node) {
  const Shape x = unpacked_shape(node);
  const DType integers = integer_type(node);
  limits_of(node, integers);
  check_parameters(node, x);
  if (const Value* zero = node.input(2))
    require(node, zero->dtype() == integers, "input and zero point must have one type");
  return {{node.input(1)->dtype(), x}};
}

std::vector<TensorType> infer_fake(const Node& node) {
  const TensorType& x = float_input(node);
  check_parameters(node, x.shape);
  require(node, node.integer("least") < node.integer("most"), "least must be below most");
  return {x};
}

std::vector<int64_t> zero_points(std::span<const Tensor* const> in, size_t count) {
  if (in.size() > 2 && in[2]) return in[2]->to_ints();
  return std::vector<int64_t>(count, 0);
}

int64_t quantize_one(float x, float scale, int64_t zero, Limits limits) {
  const float r = std::nearbyint(x / scale);
  if (std::isnan(r))
    return std::clamp<int64_t>(zero, limits.least, limits.most);  // NaN counts as 0
  const float bounded = std::clamp(r, -1e9f, 1e9f);
  return std::clamp<int64_t>(static_cast<int64_t>(bounded) + zero, limits.least, limits.most);
}

// Half types are computed in float.
std::vector<float> floats(const Tensor& x) {
  const Tensor wide = convert(x, DType::f32);
  const auto values = wide.values<float>();
  return {values.begin(), values.end()};
}

template <class T>
void quantize_into(const Tensor& x, const std::vector<float>& scales,
                   const std::vector<int64_t>& zeros, const Granularity& g, Limits limits,
                   Tensor& out) {
  const auto from = floats(x);
  auto to = out.mutable_values<T>();
  for (size_t i = 0; i < from.size(); ++i)
    to[i] = static_cast<T>(quantize_one(from[i], scales[g(i)], zeros[g(i)], limits));
}

void reference_quantize(const Node& node, std::span<const Tensor* const> in,
                        std::span<Tensor> out) {
  const Granularity g = granularity(node, in[0]->dims(), in[1]->dims());
  const auto scales = floats(*in[1]);
  const auto zeros = zero_points(in, scales.size());
  const Limits limits = limits_of(node, out[0].dtype());
  switch (out[0].dtype()) {
    case DType::i8:
      return quantize_into<int8_t>(*in[0], scales, zeros, g, limits, out[0]);
    case DType::u8:
      return quantize_into<uint8_t>(*in[0], scales, zeros, g, limits, out[0]);
    case DType::i16:
      return quantize_into<int16_t>(*in[0], scales, zeros, g, limits, out[0]);
    case DType::u16:
      return quantize_into<uint16_t>(*in[0], scales, zeros, g, limits, out[0]);
    default:
      return quantize_into<int32_t>(*in[0], scales, zeros, g, limits, out[0]);
  }
}

void reference_dequantize(const Node& node, std::span<const Tensor* const> in,
                          std::span<Tensor> out) {
  const Granularity g = granularity(node, out[0].dims(), in[1]->dims());
  const auto scales = floats(*in[1]);
  const auto zeros = zero_points(in, scales.size());
  const auto q = is_packed(node)
                     ? unpack_nibbles(*in[0], out[0].dims(), integer_type(node)).to_ints()
                     : in[0]->to_ints();
  visit_floats(node, out[0].dtype(), [&](auto tag) {
    using T = decltype(tag);
    auto y = mutable_elements<T>(out[0]);
    for (size_t i = 0; i < q.size(); ++i)
      y[i] = store_element<T>(static_cast<float>(q[i] - zeros[g(i)]) * scales[g(i)]);
  });
}

void reference_fake(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Granularity g = granularity(node, in[0]->dims(), in[1]->dims());
  const auto x = floats(*in[0]), scales = floats(*in[1]);
  const auto zeros = zero_points(in, scales.size());
  const Limits limits{static_cast<int32_t>(node.integer("least")),
                      static_cast<int32_t>(node.integer("most"))};
  std::vector<double> y(x.size());
  for (size_t i = 0; i < x.size(); ++i)
    y[i] = static_cast<float>(quantize_one(x[i], scales[g(i)], zeros[g(i)], limits) - zeros[g(i)]) *
           scales[g(i)];
  store_doubles(y, out[0]);
}

// quantize_to_nhwc: one scale, an image at a time.
std::vector<TensorType> infer_to_nhwc(const Node& node) {
  const TensorType& x = float_input(node);
  const DType output = parse_dtype(node.text("output"));
  require(node, x.dtype == DType::f32 && x.shape.rank() == 4, "x is f32 [N, C, H, W]");
  require(node, output == DType::u8 || output == DType::i8, "the output must be u8 or i8");
  return {{output, {x.shape[0], x.shape[2], x.shape[3], x.shape[1]}}};
}

void reference_to_nhwc(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Dims& dims = in[0]->dims();
  const auto channels = static_cast<size_t>(dims[1]);
  const auto pixels = static_cast<size_t>(dims[2] * dims[3]);
  const auto scale = static_cast<float>(node.real("scale"));
  const Limits limits = limits_of(node, out[0].dtype());
  const auto x = in[0]->values<float>();
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t image = i / (channels * pixels), c = i / pixels % channels, pixel = i % pixels;
    const int64_t q = quantize_one(x[i], scale, node.integer("y_zero_point"), limits);
    const size_t at = (image * pixels + pixel) * channels + c;
    if (out[0].dtype() == DType::u8)
      out[0].mutable_values<uint8_t>()[at] = static_cast<uint8_t>(q);
    else
      out[0].mutable_values<int8_t>()[at] = static_cast<int8_t>(q);
  }
}

Attributes import_attributes(OnnxNodeReader& reader) {
  return {{"axis", reader.integer("axis", 1)}, {"group_size", reader.integer("block_size", 0)}};
}

// Input 2. ONNX takes [] and [1] for one number; here it has the scale's shape.
Value* import_zero_point(OnnxNodeReader& reader) {
  const Value *scale = reader.input(1), *zero = reader.input(2);
  if (!zero || scale->shape() == zero->shape()) return reader.input(2);
  const auto one = [](const Shape& s) {
    return s.rank() == 0 || (s.rank() == 1 && s[0] == Dim(1));
  };
  if (!one(scale->shape()) || !one(zero->shape())) return reader.input(2);
  if (const Tensor* constant = reader.constant(2))
    return reader.constant_value(constant->reshaped(scale->shape().dims()));
  return reader.apply("reshape", {reader.input(2)}, {{"shape", scale->shape().dims()}});
}

std::vector<Value*> import_quantize(OnnxNodeReader& reader) {
  if (!reader.input(0) || !reader.input(1)) reader.invalid("needs an input and a scale");
  Attributes a = import_attributes(reader);
  const Value* zero = reader.input(2);
  int bits = reader.narrow_bits(2);
  if (const int64_t onnx_dtype = reader.integer("output_dtype", 0)) {
    const DType output = reader.element_type(onnx_dtype);
    if (!is_integer(output) || dtype_size(output) > 2)
      reader.unsupported("output_dtype must be an integer of 2, 4, 8 or 16 bits");
    if (zero && (zero->dtype() != output || bits != reader.element_bits(onnx_dtype)))
      reader.invalid(fmt::format("output_dtype is {}, the zero point {}",
                                 type_text(output, reader.element_bits(onnx_dtype)),
                                 type_text(zero->dtype(), bits)));
    a["output"] = std::string(dtype_name(output));
    bits = reader.element_bits(onnx_dtype);
  }
  Value* q =
      reader.apply("quantize", {reader.input(0), reader.input(1), import_zero_point(reader)}, a);
  if (bits == 0) return {q};
  // Saturated twice is saturated to the smaller range.
  const double least = q->dtype() == DType::i8 ? -std::ldexp(1, bits - 1) : 0;
  q = reader.apply("clip", {q}, {{"min", least}, {"max", least + std::ldexp(1, bits) - 1}});
  return {reader.narrow(q, bits)};
}

std::vector<Value*> import_dequantize(OnnxNodeReader& reader) {
  if (!reader.input(0) || !reader.input(1)) reader.invalid("needs an input and a scale");
  Attributes a = import_attributes(reader);
  Value* q = reader.input(0);
  if (reader.narrow_bits(0) != 0 && reader.constant(0) && q->shape().rank() > 0) {
    const Tensor& integers = *reader.constant(0);
    a["packed"] = std::string(integers.dtype() == DType::i8 ? "i4" : "u4");
    if (integers.dims().back() % 2) a["columns"] = integers.dims().back();
    q = reader.constant_value(pack_nibbles(integers, reader.name()));
  }
  return {reader.apply("dequantize", {q, reader.input(1), import_zero_point(reader)}, a)};
}

void write_qdq(const Node& node, OnnxNodeWriter& writer) {
  const bool quantize = node.is("quantize"), packed = !quantize && is_packed(node);
  const DType integers = quantize ? node.output()->dtype() : node.input(0)->dtype();
  if (packed || integers == DType::i16 || integers == DType::u16) need_opset(node, writer, 21);
  if (node.input(1)->dtype() != DType::f32) need_opset(node, writer, 19);
  const auto unpacked = [&] {
    if (!node.input(0)->is_constant()) fail(node, "packed integers are exported as constants only");
    return unpack_nibbles(node.input(0)->constant(), node.output()->shape().dims(),
                          integer_type(node));
  };
  std::vector<std::string> inputs{
      packed ? writer.four_bit_initializer(node.input(0)->name(), unpacked())
             : writer.value_name(node.input(0)),
      writer.value_name(node.input(1))};
  if (node.input(2) && packed) {
    if (!node.input(2)->is_constant()) fail(node, "the zero point must be constant to be exported");
    inputs.push_back(writer.four_bit_initializer(node.input(2)->name(), node.input(2)->constant()));
  } else if (node.input(2)) {
    inputs.push_back(writer.value_name(node.input(2)));
  } else if (quantize && node.output()->dtype() != DType::u8) {
    // ONNX reads the type off the zero point; without one it means u8.
    Tensor zero = convert(
        Tensor::from(node.input(1)->shape().dims(),
                     std::vector<int32_t>(
                         static_cast<size_t>(element_count(node.input(1)->shape().dims())), 0)),
        node.output()->dtype());
    inputs.push_back(writer.initializer("zero_point", zero));
  }
  Attributes a;
  if (node.input(1)->shape().rank() > 0 && writer.opset() >= 13) a["axis"] = node.integer("axis");
  if (node.integer("group_size") > 0) {
    need_opset(node, writer, 21);
    a["block_size"] = node.integer("group_size");
  }
  writer.node(quantize ? "QuantizeLinear" : "DequantizeLinear", std::move(inputs),
              {writer.value_name(node.output())}, a);
}

// As a pair, which is what it stands for.
void write_fake(const Node& node, OnnxNodeWriter& writer) {
  const int64_t least = node.integer("least"), most = node.integer("most");
  const bool u8 = least == 0 && most == 255, i8 = least == -128 && most == 127;
  if (!u8 && !i8) fail(node, "ONNX has no fake quantization but of all 8 bits");
  const auto count = static_cast<size_t>(element_count(node.input(1)->shape().dims()));
  Tensor zero;
  if (node.input(2)) {
    if (!node.input(2)->is_constant()) fail(node, "the zero point must be constant to be exported");
    zero = convert(node.input(2)->constant(), u8 ? DType::u8 : DType::i8);
  } else {
    zero = convert(Tensor::from(node.input(1)->shape().dims(), std::vector<int32_t>(count, 0)),
                   u8 ? DType::u8 : DType::i8);
  }
  const std::string zero_name = writer.initializer("zero_point", zero),
                    scale = writer.value_name(node.input(1));
  const std::string between = writer.temporary("quantized");
  Attributes a;
  if (node.input(1)->shape().rank() > 0) a["axis"] = node.integer("axis");
  writer.node("QuantizeLinear", {writer.value_name(node.input(0)), scale, zero_name}, {between}, a);
  writer.node("DequantizeLinear", {between, scale, zero_name}, {writer.value_name(node.output())},
              a);
}

constexpr OnnxImportRule quantize_import[] = {
    {.op_type = "QuantizeLinear", .since = 10, .import = import_quantize}};
constexpr OnnxImportRule dequantize_import[] = {
    {.op_type = "DequantizeLinear", .since = 10, .import = import_dequantize}};
constexpr OnnxExportRule qdq_export{write_qdq};
constexpr OnnxExportRule fake_export{write_fake};

std::vector<AttributeSpec> attributes(std::initializer_list<AttributeSpec> more = {}) {
  // axis: of the channels or groups; not read where the scale is one number.
  std::vector<AttributeSpec> specs{{"axis", AttributeKind::integer, false, int64_t{1}},
                                   {"group_size", AttributeKind::integer, false, int64_t{0}}};
  specs.insert(specs.end(), more);
  return specs;
}

}  // namespace

const OpImpl op_quantize{
    .doc =
        "q = saturate(round_half_even(x / scale) + zero_point); inputs x, scale, zero_point (its "
        "type is q's; "
        "without one `output` is). One scale, one per index of `axis`, or one per `group_size` of "
        "it. NaN gives the zero point.",
    .min_inputs = 2,
    .max_inputs = 3,
    .attributes = attributes({{"output", AttributeKind::text, false, std::string("u8")}}),
    .infer = infer_quantize,
    .reference = reference_quantize,
    .onnx_import = quantize_import,
    .onnx_export = &qdq_export};

const OpImpl op_dequantize{
    .doc =
        "x = (q - zero_point) * scale; inputs q, scale, zero_point as for quantize. `packed` i4 or "
        "u4: q is u8 [..., bytes], two integers of 4 bits in each, the first one low; `columns` is "
        "the last axis of x (0: two for each byte); the zero point is i8 or u8, not packed.",
    .min_inputs = 2,
    .max_inputs = 3,
    .attributes = attributes({{"packed", AttributeKind::text, false, std::string()},
                              {"columns", AttributeKind::integer, false, int64_t{0}}}),
    .infer = infer_dequantize,
    .reference = reference_dequantize,
    .onnx_import = dequantize_import,
    .onnx_export = &qdq_export};

const OpImpl op_fake_quantize{
    .doc =
        "dequantize(quantize(x)) in float, integers clamped to [least, most]; inputs x, scale, "
        "zero_point.",
    .min_inputs = 2,
    .max_inputs = 3,
    .attributes = attributes({{"least", AttributeKind::integer, false, int64_t{-128}},
                              {"most", AttributeKind::integer, false, int64_t{127}}}),
    .infer = infer_fake,
    .reference = reference_fake,
    .onnx_export = &fake_export};

const OpImpl op_quantize_to_nhwc{
    .doc = "quantize of x [N, C, H, W] with one scale, as [N, H, W, C].",
    .attributes = {{"scale", AttributeKind::real, true},
                   {"y_zero_point", AttributeKind::integer, false, int64_t{0}},
                   {"output", AttributeKind::text, false, std::string("u8")}},
    .infer = infer_to_nhwc,
    .reference = reference_to_nhwc};

}  // namespace octavo::ops
