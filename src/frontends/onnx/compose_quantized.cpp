// Quantized ops of ONNX and of ONNX Runtime (com.microsoft), as the float op between dequantize and
// quantize, which the passes make integer again where there are kernels; and integer products.
#include "frontends/onnx/compose.h"
#include "ops/packed.h"
#include "ops/window.h"

namespace octavo::onnx_import {
namespace {

// The zero point in the shape of its scale; ONNX takes [] and [1] for one number.
Value* fitted(Composer& make, Value* zero, const Value* scale) {
  if (!zero || zero->shape() == scale->shape()) return zero;
  if (!scale->shape().is_static()) make.reader().unsupported("a scale of unknown shape");
  const Dims dims = scale->shape().dims();
  const bool one = zero->shape().is_static() && element_count(zero->shape().dims()) == 1;
  if (one) zero = make.reshape(zero, Ints{});
  return one ? make("expand", {zero}, {{"shape", Ints(dims)}}) : make.reshape(zero, Ints(dims));
}

// A scale that is a float, if half a one.
Value* scale_of(Composer& make, Value* scale) {
  if (!is_float(scale->dtype()))
    make.reader().invalid(fmt::format("a scale is {}, not a float", dtype_name(scale->dtype())));
  return make.cast(scale, DType::f32);
}

Value* dequantize(Composer& make, Value* x, Value* scale, Value* zero, int64_t axis = 0) {
  scale = scale_of(make, scale);
  return make("dequantize", {x, scale, fitted(make, zero, scale)}, {{"axis", axis}});
}
Value* dequantize(Composer& make, size_t i, int64_t axis = 0) {
  return dequantize(make, make.input(i), make.input(i + 1), make.reader().input(i + 2), axis);
}
// Scale and zero point are inputs i and i + 1; without the latter the integers are u8.
Value* quantize(Composer& make, Value* y, size_t i) {
  Value* scale = scale_of(make, make.input(i));
  return make("quantize", {y, scale, fitted(make, make.reader().input(i + 1), scale)});
}

Ints kernel_of(OnnxNodeReader& reader, const Value* w) {
  if (!w->shape().is_static() || w->shape().rank() < 3)
    reader.unsupported("weights whose shape is not known");
  const Dims dims = w->shape().dims();
  return {dims.begin() + 2, dims.end()};
}

Value* convolve(Composer& make, Value* x, Value* w, Value* bias) {
  OnnxNodeReader& reader = make.reader();
  Attributes a = ops::import_window(reader, kernel_of(reader, w), x->shape());
  a["group"] = reader.integer("group", 1);
  return make("conv", {x, w, bias}, std::move(a));
}

// int32 of scale sx * sw, as float.
Value* bias_of(Composer& make, Value* bias, Value* sx, Value* sw) {
  if (!bias) return nullptr;
  Value* scale = make("mul", {make.cast(sx, DType::f32), make.cast(sw, DType::f32)});
  if (scale->shape().rank() == 1 && scale->shape()[0] == Dim(1)) scale = make.reshape(scale, {});
  return dequantize(make, bias, scale, nullptr);
}

std::vector<Value*> import_qlinear_conv(OnnxNodeReader& reader) {
  Composer make(reader);
  if (reader.integer("channels_last", 0) != 0) reader.unsupported("channels_last 1");
  Value* bias = bias_of(make, reader.input(8), make.input(1), make.input(4));
  return {quantize(make, convolve(make, dequantize(make, 0), dequantize(make, 3), bias), 6)};
}

std::vector<Value*> import_qlinear_matmul(OnnxNodeReader& reader) {
  Composer make(reader);
  const int64_t columns = make.input(3)->shape().rank() - 1;
  Value* product = make("matmul", {dequantize(make, 0), dequantize(make, 3, columns)});
  return {quantize(make, product, 6)};
}

std::vector<Value*> import_qgemm(OnnxNodeReader& reader) {
  Composer make(reader);
  const bool tb = reader.integer("transB", 0) != 0;
  Value* c = bias_of(make, reader.input(6), make.input(1), make.input(4));
  Value* y = make("gemm", {dequantize(make, 0), dequantize(make, 3, tb ? 0 : 1), c},
                  {{"trans_a", reader.integer("transA", 0)},
                   {"trans_b", int64_t{tb}},
                   {"alpha", reader.real("alpha", 1)}});
  return {reader.input(7) ? quantize(make, y, 7) : y};
}

// ---- integer products

// The zero point (input `i`) of `x`, in a shape that broadcasts to it; those of an axis come as a
// vector.
Value* zero_point(Composer& make, const Value* x, size_t i, const Ints& shape) {
  const DType dtype = x->dtype();
  if (dtype != DType::u8 && dtype != DType::i8)
    make.reader().invalid(fmt::format("an operand is {}, not u8 or i8", dtype_name(dtype)));
  Value* zero = make.reader().input(i);
  if (!zero) return zero;
  if (zero->dtype() != dtype)
    make.reader().invalid(
        fmt::format("the zero point of {} is {}", dtype_name(dtype), dtype_name(zero->dtype())));
  if (zero->shape().rank() != 1) return zero;
  return make.reshape(zero, zero->shape()[0] == Dim(1) ? Ints{} : shape);
}

std::vector<Value*> import_conv_integer(OnnxNodeReader& reader) {
  Composer make(reader);
  Value *x = make.input(0), *w = make.input(1);
  Ints column(static_cast<size_t>(std::max<int64_t>(w->shape().rank(), 1)), 1);
  column[0] = -1;
  Attributes a = ops::import_window(reader, kernel_of(reader, w), x->shape());
  a["group"] = reader.integer("group", 1);
  return {make("conv_integer", {x, w, zero_point(make, x, 2, {-1}), zero_point(make, w, 3, column)},
               std::move(a))};
}

Value* integer_product(Composer& make, Value* a, Value* b, Value* a_zero, Value* b_zero) {
  return make("matmul_integer", {a, b, a_zero, b_zero});
}

std::vector<Value*> import_matmul_integer(OnnxNodeReader& reader) {
  Composer make(reader);
  return {integer_product(make, make.input(0), make.input(1),
                          zero_point(make, make.input(0), 2, {-1, 1}),
                          zero_point(make, make.input(1), 3, {-1}))};
}

// ---- dynamic quantization

// Integer product times both scales, plus a bias.
Value* to_float(Composer& make, Value* product, Value* a_scale, Value* b_scale, Value* bias) {
  Value* y = make("mul", {make.cast(product, DType::f32), make("mul", {a_scale, b_scale})});
  return bias ? make("add", {y, bias}) : y;
}

std::vector<Value*> import_dynamic_matmul(OnnxNodeReader& reader) {
  Composer make(reader);
  const auto a = reader.apply_all("dynamic_quantize", {make.input(0)});
  Value* product =
      integer_product(make, a[0], make.input(1), a[2], zero_point(make, make.input(1), 3, {-1}));
  return {to_float(make, product, a[1], make.input(2), reader.input(4))};
}

std::vector<Value*> import_matmul_to_float(OnnxNodeReader& reader) {
  Composer make(reader);
  Value* product = integer_product(make, make.input(0), make.input(1),
                                   zero_point(make, make.input(0), 4, {-1, 1}),
                                   zero_point(make, make.input(1), 5, {-1}));
  return {to_float(make, product, make.input(2), make.input(3), reader.input(6))};
}

// Weights of 2, 4 or 8 bits in blocks along K: [N, blocks, bytes of a block], low bits first.
std::vector<Value*> import_matmul_nbits(OnnxNodeReader& reader) {
  Composer make(reader);
  const int64_t n = reader.integer("N", 0), k = reader.integer("K", 0),
                bits = reader.integer("bits", 4), block = reader.integer("block_size", 0);
  if (n < 1 || k < 1 || block < 1 || n > (1 << 28) || k > (1 << 28) || block > (1 << 28))
    reader.invalid("N, K or block_size is out of range");
  if (bits != 2 && bits != 4 && bits != 8) reader.unsupported(fmt::format("{} bits", bits));
  if (reader.input(4)) reader.unsupported("g_idx");
  const int64_t blocks = (k + block - 1) / block, per_byte = 8 / bits;
  const auto unpack = [&](const Tensor& packed, int64_t row_bytes, int64_t count) {
    if (packed.dtype() != DType::u8 || packed.size() != n * row_bytes)
      reader.invalid("packed weights or zero points have the wrong type or size");
    Tensor out(DType::u8, {count, n});
    const auto from = packed.values<uint8_t>();
    auto to = out.mutable_values<uint8_t>();
    for (int64_t i = 0; i < n * count; ++i) {
      const int64_t row = i / count, at = i % count;
      const uint8_t byte = from[static_cast<size_t>(row * row_bytes + at / per_byte)];
      to[static_cast<size_t>(at * n + row)] =
          static_cast<uint8_t>((byte >> (at % per_byte * bits)) & ((1 << bits) - 1));
    }
    return out;
  };
  const Tensor* packed = reader.constant(1);
  if (!packed) reader.unsupported("weights that are not constant");
  // [K, N], as a matmul reads them.
  Tensor w = unpack(*packed, blocks * ((block * bits + 7) / 8), std::min(k, blocks * block));
  Value* scale =
      make.transpose(make.reshape(make.cast(make.input(2), DType::f32), {n, blocks}), {1, 0});
  const Tensor* points = reader.constant(3);
  if (reader.input(3) && !points) reader.unsupported("zero points that are not constant");
  Value* zero = nullptr;
  if (points && points->dtype() == DType::u8)
    zero = reader.constant_value(unpack(*points, (blocks * bits + 7) / 8, blocks));
  else if (points)
    reader.unsupported("zero points that are not packed");
  else
    zero = make("expand",
                {reader.constant_value(Tensor::scalar(static_cast<uint8_t>(1 << (bits - 1))))},
                {{"shape", Ints{blocks, n}}});
  Attributes a{{"axis", int64_t{0}}, {"group_size", block}};
  if (bits == 4) {
    a["packed"] = std::string("u4");
    if (n % 2) a["columns"] = n;
    w = pack_nibbles(w, reader.name());
  }
  Value* weights = make("dequantize", {reader.constant_value(std::move(w)), scale, zero}, a);
  Value* x = make.input(0);
  Value* y = make("matmul", {x, make.cast(weights, x->dtype())});
  return {reader.input(5) ? make("add", {y, reader.input(5)}) : y};
}

// ---- com.microsoft: a float op between dequantize and quantize

template <const char* op>
std::vector<Value*> import_binary(OnnxNodeReader& reader) {
  Composer make(reader);
  return {quantize(make, make(op, {dequantize(make, 0), dequantize(make, 3)}), 6)};
}

template <const char* op>
std::vector<Value*> import_unary(OnnxNodeReader& reader) {
  Composer make(reader);
  Attributes a;
  if (std::string_view(op) == "leaky_relu") a["alpha"] = reader.real("alpha", 0.01);
  if (std::string_view(op) == "softmax") a["axis"] = reader.integer("axis", -1);
  return {quantize(make, make(op, {dequantize(make, 0)}, std::move(a)), 3)};
}

std::vector<Value*> import_global_pool(OnnxNodeReader& reader) {
  Composer make(reader);
  Value* x = dequantize(make, 0);
  const bool last = reader.integer("channels_last", 0) != 0;
  Ints axes;
  for (int64_t i = last ? 1 : 2; i < x->shape().rank() - (last ? 1 : 0); ++i) axes.push_back(i);
  return {quantize(make, make("reduce_mean", {x}, {{"axes", axes}}), 3)};
}

std::vector<Value*> import_average_pool(OnnxNodeReader& reader) {
  Composer make(reader);
  if (reader.integer("channels_last", 0) != 0) reader.unsupported("channels_last 1");
  Value* x = dequantize(make, 0);
  const Ints kernel = reader.integers("kernel_shape", {});
  if (kernel.empty() || static_cast<int64_t>(kernel.size()) + 2 != x->shape().rank())
    reader.invalid("kernel_shape does not match the input's rank");
  Attributes a = ops::import_window(reader, kernel, x->shape());
  a["kernel"] = kernel;
  a["ceil_mode"] = reader.integer("ceil_mode", 0);
  a["count_include_pad"] = reader.integer("count_include_pad", 0);
  return {quantize(make, make("avg_pool", {x}, std::move(a)), 3)};
}

std::vector<Value*> import_concat(OnnxNodeReader& reader) {
  Composer make(reader);
  std::vector<Value*> parts;
  for (size_t i = 2; i + 1 < reader.input_count(); i += 3) parts.push_back(dequantize(make, i));
  if (parts.empty()) reader.invalid("needs tensors");
  return {quantize(make, make.concat(parts, reader.integer("axis", 0)), 0)};
}

constexpr char add[] = "add", mul[] = "mul", sigmoid[] = "sigmoid", leaky[] = "leaky_relu",
               softmax[] = "softmax";
constexpr std::string_view microsoft = "com.microsoft";
constexpr OnnxImportRule rules[] = {
    {.op_type = "QLinearConv", .since = 10, .import = import_qlinear_conv},
    {.op_type = "QLinearMatMul", .since = 10, .import = import_qlinear_matmul},
    {.op_type = "ConvInteger", .since = 10, .import = import_conv_integer},
    {.op_type = "MatMulInteger", .since = 10, .import = import_matmul_integer},
    {.op_type = "QLinearConv", .import = import_qlinear_conv, .domain = microsoft},
    {.op_type = "QGemm", .import = import_qgemm, .domain = microsoft},
    {.op_type = "DynamicQuantizeMatMul", .import = import_dynamic_matmul, .domain = microsoft},
    {.op_type = "MatMulIntegerToFloat", .import = import_matmul_to_float, .domain = microsoft},
    {.op_type = "MatMulNBits", .import = import_matmul_nbits, .domain = microsoft},
    {.op_type = "QLinearAdd", .import = import_binary<add>, .domain = microsoft},
    {.op_type = "QLinearMul", .import = import_binary<mul>, .domain = microsoft},
    {.op_type = "QLinearSigmoid", .import = import_unary<sigmoid>, .domain = microsoft},
    {.op_type = "QLinearLeakyRelu", .import = import_unary<leaky>, .domain = microsoft},
    {.op_type = "QLinearSoftmax", .import = import_unary<softmax>, .domain = microsoft},
    {.op_type = "QLinearGlobalAveragePool", .import = import_global_pool, .domain = microsoft},
    {.op_type = "QLinearAveragePool", .import = import_average_pool, .domain = microsoft},
    {.op_type = "QLinearConcat", .import = import_concat, .domain = microsoft}};

}  // namespace

std::span<const OnnxImportRule> quantized_rules() { return rules; }

}  // namespace octavo::onnx_import
