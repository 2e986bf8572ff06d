// The integer ops of the lowered stage against the arithmetic of ops/fused.h, written out.
#include "ops/evaluate.h"

namespace octavo {
namespace {

using namespace octavo::testing;

double epilogue(float f, double zero_point) {
  f = std::min(std::max(f, -100.0f), 100.0f);
  return std::clamp(std::nearbyint(static_cast<double>(f)) + zero_point, 0.0, 255.0);
}

TEST(Fused, SumsAndProductsOfIntegers) {
  Tensor a(DType::u8, {256}), b(DType::u8, {256});
  for (size_t i = 0; i < 256; ++i) {
    a.mutable_values<uint8_t>()[i] = static_cast<uint8_t>(i);
    b.mutable_values<uint8_t>()[i] = static_cast<uint8_t>(i * 37 + 11);
  }
  Attributes common{{"a_zero_point", int64_t{100}}, {"b_zero_point", int64_t{7}},
                    {"clamp_lo", -100.0},           {"clamp_hi", 100.0},
                    {"y_zero_point", int64_t{90}},  {"output", std::string("u8")}};
  Attributes product = common, sum = common;
  product["multiplier"] = 0.0078125;
  sum["a_multiplier"] = 0.5;
  sum["b_multiplier"] = 0.25;
  Floats products, sums;
  for (size_t i = 0; i < 256; ++i) {
    const float x = static_cast<float>(a.to_ints()[i] - 100),
                y = static_cast<float>(b.to_ints()[i] - 7);
    products.push_back(epilogue(x * y * 0.0078125f, 90));
    sums.push_back(epilogue(x * 0.5f + y * 0.25f, 90));
  }
  EXPECT_EQ(evaluate_one("quantized_mul", {a, b}, product).to_doubles(), products);
  EXPECT_EQ(evaluate_one("quantized_add", {a, b}, sum).to_doubles(), sums);
}

}  // namespace
}  // namespace octavo
