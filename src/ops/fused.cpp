#include "ops/fused.h"

#include <limits>

#include "ops/op.h"

namespace octavo::ops {

std::vector<AttributeSpec> epilogue_attributes() {
  constexpr double inf = std::numeric_limits<double>::infinity();
  return {{"clamp_lo", AttributeKind::real, false, -inf},
          {"clamp_hi", AttributeKind::real, false, inf},
          {"y_zero_point", AttributeKind::integer, false, int64_t{0}},
          {"output", AttributeKind::text, false, std::string("f32")}};
}

Epilogue epilogue_of(const Node& node) {
  const Epilogue e{
      static_cast<float>(node.real("clamp_lo")), static_cast<float>(node.real("clamp_hi")),
      static_cast<int32_t>(node.integer("y_zero_point")), parse_dtype(node.text("output"))};
  require(node, e.output == DType::f32 || e.output == DType::u8 || e.output == DType::i8,
          "the output must be f32, u8 or i8");
  return e;
}

float centred(const Tensor& tensor, size_t i, int32_t zero_point) {
  switch (tensor.dtype()) {
    case DType::u8:
      return static_cast<float>(tensor.values<uint8_t>()[i] - zero_point);
    case DType::i8:
      return static_cast<float>(tensor.values<int8_t>()[i] - zero_point);
    default:
      return tensor.values<float>()[i];
  }
}

void store(const Epilogue& e, float f, Tensor& out, size_t i) {
  // max and min in this order with the constant second: NaN goes to lo, as the vector kernels do.
  f = f > e.lo ? f : e.lo;
  f = f < e.hi ? f : e.hi;
  if (e.output == DType::f32) {
    out.mutable_values<float>()[i] = f;
    return;
  }
  const float low = e.output == DType::u8 ? 0.0f : -128.0f, high = low + 255.0f;
  float r = std::nearbyint(f) + static_cast<float>(e.zero_point);
  r = r > low ? r : low;
  r = r < high ? r : high;
  if (e.output == DType::u8)
    out.mutable_values<uint8_t>()[i] = static_cast<uint8_t>(r);
  else
    out.mutable_values<int8_t>()[i] = static_cast<int8_t>(r);
}

}  // namespace octavo::ops
