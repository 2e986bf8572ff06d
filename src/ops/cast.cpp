// cast: elements as another type; bit_cast: the same bits.
#include <array>
#include <cmath>

#include "ops/op.h"

namespace octavo::ops {
namespace {

// ONNX's numbers of our element types, in the order of DType.
constexpr std::array<int64_t, dtype_count> onnx_types{1, 11, 10, 16, 3, 2, 5, 4, 6, 12, 7, 13, 9};

std::vector<TensorType> infer(const Node& node) {
  return {{parse_dtype(node.text("to")), node.input(0)->shape()}};
}

void reference(const Node&, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Tensor y = convert(*in[0], out[0].dtype());
  std::copy(y.data(), y.data() + y.bytes(), out[0].mutable_data());
}

std::vector<TensorType> infer_round(const Node& node) {
  const DType to = parse_dtype(node.text("to"));
  require(node, to == DType::f16 || to == DType::bf16, "`to` must be f16 or bf16");
  require(node, node.input(0)->dtype() == DType::f32, "the elements must be f32");
  return {node.input(0)->type()};
}

void reference_round(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Tensor y = convert(convert(*in[0], parse_dtype(node.text("to"))), DType::f32);
  std::copy(y.data(), y.data() + y.bytes(), out[0].mutable_data());
}

std::vector<TensorType> infer_bits(const Node& node) {
  const DType to = parse_dtype(node.text("to"));
  require(node, dtype_size(to) == dtype_size(node.input(0)->dtype()),
          "both types must have the same size");
  return {{to, node.input(0)->shape()}};
}

void reference_bits(const Node&, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto* from = reinterpret_cast<const uint8_t*>(in[0]->data());
  auto* to = reinterpret_cast<uint8_t*>(out[0].mutable_data());
  // A bool of another bit pattern than 0 and 1 must not come to be.
  const bool boolean = out[0].dtype() == DType::boolean;
  for (size_t i = 0; i < in[0]->bytes(); ++i)
    to[i] = boolean ? static_cast<uint8_t>(from[i] != 0) : from[i];
}

std::vector<Value*> to_type(OnnxNodeReader& reader, const char* op, DType to) {
  return {reader.apply(op, {inputs_of(reader)[0]}, {{"to", std::string(dtype_name(to))}})};
}

// Types of 2 and 4 bits keep the low bits, as wider integers do: of i8 the highest is the sign.
std::vector<Value*> cast_to(OnnxNodeReader& reader, DType to, int bits) {
  Value* y = to_type(reader, "cast", to)[0];
  if (bits == 0) return {y};
  const auto number = [&](int value) {
    return reader.constant_value(convert(Tensor::scalar(int32_t{value}), to));
  };
  y = reader.apply("bit_and", {y, number((1 << bits) - 1)});
  if (to == DType::i8) {
    Value* sign = number(1 << (bits - 1));
    y = reader.apply("sub", {reader.apply("bit_xor", {y, sign}), sign});
  }
  return {reader.narrow(y, bits)};
}

std::vector<Value*> import_cast(OnnxNodeReader& reader) {
  const int64_t to = reader.integer("to", 0);
  return cast_to(reader, reader.element_type(to), reader.element_bits(to));
}

std::vector<Value*> import_bit_cast(OnnxNodeReader& reader) {
  const int64_t to = reader.integer("to", 0);
  if (reader.element_bits(to) != 0 || reader.narrow_bits(0) != 0)
    reader.unsupported("bits of elements smaller than a byte are not supported");
  return to_type(reader, "bit_cast", reader.element_type(to));
}

constexpr OnnxImportRule cast_import[] = {{.op_type = "Cast", .import = import_cast},
                                          {.op_type = "CastLike", .import = [](OnnxNodeReader& r) {
                                             return cast_to(r, inputs_of(r, 2)[1]->dtype(),
                                                            r.narrow_bits(1));
                                           }}};
constexpr OnnxExportRule cast_export{[](const Node& node, OnnxNodeWriter& writer) {
  write_as(node, writer, "Cast", {{"to", onnx_types[static_cast<size_t>(node.output()->dtype())]}});
}};
constexpr OnnxImportRule bit_cast_import[] = {{.op_type = "BitCast", .import = import_bit_cast}};

}  // namespace

const OpImpl op_cast{
    .doc = "The elements as type `to`: floats to integers truncate and wrap, to bool: not 0.",
    .attributes = {{"to", AttributeKind::text, true}},
    .infer = infer,
    .reference = reference,
    .onnx_import = cast_import,
    .onnx_export = &cast_export};

const OpImpl op_round_to{
    .doc = "f32 elements rounded to what type `to` (f16, bf16) holds: cast to it and back.",
    .attributes = {{"to", AttributeKind::text, true}},
    .infer = infer_round,
    .reference = reference_round};

const OpImpl op_bit_cast{.doc = "The bits of the elements read as type `to` of the same size.",
                         .attributes = {{"to", AttributeKind::text, true}},
                         .infer = infer_bits,
                         .reference = reference_bits,
                         .onnx_import = bit_cast_import};

}  // namespace octavo::ops
