// Functions of two elements, comparisons, logic, bits and where, with broadcasting.
#include <functional>

#include "ops/evaluate.h"

namespace octavo {
namespace {

using namespace octavo::testing;

TEST(Binary, FloatsWithBroadcasting) {
  struct Case {
    const char* op;
    std::function<double(double, double)> formula;
    Attributes attributes = {};
  };
  const Case cases[] = {
      {"add", [](double a, double b) { return a + b; }},
      {"sub", [](double a, double b) { return a - b; }},
      {"mul", [](double a, double b) { return a * b; }},
      {"div", [](double a, double b) { return a / b; }},
      {"pow", [](double a, double b) { return std::pow(a, b); }},
      {"maximum", [](double a, double b) { return std::max(a, b); }},
      {"minimum", [](double a, double b) { return std::min(a, b); }},
      {"mod", [](double a, double b) { return a - b * std::floor(a / b); }},
      {"mod", [](double a, double b) { return a - b * std::trunc(a / b); }, {{"fmod", int64_t{1}}}},
      {"prelu", [](double a, double b) { return a < 0 ? a * b : a; }},
  };
  for (const Case& c : cases)
    for (const DType dtype : {DType::f32, DType::f64, DType::f16}) {
      SCOPED_TRACE(fmt::format("{} {}", c.op, dtype_name(dtype)));
      const bool positive = std::string_view(c.op) == "pow";
      const Tensor a = convert(uniform({2, 3, 4}, 5, positive ? 0.1 : -4, 4), dtype);
      const Tensor b = convert(uniform({3, 1}, 6, 0.5, 2), dtype);
      const auto x = a.to_doubles(), y = b.to_doubles();
      std::vector<double> wanted;
      for (size_t i = 0; i < x.size(); ++i) wanted.push_back(c.formula(x[i], y[i / 4 % 3]));
      expect_rounded(evaluate_one(c.op, {a, b}, c.attributes), wanted, 0x1p-46);
    }
}

TEST(Binary, IntegersAreExactAndWrapAround) {
  const Tensor a = tensor<int8_t>({4}, {127, -128, -7, 7}), b = tensor<int8_t>({4}, {1, -1, 2, -2});
  EXPECT_EQ(evaluate_one("add", {a, b}).to_ints(), (Ints{-128, 127, -5, 5}));
  EXPECT_EQ(evaluate_one("sub", {a, b}).to_ints(), (Ints{126, -127, -9, 9}));
  EXPECT_EQ(evaluate_one("mul", {a, b}).to_ints(), (Ints{127, -128, -14, -14}));
  EXPECT_EQ(evaluate_one("div", {a, b}).to_ints(), (Ints{127, -128, -3, -3}));
  EXPECT_EQ(evaluate_one("mod", {a, b}).to_ints(), (Ints{0, 0, 1, -1}));
  EXPECT_EQ(evaluate_one("mod", {a, b}, {{"fmod", int64_t{1}}}).to_ints(), (Ints{0, 0, -1, 1}));
  EXPECT_EQ(evaluate_one("maximum", {a, b}).to_ints(), (Ints{127, -1, 2, 7}));
  EXPECT_EQ(evaluate_one("minimum", {a, b}).to_ints(), (Ints{1, -128, -7, -2}));
  const Tensor zero = tensor<int8_t>({}, {0});
  EXPECT_EQ(evaluate_one("div", {a, zero}).to_ints(), (Ints{0, 0, 0, 0}));
  EXPECT_EQ(evaluate_one("mod", {a, zero}).to_ints(), (Ints{0, 0, 0, 0}));
  const Tensor least = tensor<int64_t>({1}, {INT64_MIN}), minus = tensor<int64_t>({1}, {-1});
  EXPECT_EQ(evaluate_one("div", {least, minus}).to_ints(), Ints{INT64_MIN});
  // 3^39 is beyond 2^53: no double holds it.
  EXPECT_EQ(evaluate_one("pow", {tensor<int64_t>({1}, {3}), tensor<int64_t>({1}, {39})}).to_ints(),
            Ints{4052555153018976267});
  EXPECT_EQ(
      evaluate_one("pow", {tensor<int32_t>({3}, {2, -1, 5}), tensor<int32_t>({}, {-3})}).to_ints(),
      (Ints{0, -1, 0}));
}

TEST(Binary, PowTakesAnotherTypeOfExponent) {
  const Tensor y = evaluate_one("pow", {tensor<float>({2}, {1.5f, 2}), tensor<int64_t>({}, {3})});
  EXPECT_EQ(y.dtype(), DType::f32);
  EXPECT_EQ(y.to_doubles(), (Floats{3.375, 8}));
}

TEST(Binary, NaNWinsInMaximumAndMinimum) {
  const Tensor a = tensor<float>({2}, {NAN, 1}), b = tensor<float>({2}, {1, NAN});
  for (const char* op : {"maximum", "minimum"})
    for (const double v : evaluate_one(op, {a, b}).to_doubles()) EXPECT_TRUE(std::isnan(v)) << op;
}

TEST(Binary, Errors) {
  const Tensor f = tensor<float>({2}, {1, 2}), i = tensor<int32_t>({2}, {1, 2});
  EXPECT_NE(error_of([&] {
              evaluate("add", {f, i});
            }).find("differ in element type"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              evaluate("add", {f, tensor<float>({3}, {1, 2, 3})});
            }).find("do not broadcast"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              evaluate("prelu", {f, tensor<float>({2, 1}, {1, 2})});
            }).find("more axes than x"),
            std::string::npos);
}

TEST(Logic, Comparisons) {
  const Tensor a = tensor<float>({4}, {1, 2, 3, NAN}), b = tensor<float>({}, {2});
  EXPECT_EQ(evaluate_one("equal", {a, b}), bools({4}, {0, 1, 0, 0}));
  EXPECT_EQ(evaluate_one("less", {a, b}), bools({4}, {1, 0, 0, 0}));
  EXPECT_EQ(evaluate_one("less_equal", {a, b}), bools({4}, {1, 1, 0, 0}));
  EXPECT_EQ(evaluate_one("greater", {a, b}), bools({4}, {0, 0, 1, 0}));
  EXPECT_EQ(evaluate_one("greater_equal", {a, b}), bools({4}, {0, 1, 1, 0}));
  // What doubles cannot tell apart.
  const Tensor big = tensor<int64_t>({2}, {(int64_t{1} << 53) + 1, int64_t{1} << 53});
  EXPECT_EQ(evaluate_one("greater", {big, tensor<int64_t>({}, {int64_t{1} << 53})}),
            bools({2}, {1, 0}));
}

TEST(Logic, TruthTablesAndBits) {
  const Tensor a = bools({4}, {0, 0, 1, 1}), b = bools({4}, {0, 1, 0, 1});
  EXPECT_EQ(evaluate_one("logical_and", {a, b}), bools({4}, {0, 0, 0, 1}));
  EXPECT_EQ(evaluate_one("logical_or", {a, b}), bools({4}, {0, 1, 1, 1}));
  EXPECT_EQ(evaluate_one("logical_xor", {a, b}), bools({4}, {0, 1, 1, 0}));
  EXPECT_EQ(evaluate_one("logical_not", {a}), bools({4}, {1, 1, 0, 0}));
  const Tensor x = tensor<uint8_t>({2}, {0b1100, 0xff}), y = tensor<uint8_t>({2}, {0b1010, 1});
  EXPECT_EQ(evaluate_one("bit_and", {x, y}).to_ints(), (Ints{0b1000, 1}));
  EXPECT_EQ(evaluate_one("bit_or", {x, y}).to_ints(), (Ints{0b1110, 0xff}));
  EXPECT_EQ(evaluate_one("bit_xor", {x, y}).to_ints(), (Ints{0b0110, 0xfe}));
  EXPECT_EQ(evaluate_one("bit_not", {x}).to_ints(), (Ints{0xf3, 0}));
  const Attributes left{{"direction", std::string("left")}},
      right{{"direction", std::string("right")}};
  const Tensor n = tensor<uint8_t>({2}, {2, 9});
  EXPECT_EQ(evaluate_one("bit_shift", {x, n}, left).to_ints(), (Ints{0b110000, 0}));
  EXPECT_EQ(evaluate_one("bit_shift", {x, n}, right).to_ints(), (Ints{0b11, 0}));
  EXPECT_NE(error_of([&] {
              evaluate("logical_and", {x, y});
            }).find("must be bool"),
            std::string::npos);
}

TEST(Logic, Where) {
  const Tensor y = evaluate_one(
      "where", {bools({2, 1}, {1, 0}), tensor<int16_t>({3}, {1, 2, 3}), tensor<int16_t>({}, {9})});
  EXPECT_EQ(y, tensor<int16_t>({2, 3}, {1, 2, 3, 9, 9, 9}));
}

}  // namespace
}  // namespace octavo
