// matmul_integer and conv_integer: products of bytes less their zero points, exact in i32.
#include "ops/integer_product.h"

#include "ops/op.h"
#include "ops/window.h"

namespace octavo::ops {
namespace {

bool is_byte(DType dtype) { return dtype == DType::u8 || dtype == DType::i8; }

// Inputs a, b and their zero points, which broadcast to them.
void check_operands(const Node& node) {
  for (size_t i = 0; i < 2; ++i) {
    const TensorType& type = node.input(i)->type();
    require(node, is_byte(type.dtype), "the inputs must be u8 or i8");
    const Value* zero = node.input(i + 2);
    if (!zero) continue;
    require(node, zero->dtype() == type.dtype, "a zero point must have its input's type");
    require(node, zero->shape().rank() <= type.shape.rank(),
            "a zero point must broadcast to its input");
    for (int64_t k = 1; k <= zero->shape().rank(); ++k) {
      const Dim& dim = zero->shape()[static_cast<size_t>(zero->shape().rank() - k)];
      const Dim& of = type.shape[static_cast<size_t>(type.shape.rank() - k)];
      require(node, dim == Dim(1) || !dim.is_static() || !of.is_static() || dim == of,
              "a zero point must broadcast to its input");
    }
  }
}

std::vector<TensorType> infer_matmul(const Node& node) {
  check_operands(node);
  return {{DType::i32, matmul_shape(node, node.input(0)->shape(), node.input(1)->shape())}};
}

std::vector<TensorType> infer_conv(const Node& node) {
  check_operands(node);
  return {{DType::i32, conv_shape(node, node.input(0)->shape(), node.input(1)->shape())}};
}

Tensor centred(const Tensor& x, const Tensor* zero) {
  Tensor out(DType::i32, x.dims());
  auto to = out.mutable_values<int32_t>();
  const auto from = x.to_ints();
  const auto zeros = zero ? zero->to_ints() : std::vector<int64_t>{0};
  // Steps through the zero points, 0 where they repeat.
  const Dims& dims = x.dims();
  Dims steps(dims.size(), 0);
  int64_t step = 1;
  for (size_t k = 1; zero && k <= zero->dims().size(); ++k) {
    const int64_t dim = zero->dims()[zero->dims().size() - k];
    if (dim != 1) steps[dims.size() - k] = step;
    step *= dim;
  }
  for (size_t i = 0; i < from.size(); ++i) {
    size_t rest = i;
    int64_t at = 0;
    for (size_t k = dims.size(); k-- > 0;) {
      at += static_cast<int64_t>(rest % static_cast<size_t>(dims[k])) * steps[k];
      rest /= static_cast<size_t>(dims[k]);
    }
    to[i] = static_cast<int32_t>(from[i] - zeros[static_cast<size_t>(at)]);
  }
  return out;
}

template <const OpImpl& product>
void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto zero = [&](size_t i) { return i < in.size() ? in[i] : nullptr; };
  const Tensor a = centred(*in[0], zero(2)), b = centred(*in[1], zero(3));
  const Tensor* const operands[] = {&a, &b};
  product.reference(node, std::span<const Tensor* const>(operands), out);
}

bool is_one(const Value* value) {
  return value->shape().is_static() && element_count(value->shape().dims()) == 1;
}

// ONNX's zero points are one number, or one for each output channel of the weights.
std::string zero_point_name(const Node& node, OnnxNodeWriter& writer, size_t i) {
  Value* zero = node.input(i);
  if (!zero) return "";
  if (zero->shape().rank() == 0 || (zero->shape().rank() == 1 && i == 3))
    return writer.value_name(zero);
  if (!is_one(zero) && !(i == 3 && zero->is_constant()))
    fail(node, "ONNX has one zero point for all of the first operand");
  if (zero->is_constant())
    return writer.initializer(
        "zero_point",
        zero->constant().reshaped(is_one(zero) ? Dims{} : Dims{zero->constant().size()}));
  std::string one = writer.temporary("zero_point");
  writer.node("Reshape",
              {writer.value_name(zero),
               writer.initializer("shape", Tensor::from(Dims{0}, std::vector<int64_t>{}))},
              {one});
  return one;
}

void write(const Node& node, OnnxNodeWriter& writer, std::string_view op, const Attributes& a) {
  need_opset(node, writer, 10);
  std::vector<std::string> inputs{
      writer.value_name(node.input(0)), writer.value_name(node.input(1)),
      zero_point_name(node, writer, 2), zero_point_name(node, writer, 3)};
  while (inputs.back().empty()) inputs.pop_back();
  writer.node(op, std::move(inputs), {writer.value_name(node.output())}, a);
}

constexpr OnnxExportRule matmul_export{
    [](const Node& node, OnnxNodeWriter& writer) { write(node, writer, "MatMulInteger", {}); }};
constexpr OnnxExportRule conv_export{[](const Node& node, OnnxNodeWriter& writer) {
  Attributes onnx{{"group", node.integer("group")}};
  export_window(node, node.input(1)->shape().size() - 2, onnx);
  write(node, writer, "ConvInteger", onnx);
}};

}  // namespace

const OpImpl op_matmul_integer{
    .doc =
        "matmul of (a - a_zero) and (b - b_zero) in i32; inputs a, b of u8 or i8, a_zero, b_zero, "
        "which broadcast to them.",
    .min_inputs = 2,
    .max_inputs = 4,
    .infer = infer_matmul,
    .reference = reference<op_matmul>,
    .onnx_export = &matmul_export};

const OpImpl op_conv_integer{
    .doc =
        "conv of (x - x_zero) and (w - w_zero) in i32; inputs x, w of u8 or i8, x_zero, w_zero, "
        "which broadcast to them.",
    .min_inputs = 2,
    .max_inputs = 4,
    .attributes =
        [] {
          auto specs = window_attributes();
          specs.push_back({"group", AttributeKind::integer, false, int64_t{1}});
          return specs;
        }(),
    .infer = infer_conv,
    .reference = reference<op_conv>,
    .onnx_export = &conv_export};

}  // namespace octavo::ops
