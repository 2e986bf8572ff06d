// Functions of one element against std:: in float64, for each float type; integers exactly.
#include <functional>
#include <numbers>

#include "ops/evaluate.h"

namespace octavo {
namespace {

using namespace octavo::testing;
using Function = std::function<double(double)>;

struct Case {
  const char* op;
  Function formula;
  Attributes attributes = {};
  double low = -3, high = 3;
};

double softplus(double x) { return std::log1p(std::exp(-std::abs(x))) + std::max(x, 0.0); }

const std::vector<Case>& cases() {
  static const std::vector<Case> list{
      {"relu", [](double x) { return std::max(x, 0.0); }},
      {"neg", [](double x) { return -x; }},
      {"abs", [](double x) { return std::abs(x); }},
      {"sign", [](double x) { return x > 0   ? 1.0
                                     : x < 0 ? -1.0
                                             : 0.0; }},
      {"sigmoid", [](double x) { return 1 / (1 + std::exp(-x)); }},
      {"tanh", [](double x) { return std::tanh(x); }},
      {"erf", [](double x) { return std::erf(x); }},
      {"exp", [](double x) { return std::exp(x); }},
      {"log", [](double x) { return std::log(x); }, {}, 0.01, 9},
      {"sqrt", [](double x) { return std::sqrt(x); }, {}, 0, 9},
      {"reciprocal", [](double x) { return 1 / x; }, {}, 0.1, 9},
      {"floor", [](double x) { return std::floor(x); }},
      {"ceil", [](double x) { return std::ceil(x); }},
      {"round", [](double x) { return x - std::remainder(x, 1.0); }},
      {"softplus", softplus},
      {"softsign", [](double x) { return x / (1 + std::abs(x)); }},
      {"mish", [](double x) { return x * std::tanh(softplus(x)); }},
      {"hard_swish", [](double x) { return x * std::clamp(x / 6 + 0.5, 0.0, 1.0); }},
      {"silu", [](double x) { return x / (1 + std::exp(-x)); }},
      {"sin", [](double x) { return std::sin(x); }},
      {"cos", [](double x) { return std::cos(x); }},
      {"tan", [](double x) { return std::tan(x); }, {}, -1, 1},
      {"asin", [](double x) { return std::asin(x); }, {}, -1, 1},
      {"acos", [](double x) { return std::acos(x); }, {}, -1, 1},
      {"atan", [](double x) { return std::atan(x); }},
      {"sinh", [](double x) { return std::sinh(x); }},
      {"cosh", [](double x) { return std::cosh(x); }},
      {"asinh", [](double x) { return std::asinh(x); }},
      {"acosh", [](double x) { return std::acosh(x); }, {}, 1, 9},
      {"atanh", [](double x) { return std::atanh(x); }, {}, -0.9, 0.9},
      {"leaky_relu", [](double x) { return x < 0 ? 0.2 * x : x; }, {{"alpha", 0.2}}},
      {"elu", [](double x) { return x < 0 ? 0.7 * std::expm1(x) : x; }, {{"alpha", 0.7}}},
      {"celu", [](double x) { return x < 0 ? 2 * std::expm1(x / 2) : x; }, {{"alpha", 2.0}}},
      {"selu",
       [](double x) { return 1.5 * (x > 0 ? x : 0.5 * std::expm1(x)); },
       {{"alpha", 0.5}, {"gamma", 1.5}}},
      {"thresholded_relu", [](double x) { return x > 0.5 ? x : 0; }, {{"alpha", 0.5}}},
      {"hard_sigmoid",
       [](double x) { return std::clamp(0.3 * x + 0.4, 0.0, 1.0); },
       {{"alpha", 0.3}, {"beta", 0.4}}},
      {"shrink",
       [](double x) { return x < -1  ? x + 0.25
                             : x > 1 ? x - 0.25
                                     : 0; },
       {{"bias", 0.25}, {"lambd", 1.0}}},
      {"swish", [](double x) { return x / (1 + std::exp(-1.7 * x)); }, {{"alpha", 1.7}}},
      {"gelu", [](double x) { return x / 2 * (1 + std::erf(x / std::numbers::sqrt2)); }},
      {"gelu",
       [](double x) {
         return x / 2 *
                (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
       },
       {{"approximate", std::string("tanh")}}},
      {"clip", [](double x) { return std::clamp(x, -0.5, 1.25); }, {{"min", -0.5}, {"max", 1.25}}},
  };
  return list;
}

TEST(Unary, EqualsTheFormulaInEveryFloatType) {
  for (const Case& c : cases())
    for (const DType dtype : {DType::f32, DType::f64, DType::f16, DType::bf16}) {
      SCOPED_TRACE(fmt::format("{} {}", c.op, dtype_name(dtype)));
      const Tensor x = convert(uniform({3, 50}, 17, c.low, c.high), dtype);
      std::vector<double> wanted;
      for (const double v : x.to_doubles()) wanted.push_back(c.formula(v));
      const Tensor y = evaluate_one(c.op, {x}, c.attributes);
      EXPECT_EQ(y.dtype(), dtype);
      // Formulas in other forms differ by roundings of terms of up to 10.
      expect_rounded(y, wanted, 0x1p-48);
    }
}

TEST(Unary, NaNStaysAndInfinityGoesThrough) {
  for (const char* op : {"relu", "neg", "abs", "sign", "clip", "tanh", "floor"})
    EXPECT_TRUE(std::isnan(evaluate_one(op, {tensor<float>({1}, {NAN})}).to_doubles()[0])) << op;
  EXPECT_EQ(evaluate_one("sigmoid", {tensor<float>({2}, {-INFINITY, INFINITY})}).to_doubles(),
            (Floats{0, 1}));
}

TEST(Unary, Integers) {
  const Tensor x = tensor<int8_t>({5}, {-128, -3, 0, 3, 127});
  EXPECT_EQ(evaluate_one("relu", {x}).to_ints(), (Ints{0, 0, 0, 3, 127}));
  EXPECT_EQ(evaluate_one("neg", {x}).to_ints(), (Ints{-128, 3, 0, -3, -127}));  // wraps around
  EXPECT_EQ(evaluate_one("abs", {x}).to_ints(), (Ints{-128, 3, 0, 3, 127}));
  EXPECT_EQ(evaluate_one("sign", {x}).to_ints(), (Ints{-1, -1, 0, 1, 1}));
  EXPECT_EQ(evaluate_one("clip", {x}, {{"min", -2.5}, {"max", 100.0}}).to_ints(),
            (Ints{-2, -2, 0, 3, 100}));
  EXPECT_EQ(evaluate_one("clip", {x}, {{"min", -1e9}}).to_ints(), x.to_ints());
  const Tensor u = tensor<uint64_t>({2}, {UINT64_MAX, 0});
  EXPECT_EQ(evaluate_one("sign", {u}).to_ints(), (Ints{1, 0}));
  EXPECT_EQ(evaluate_one("abs", {u}), u);
}

TEST(Unary, Predicates) {
  const Tensor x = tensor<float>({4}, {NAN, INFINITY, -INFINITY, 1});
  EXPECT_EQ(evaluate_one("is_nan", {x}), bools({4}, {1, 0, 0, 0}));
  EXPECT_EQ(evaluate_one("is_inf", {x}), bools({4}, {0, 1, 1, 0}));
  EXPECT_EQ(evaluate_one("is_inf", {x}, {{"negative", int64_t{0}}}), bools({4}, {0, 1, 0, 0}));
  EXPECT_EQ(evaluate_one("is_inf", {x}, {{"positive", int64_t{0}}}), bools({4}, {0, 0, 1, 0}));
}

TEST(Cast, BetweenAllTypes) {
  const Tensor x = tensor<float>({5}, {-1.7f, -0.5f, 0, 1.5f, 300});
  const auto to = [&](const char* type) {
    return evaluate_one("cast", {x}, {{"to", std::string(type)}});
  };
  EXPECT_EQ(to("i32").to_ints(), (Ints{-1, 0, 0, 1, 300}));  // towards zero
  EXPECT_EQ(to("u8").to_ints(), (Ints{255, 0, 0, 1, 44}));   // modulo 256
  EXPECT_EQ(to("bool"), bools({5}, {1, 1, 0, 1, 1}));
  EXPECT_EQ(to("f64").to_doubles(), x.to_doubles());
  // 1 + 2^-11 is halfway between two halves; a little more, which float32 drops, rounds up.
  const Tensor precise = tensor<double>({2}, {1 + 0x1p-11, 1 + 0x1p-11 + 0x1p-40});
  EXPECT_EQ(evaluate_one("cast", {precise}, {{"to", std::string("f16")}}).to_doubles(),
            (Floats{1, 1 + 0x1p-10}));
  EXPECT_EQ(
      evaluate_one("bit_cast", {tensor<float>({1}, {1})}, {{"to", std::string("i32")}}).to_ints(),
      Ints{0x3f800000});
  EXPECT_NE(error_of([&] {
              evaluate("bit_cast", {x}, {{"to", std::string("i64")}});
            }).find("same size"),
            std::string::npos);
}

}  // namespace
}  // namespace octavo
