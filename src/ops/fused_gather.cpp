// fused_gather: rows of a table of integers, dequantized.
#include "ops/gather.h"
#include "ops/op.h"
#include "ops/packed.h"

namespace octavo::ops {
namespace {

std::vector<TensorType> infer(const Node& node) {
  const Shape table = unpacked_shape(node);
  const DType type = integer_type(node);
  require(node, table.rank() == 2 && table.is_static() && (type == DType::i8 || type == DType::u8),
          "the table must be i8, u8 or packed [R, C]");
  require_indices(node, 1);
  const int64_t group = node.integer("group_size"), columns = table[1].value();
  require(node, group >= 0, "group_size must not be negative");
  const Shape wanted(Dims{table[0].value(), group == 0 ? 1 : (columns + group - 1) / group});
  require(node, node.input(2)->type() == TensorType{DType::f32, wanted},
          "the scale must be f32 [R, groups]");
  if (const Value* zero = node.input(3))
    require(node, zero->type() == TensorType{type, wanted},
            "the zero point must have the scale's shape and the integers' type");
  Shape y = node.input(1)->shape();
  y.push_back(table[1]);
  return {{DType::f32, y}};
}

void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Shape table = unpacked_shape(node);
  const auto columns = static_cast<size_t>(table[1].value());
  const Tensor integers =
      is_packed(node) ? unpack_nibbles(*in[0], table.dims(), integer_type(node)) : *in[0];
  const auto q = integers.to_ints(), indices = in[1]->to_ints();
  const auto scales = in[2]->values<float>();
  const auto zeros =
      in.size() > 3 && in[3] ? in[3]->to_ints() : std::vector<int64_t>(scales.size());
  const auto groups = static_cast<size_t>(in[2]->dims()[1]);
  const auto group = static_cast<size_t>(node.integer("group_size"));
  auto y = out[0].mutable_values<float>();
  for (size_t i = 0; i < indices.size(); ++i) {
    const auto row = static_cast<size_t>(checked_index(node, indices[i], table[0].value()));
    for (size_t c = 0; c < columns; ++c) {
      const size_t at = row * groups + (group > 0 ? c / group : 0);
      y[i * columns + c] = static_cast<float>(q[row * columns + c] - zeros[at]) * scales[at];
    }
  }
}

}  // namespace

const OpImpl op_fused_gather{
    .doc =
        "Rows of the table [R, C] at indices of any shape, y = (q - zero_point) * scale; inputs "
        "table, indices, scale [R, groups], zero_point; one scale a row or per `group_size` of it; "
        "`packed` and `columns` as for dequantize.",
    .min_inputs = 3,
    .max_inputs = 4,
    .attributes = {{"group_size", AttributeKind::integer, false, int64_t{0}},
                   {"packed", AttributeKind::text, false, std::string()},
                   {"columns", AttributeKind::integer, false, int64_t{0}}},
    .infer = infer,
    .reference = reference};

}  // namespace octavo::ops
