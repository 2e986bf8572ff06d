// Recurrences, sums over indices, sampling and suppression: small cases by hand or by a loop.
#include "ops/evaluate.h"

namespace octavo {
namespace {

using namespace octavo::testing;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// One unit, one feature: every weight is a number.
TEST(Recurrent, OneUnitByHand) {
  const Tensor x = tensor<float>({2, 1, 1}, {0.5f, -1});
  const auto weights = [](std::vector<float> v) {
    const auto n = static_cast<int64_t>(v.size());
    return tensor<float>({1, n, 1}, v);
  };
  const Attributes one{{"hidden", int64_t{1}}};
  const double h1 = std::tanh(2 * 0.5), h2 = std::tanh(2 * -1 + 3 * h1);
  const auto rnn = evaluate("rnn", {x, weights({2}), weights({3})}, one);
  expect_rounded(rnn[0], {h1, h2});
  expect_rounded(rnn[1], {h2});

  double h = 0, c = 0;
  for (const double v : {0.5, -1.0}) {  // gates i, o, f, c
    const double i = sigmoid(1 * v + 0.1 * h), o = sigmoid(2 * v + 0.2 * h),
                 f = sigmoid(3 * v + 0.3 * h), g = std::tanh(4 * v + 0.4 * h);
    c = f * c + i * g;
    h = o * std::tanh(c);
  }
  const auto lstm =
      evaluate("lstm", {x, weights({1, 2, 3, 4}), weights({0.1f, 0.2f, 0.3f, 0.4f})}, one);
  expect_rounded(lstm[1], {h}, 1e-7);  // 0.1f and so on are not the decimal numbers
  expect_rounded(lstm[2], {c}, 1e-7);

  for (const bool before : {false, true}) {
    double s = 0;
    for (const double v : {0.5, -1.0}) {  // gates z, r, h
      const double z = sigmoid(1 * v + 0.5 * s), r = sigmoid(2 * v + 0.25 * s),
                   g = std::tanh(3 * v + r * 2 * s);
      s = (1 - z) * g + z * s;
    }
    Attributes a = one;
    a["linear_before_reset"] = int64_t{before};  // the same without a bias
    const auto gru = evaluate("gru", {x, weights({1, 2, 3}), weights({0.5f, 0.25f, 2})}, a);
    expect_rounded(gru[1], {s}, 1e-12);
  }
}

TEST(Recurrent, DirectionsAndLengths) {
  const Tensor x = tensor<float>({3, 2, 1}, {1, 10, 2, 20, 3, 30}),
               one = tensor<float>({1, 1, 1}, {1}), both = tensor<float>({2, 1, 1}, {1, 1}),
               lengths = tensor<int32_t>({2}, {3, 1});
  const Attributes sum{{"hidden", int64_t{1}},
                       {"functions", std::string("Affine")},
                       {"alphas", Floats{1}},
                       {"betas", Floats{0}}};
  const auto forward = evaluate("rnn", {x, one, one, Tensor(), lengths}, sum);
  EXPECT_EQ(forward[0].to_doubles(), (Floats{1, 10, 3, 0, 6, 0}));
  EXPECT_EQ(forward[1].to_doubles(), (Floats{6, 10}));
  Attributes two = sum;
  two["direction"] = std::string("bidirectional");
  two["functions"] = std::string("Affine,Affine");
  EXPECT_EQ(evaluate("rnn", {x, both, both},
                     {{"hidden", int64_t{1}}, {"direction", std::string("bidirectional")}})[1]
                .dims(),
            (Dims{2, 2, 1}));
  const auto bidirectional = evaluate("rnn", {x, both, both}, two);
  EXPECT_EQ(bidirectional[0].to_doubles(), (Floats{1, 10, 6, 60, 3, 30, 5, 50, 6, 60, 3, 30}));
  EXPECT_NE(error_of([&] {
              evaluate("rnn", {x, one, one},
                       {{"hidden", int64_t{1}}, {"functions", std::string("Cube")}});
            }).find("'Cube' is no function"),
            std::string::npos);
}

TEST(Einsum, Equations) {
  const Tensor a = tensor<int64_t>({2, 3}, {1, 2, 3, 4, 5, 6}),
               b = tensor<int64_t>({3}, {1, 10, 100});
  const auto sum = [](const char* equation, const std::vector<Tensor>& in) {
    return evaluate_one("einsum", in, {{"equation", std::string(equation)}}).to_ints();
  };
  EXPECT_EQ(sum("ij,j->i", {a, b}), (Ints{321, 654}));
  EXPECT_EQ(sum("ij->ji", {a}), (Ints{1, 4, 2, 5, 3, 6}));
  EXPECT_EQ(sum("ij->", {a}), Ints{21});
  EXPECT_EQ(sum("ij,kj", {a, a}), (Ints{14, 32, 32, 77}));
  EXPECT_EQ(sum("...j,j->...", {a, b}), (Ints{321, 654}));
  EXPECT_EQ(sum("ii->i", {tensor<int64_t>({2, 2}, {1, 2, 3, 4})}), (Ints{1, 4}));
  EXPECT_NE(error_of([&] { sum("ij->k", {a}); }).find("no input has"), std::string::npos);
  EXPECT_NE(error_of([&] { sum("ij,ij->ij", {a}); }).find("not as many"), std::string::npos);
}

TEST(Sampling, Grid) {
  const Tensor x = tensor<float>({1, 1, 2, 2}, {1, 2, 3, 4});
  const Tensor grid = tensor<float>({1, 1, 3, 2}, {-1, -1, 0, 0, 1, -1});  // x before y
  const auto at = [&](const char* mode, const char* padding, int64_t align) {
    return evaluate_one("grid_sample", {x, grid},
                        {{"mode", std::string(mode)},
                         {"padding", std::string(padding)},
                         {"align_corners", align}})
        .to_doubles();
  };
  EXPECT_EQ(at("linear", "zeros", 1), (Floats{1, 2.5, 2}));
  // Without corners -1 is the edge of the first pixel: a quarter of it is inside.
  EXPECT_EQ(at("linear", "zeros", 0), (Floats{0.25, 2.5, 0.5}));
  EXPECT_EQ(at("linear", "border", 0), (Floats{1, 2.5, 2}));
  EXPECT_EQ(at("nearest", "reflection", 1)[2], 2);
}

TEST(Sampling, RegionsOfInterest) {
  const Tensor x = tensor<float>({1, 1, 2, 2}, {0, 1, 2, 3}),
               roi = tensor<float>({1, 4}, {0, 0, 2, 2}), image = tensor<int64_t>({1}, {0});
  EXPECT_EQ(evaluate_one("roi_align", {x, roi, image}).to_doubles(), Floats{1.5});
  EXPECT_NE(error_of([&] {
              evaluate("roi_align", {x, roi, tensor<int64_t>({1}, {1})});
            }).find("image index"),
            std::string::npos);
}

TEST(Suppression, KeepsTheBestOfWhatOverlaps) {
  const Tensor boxes = tensor<float>({1, 3, 4}, {0, 0, 1, 1, 0, 0.1f, 1, 1.1f, 0, 10, 1, 11}),
               scores = tensor<float>({1, 1, 3}, {0.7f, 0.9f, 0.5f}),
               most = tensor<int64_t>({}, {3}), half = tensor<float>({}, {0.5f});
  EXPECT_EQ(evaluate_one("non_max_suppression", {boxes, scores, most, half}).to_ints(),
            (Ints{0, 0, 1, 0, 0, 2}));
  EXPECT_EQ(
      evaluate_one("non_max_suppression", {boxes, scores, most, half, tensor<float>({}, {0.6f})})
          .to_ints(),
      (Ints{0, 0, 1}));
  EXPECT_EQ(evaluate_one("non_max_suppression", {boxes, scores}).dims(), (Dims{0, 3}));
}

}  // namespace
}  // namespace octavo
