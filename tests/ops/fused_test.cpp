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

// Rows of mean 0 and variance 1, 4 and 0 before epsilon: the roots are of known numbers.
TEST(Fused, LayerNormOfKnownRows) {
  const Tensor x = tensor<float>({3, 4}, {-1, 1, -1, 1, 7, 3, 3, 7, 2, 2, 2, 2});
  const Tensor scale = tensor<float>({4}, {1, 2, -0.5f, 4}),
               bias = tensor<float>({4}, {0, 1, 2, 3});
  const double one = 1 / std::sqrt(1.25), two = 2 / std::sqrt(4.25);
  Floats wanted{-one, 1 + 2 * one, 2 + 0.5 * one, 3 + 4 * one};
  for (double v : {two, 1 - 2 * two, 2 + 0.5 * two, 3 + 4 * two, 0.0, 1.0, 2.0, 3.0})
    wanted.push_back(v);
  expect_rounded(evaluate_one("fused_layer_norm", {x, scale, bias}, {{"epsilon", 0.25}}), wanted);

  Attributes bytes{
      {"epsilon", 0.25},   {"multiplier", 8.0},          {"clamp_lo", -5.0},
      {"clamp_hi", 100.0}, {"y_zero_point", int64_t{9}}, {"output", std::string("u8")}};
  Floats steps;
  for (double v : wanted) steps.push_back(std::nearbyint(std::clamp(8 * v, -5.0, 100.0)) + 9);
  EXPECT_EQ(evaluate("fused_layer_norm", {x, scale, bias}, bytes).size(), 1u);
  EXPECT_EQ(evaluate_one("fused_layer_norm", {x, scale, bias}, bytes).to_doubles(), steps);
  bytes["keep_float"] = int64_t{1};
  const auto both = evaluate("fused_layer_norm", {x, scale, bias}, bytes);
  ASSERT_EQ(both.size(), 2u);
  EXPECT_EQ(both[0].to_doubles(), steps);
  expect_rounded(both[1], wanted);
  // Without a bias.
  for (size_t i = 0; i < wanted.size(); ++i) wanted[i] -= static_cast<double>(i % 4);
  expect_rounded(evaluate_one("fused_layer_norm", {x, scale}, {{"epsilon", 0.25}}), wanted, 1e-15);
}

TEST(Fused, LayerNormRefusesWhatDoesNotFit) {
  const Tensor x = uniform({3, 4}, 1), four = uniform({4}, 2), three = uniform({3}, 3);
  for (const auto& inputs : {std::vector{x, three}, std::vector{x, four, three}})
    EXPECT_NE(error_of([&] {
                evaluate("fused_layer_norm", inputs);
              }).find("one f32 per element of the last axis"),
              std::string::npos);
}

}  // namespace
}  // namespace octavo
