#include "ops/packed.h"

#include "ops/op.h"

namespace octavo {

bool is_packed(const Node& dequantize) { return !dequantize.text("packed").empty(); }

DType integer_type(const Node& dequantize) {
  const std::string& packed = dequantize.text("packed");
  if (packed.empty()) return dequantize.input(0)->dtype();
  return packed == "i4" ? DType::i8 : DType::u8;
}

Shape unpacked_shape(const Node& node) {
  const std::string& packed = node.text("packed");
  const TensorType& q = node.input(0)->type();
  const int64_t columns = node.integer("columns");
  if (packed.empty()) {
    ops::require(node, columns == 0, "columns are only of packed integers");
    return q.shape;
  }
  ops::require(node, packed == "i4" || packed == "u4", "packed must be i4 or u4");
  ops::require(node, q.dtype == DType::u8 && q.shape.rank() > 0 && q.shape.back().is_static(),
               "packed integers are u8 with a known last axis");
  const int64_t bytes = q.shape.back().value();
  ops::require(node, bytes <= INT64_MAX / 2, "packed integers are too many");
  ops::require(node, columns == 0 || (columns > 0 && columns / 2 + columns % 2 == bytes),
               "columns do not fit the bytes");
  Shape shape = q.shape;
  shape.back() = Dim(columns == 0 ? 2 * bytes : columns);
  return shape;
}

Tensor pack_nibbles(const Tensor& integers, const std::string& where) {
  OCTAVO_CHECK(integers.rank() > 0 &&
               (integers.dtype() == DType::i8 || integers.dtype() == DType::u8));
  const int least = integers.dtype() == DType::i8 ? -8 : 0;
  Dims dims = integers.dims();
  const auto columns = static_cast<size_t>(dims.back()), bytes = (columns + 1) / 2;
  dims.back() = static_cast<int64_t>(bytes);
  Tensor packed(DType::u8, dims);
  auto to = packed.mutable_values<uint8_t>();
  const auto* from = reinterpret_cast<const uint8_t*>(integers.data());
  for (size_t at = 0; at < to.size(); ++at) {
    unsigned byte = 0;
    for (size_t half = 0; half < 2; ++half) {
      const size_t column = at % bytes * 2 + half;
      if (column == columns) break;
      const uint8_t bits = from[at / bytes * columns + column];
      const int value = least < 0 ? static_cast<int8_t>(bits) : bits;
      if (value < least || value > least + 15)
        throw UserError(ErrorKind::value, where, fmt::format("{} is no integer of 4 bits", value));
      byte |= (bits & 15u) << (4 * half);
    }
    to[at] = static_cast<uint8_t>(byte);
  }
  return packed;
}

Tensor unpack_nibbles(const Tensor& packed, const Dims& dims, DType type) {
  Tensor integers(type, dims);
  const auto columns = static_cast<size_t>(dims.back()), bytes = (columns + 1) / 2;
  const auto from = packed.values<uint8_t>();
  auto* to = reinterpret_cast<uint8_t*>(integers.mutable_data());
  const auto count = static_cast<size_t>(integers.size());
  OCTAVO_CHECK(count == 0 || from.size() == count / columns * bytes);
  for (size_t i = 0; i < count; ++i) {
    const uint8_t byte = from[i / columns * bytes + i % columns / 2];
    const auto bits = static_cast<uint8_t>(i % columns % 2 == 0 ? byte & 15 : byte >> 4);
    to[i] = type == DType::i8 && bits > 7 ? static_cast<uint8_t>(bits - 16) : bits;
  }
  return integers;
}

}  // namespace octavo
