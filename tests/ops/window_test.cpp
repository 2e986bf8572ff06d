// Convolution, pooling and sampling against plain float64 loops over every position.
#include "ops/evaluate.h"

namespace octavo {
namespace {

using namespace octavo::testing;

// An image [1, c, h, w] that is 0 outside.
struct Image {
  std::vector<double> v;
  int64_t h, w;
  double at(int64_t c, int64_t y, int64_t x) const {
    return y < 0 || y >= h || x < 0 || x >= w ? 0 : v[static_cast<size_t>((c * h + y) * w + x)];
  }
  bool has(int64_t y, int64_t x) const { return y >= 0 && y < h && x >= 0 && x < w; }
};

Image image(const Tensor& t) { return {t.to_doubles(), t.dims()[2], t.dims()[3]}; }

TEST(Window, Convolution) {
  for (const DType dtype : {DType::f32, DType::f64, DType::f16, DType::i32}) {
    SCOPED_TRACE(dtype_name(dtype));
    const Tensor x = convert(uniform({1, 4, 6, 5}, 1, -9, 9), dtype),
                 w = convert(uniform({6, 2, 3, 2}, 2, -9, 9), dtype),
                 b = convert(uniform({6}, 3, -9, 9), dtype);
    const Image in = image(x);
    const auto k = w.to_doubles(), bias = b.to_doubles();
    std::vector<double> wanted;
    for (int64_t o = 0; o < 6; ++o)
      for (int64_t y = 0; y < 3; ++y)
        for (int64_t q = 0; q < 4; ++q) {
          double sum = bias[static_cast<size_t>(o)];
          for (int64_t c = 0; c < 2; ++c)
            for (int64_t i = 0; i < 3; ++i)
              for (int64_t j = 0; j < 2; ++j)
                sum += in.at(o / 3 * 2 + c, y * 2 + i - 1, q + j * 2 - 1) *
                       k[static_cast<size_t>(((o * 2 + c) * 3 + i) * 2 + j)];
          wanted.push_back(sum);
        }
    const Tensor y = evaluate_one("conv", {x, w, b},
                                  {{"strides", Ints{2, 1}},
                                   {"dilations", Ints{1, 2}},
                                   {"pads", Ints{1, 1, 1, 0}},
                                   {"group", int64_t{2}}});
    ASSERT_EQ(y.dims(), (Dims{1, 6, 3, 4}));
    expect_rounded(y, wanted, 0x1p-40);  // the order of at most 13 terms of up to 81 differs
  }
}

TEST(Window, ConvolutionOfOneAndThreeDimensions) {
  const Tensor x = tensor<float>({1, 1, 4}, {1, 2, 3, 4}), w = tensor<float>({1, 1, 2}, {1, 10});
  EXPECT_EQ(evaluate_one("conv", {x, w}).to_doubles(), (Floats{21, 32, 43}));
  const Tensor cube = uniform({1, 1, 3, 3, 3}, 4),
               ones = tensor<float>({1, 1, 3, 3, 3}, std::vector<float>(27, 1));
  double sum = 0;
  for (const double v : cube.to_doubles()) sum += v;
  expect_rounded(evaluate_one("conv", {cube, ones}), {sum}, 0x1p-44);
}

// The transposed convolution is the adjoint: <conv(x), y> = <x, conv_transpose(y)>.
TEST(Window, TransposedConvolutionIsTheAdjoint) {
  const Attributes attributes{{"strides", Ints{2, 3}},
                              {"dilations", Ints{2, 1}},
                              {"pads", Ints{1, 0, 2, 1}},
                              {"group", int64_t{2}}};
  const Tensor x = convert(uniform({2, 4, 9, 8}, 5), DType::f64),
               w = convert(uniform({6, 2, 3, 2}, 6), DType::f64);
  const Tensor forward = evaluate_one("conv", {x, w}, attributes);
  const Tensor y = convert(uniform(forward.dims(), 7), DType::f64);
  Attributes with_padding = attributes;
  // 9 = 2 (4 - 1) + 2 * 2 + 1 - 3 + 1: one row of x that no window reaches.
  const Dims reached = evaluate_one("conv_transpose", {y, w}, attributes).dims();
  with_padding["output_padding"] = Ints{9 - reached[2], 8 - reached[3]};
  const Tensor back = evaluate_one("conv_transpose", {y, w}, with_padding);
  ASSERT_EQ(back.dims(), x.dims());
  double left = 0, right = 0;
  for (size_t i = 0; i < y.to_doubles().size(); ++i)
    left += forward.to_doubles()[i] * y.to_doubles()[i];
  for (size_t i = 0; i < x.to_doubles().size(); ++i)
    right += x.to_doubles()[i] * back.to_doubles()[i];
  EXPECT_NEAR(left, right, 1e-10 * std::abs(left));
}

TEST(Window, TransposedConvolutionByHand) {
  const Tensor x = tensor<float>({1, 1, 2}, {1, 2}), w = tensor<float>({1, 1, 3}, {1, 10, 100}),
               b = tensor<float>({1}, {1000});
  EXPECT_EQ(evaluate_one("conv_transpose", {x, w, b}, {{"strides", Ints{2}}}).to_doubles(),
            (Floats{1001, 1010, 1102, 1020, 1200}));
  EXPECT_NE(error_of([&] {
              evaluate("conv_transpose", {x, w}, {{"output_padding", Ints{1, 1}}});
            }).find("output_padding"),
            std::string::npos);
}

// Without offsets it is a convolution; whole offsets shift the image.
TEST(Window, DeformableConvolution) {
  const Tensor x = uniform({1, 4, 6, 5}, 11), w = uniform({2, 2, 3, 3}, 12), b = uniform({2}, 13);
  const Attributes a{{"pads", Ints{1, 1, 1, 1}}, {"group", int64_t{2}}};
  Attributes two = a;
  two["offset_group"] = int64_t{2};
  Tensor offsets(DType::f32, {1, 36, 6, 5});
  for (float& v : offsets.mutable_values<float>()) v = 0;
  expect_rounded(
      evaluate_one("deform_conv", {x, w, offsets, b}, two),
      evaluate_one("conv", {convert(x, DType::f64), convert(w, DType::f64), convert(b, DType::f64)},
                   a)
          .to_doubles(),
      0x1p-44);
  for (size_t i = 0; i < 36 * 30; ++i)  // every second channel of offsets is horizontal
    offsets.mutable_values<float>()[i] = i / 30 % 2 == 1 ? 1.0f : 0.0f;
  const Tensor y = evaluate_one("deform_conv", {x, w, offsets, b}, two);
  const Tensor shifted =
      evaluate_one("conv", {x, w, b}, {{"pads", Ints{1, 0, 1, 2}}, {"group", int64_t{2}}});
  expect_rounded(y, convert(shifted, DType::f64).to_doubles(), 0x1p-20);
  Tensor mask(DType::f32, {1, 18, 6, 5});
  for (float& v : mask.mutable_values<float>()) v = 0;
  for (const double v :
       evaluate_one("deform_conv", {x, w, offsets, Tensor(), mask}, two).to_doubles())
    EXPECT_EQ(v, 0);
}

// The transposed convolution is col2im of the transposed weights times its input.
TEST(Window, ColumnsToImage) {
  const Tensor x = convert(uniform({1, 3, 4, 3}, 14), DType::f64),
               w = convert(uniform({3, 2, 3, 2}, 15), DType::f64);
  const Attributes window{
      {"strides", Ints{2, 1}}, {"pads", Ints{1, 0, 0, 1}}, {"dilations", Ints{1, 2}}};
  const Tensor image = evaluate_one("conv_transpose", {x, w}, window);
  const Tensor wt = evaluate_one("transpose", {w.reshaped({3, 12})}, {{"perm", Ints{1, 0}}});
  const Tensor columns = evaluate_one("matmul", {wt, x.reshaped({1, 3, 12})});
  Attributes a = window;
  a["image"] = Ints{image.dims()[2], image.dims()[3]};
  a["block"] = Ints{3, 2};
  expect_rounded(evaluate_one("col2im", {columns}, a), image.to_doubles(), 1e-12);
}

TEST(Window, Pooling) {
  const Tensor x = uniform({1, 2, 5, 5}, 8);
  const Image in = image(x);
  std::vector<double> most, mean, counted, norm;
  Ints where;
  for (int64_t c = 0; c < 2; ++c)
    for (int64_t y = 0; y < 3; ++y)
      for (int64_t q = 0; q < 3; ++q) {
        double best = -INFINITY, sum = 0, inside = 0, square = 0;
        int64_t at = -1;
        for (int64_t i = y * 2 - 1; i < y * 2 + 2; ++i)
          for (int64_t j = q * 2 - 1; j < q * 2 + 2; ++j) {
            if (!in.has(i, j)) continue;
            const double v = in.at(c, i, j);
            if (v > best) best = v, at = (c * 5 + i) * 5 + j;
            sum += v, square += v * v, ++inside;
          }
        most.push_back(best), mean.push_back(sum / inside), counted.push_back(sum / 9);
        norm.push_back(std::sqrt(square)), where.push_back(at);
      }
  const Attributes window{
      {"kernel", Ints{3, 3}}, {"strides", Ints{2, 2}}, {"pads", Ints{1, 1, 1, 1}}};
  expect_rounded(evaluate_one("max_pool", {x}, window), most);
  EXPECT_EQ(evaluate_one("max_pool_indices", {x}, window).to_ints(), where);
  expect_rounded(evaluate_one("avg_pool", {x}, window), mean, 0x1p-46);
  expect_rounded(evaluate_one("lp_pool", {x}, window), norm, 0x1p-46);
  Attributes padded = window;
  padded["count_include_pad"] = int64_t{1};
  expect_rounded(evaluate_one("avg_pool", {x}, padded), counted, 0x1p-46);
  Attributes columns = window;
  columns["column_major"] = int64_t{1};
  for (int64_t& at : where) at = at / 25 * 25 + at % 5 * 5 + at / 5 % 5;
  EXPECT_EQ(evaluate_one("max_pool_indices", {x}, columns).to_ints(), where);
}

TEST(Resize, NearestLinearCubic) {
  const Tensor x = tensor<float>({4}, {0, 10, 20, 30});
  const auto resize = [&](Attributes a) { return evaluate_one("resize", {x}, std::move(a)); };
  const auto text = [](const char* s) { return std::string(s); };
  EXPECT_EQ(resize({{"sizes", Ints{8}}}).to_doubles(), (Floats{0, 0, 10, 10, 20, 20, 30, 30}));
  EXPECT_EQ(resize({{"scales", Floats{0.5}}, {"coordinates", text("asymmetric")}}).to_doubles(),
            (Floats{0, 20}));
  EXPECT_EQ(
      resize({{"sizes", Ints{7}}, {"mode", text("linear")}, {"coordinates", text("align_corners")}})
          .to_doubles(),
      (Floats{0, 5, 10, 15, 20, 25, 30}));
  // Halves of pixels: -0.25 clamps to the first.
  EXPECT_EQ(resize({{"sizes", Ints{8}}, {"mode", text("linear")}}).to_doubles(),
            (Floats{0, 2.5, 7.5, 12.5, 17.5, 22.5, 27.5, 30}));
  // Keys' kernel reproduces straight lines away from the border for a = -0.5.
  EXPECT_NEAR(
      resize({{"sizes", Ints{8}}, {"mode", text("cubic")}, {"cubic_a", -0.5}}).to_doubles()[3],
      12.5, 1e-5);
  // The mean of four, for a filter as wide as the shrinking.
  expect_rounded(
      resize({{"scales", Floats{0.25}}, {"mode", text("linear")}, {"antialias", int64_t{1}}}), {15},
      1e-5);
  const Tensor by_input = evaluate_one("resize", {x, Tensor(), tensor<float>({1}, {2}), Tensor()},
                                       {{"mode", text("nearest")}});
  EXPECT_EQ(by_input.dims(), Dims{8});
  EXPECT_NE(error_of([&] {
              resize({{"scales", Floats{-1}}});
            }).find("not positive"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              resize({{"mode", text("area")}});
            }).find("must be one of"),
            std::string::npos);
}

TEST(Resize, AspectRatioPolicies) {
  const Tensor x(DType::f32, {4, 6});
  const auto dims = [&](const char* policy) {
    return evaluate_one("resize", {x}, {{"sizes", Ints{8, 9}}, {"policy", std::string(policy)}})
        .dims();
  };
  EXPECT_EQ(dims("stretch"), (Dims{8, 9}));
  EXPECT_EQ(dims("not_larger"), (Dims{6, 9}));
  EXPECT_EQ(dims("not_smaller"), (Dims{8, 12}));
}

TEST(Products, GemmAndMatmul) {
  const Tensor a = uniform({2, 3, 4}, 1), b = uniform({4, 5}, 2);
  const auto x = a.to_doubles(), y = b.to_doubles();
  std::vector<double> product;
  for (size_t i = 0; i < 6; ++i)
    for (size_t j = 0; j < 5; ++j) {
      double sum = 0;
      for (size_t k = 0; k < 4; ++k) sum += x[i * 4 + k] * y[k * 5 + j];
      product.push_back(sum);
    }
  expect_rounded(evaluate_one("matmul", {a, b}), product, 0x1p-46);
  const Tensor c = uniform({5}, 3), bt = evaluate_one("transpose", {b}, {{"perm", Ints{1, 0}}});
  for (size_t i = 0; i < product.size(); ++i)
    product[i] = 0.5 * product[i] + 2 * c.to_doubles()[i % 5];
  expect_rounded(evaluate_one("gemm", {a.reshaped({6, 4}), bt, c},
                              {{"trans_b", int64_t{1}}, {"alpha", 0.5}, {"beta", 2.0}}),
                 product, 0x1p-46);
}

TEST(Products, IntegersAreExact) {
  const int64_t big = (int64_t{1} << 31) + 1;  // its square is beyond 2^53
  EXPECT_EQ(evaluate_one("matmul",
                         {tensor<int64_t>({1, 2}, {big, 1}), tensor<int64_t>({2, 1}, {big, -1})})
                .to_ints(),
            Ints{big * big - 1});
}

TEST(Quantization, HalvesGoToEvenAndEndsSaturate) {
  const Tensor x = tensor<float>({6}, {0.5f, 1.5f, -0.5f, 1e9f, -1e9f, NAN});
  const Tensor one = tensor<float>({}, {1}), zero = tensor<uint8_t>({}, {10});
  const Tensor q = evaluate_one("quantize", {x, one, zero});
  EXPECT_EQ(q.to_ints(), (Ints{10, 12, 10, 255, 0, 10}));
  EXPECT_EQ(evaluate_one("dequantize", {q, one, zero}).to_doubles(),
            (Floats{0, 2, 0, 245, -10, 0}));
  EXPECT_EQ(
      evaluate_one("fake_quantize", {x, one, zero}, {{"least", int64_t{0}}, {"most", int64_t{15}}})
          .to_doubles(),
      (Floats{0, 2, 0, 5, -10, 0}));
  // A scale per group of two along axis 1, in half precision.
  const Tensor scales = convert(tensor<float>({1, 2}, {0.5f, 2}), DType::f16);
  const Tensor h = convert(tensor<float>({1, 4}, {1, 2, 4, 6}), DType::f16);
  const Tensor groups = evaluate_one("quantize", {h, scales}, {{"group_size", int64_t{2}}});
  EXPECT_EQ(groups.to_ints(), (Ints{2, 4, 2, 3}));
  const Tensor back = evaluate_one("dequantize", {groups, scales}, {{"group_size", int64_t{2}}});
  EXPECT_EQ(back.dtype(), DType::f16);
  EXPECT_EQ(back.to_doubles(), h.to_doubles());
}

}  // namespace
}  // namespace octavo
