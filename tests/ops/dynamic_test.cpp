// dynamic_quantize, matmul_integer and conv_integer by their plain definitions.
#include <gmock/gmock.h>

#include "ops/evaluate.h"

namespace octavo::testing {
namespace {

using ::testing::ElementsAre;

template <class T>
std::vector<T> list(const Tensor& t) {
  const auto values = t.values<T>();
  return {values.begin(), values.end()};
}

TEST(DynamicQuantize, TheExampleOfOnnx) {
  const auto y = evaluate("dynamic_quantize", {tensor<float>({6}, {0, 2, -3, -2.5f, 1.34f, 0.5f})});
  EXPECT_THAT(list<uint8_t>(y[0]), ElementsAre(153, 255, 0, 26, 221, 179));
  EXPECT_EQ(y[1].values<float>()[0], 5.0f / 255);
  EXPECT_EQ(y[2].values<uint8_t>()[0], 153);
  EXPECT_EQ(y[1].dims(), Dims{});
}

TEST(DynamicQuantize, RowsHaveScalesOfTheirOwn) {
  const auto y = evaluate("dynamic_quantize", {tensor<float>({1, 3, 2}, {1.5f, 2, -5.1f, 0, 0, 0})},
                          {{"granularity", std::string("row")}});
  EXPECT_EQ(y[1].dims(), (Dims{1, 3, 1}));
  EXPECT_THAT(list<float>(y[1]), ElementsAre(2.0f / 255, 5.1f / 255, 1.0f));
  EXPECT_THAT(list<uint8_t>(y[2]), ElementsAre(0, 255, 0));
  EXPECT_THAT(list<uint8_t>(y[0]), ElementsAre(191, 255, 0, 255, 0, 0));
}

TEST(DynamicQuantize, OtherTypesAndGranularitiesAreRefused) {
  EXPECT_NE(error_of([] { evaluate("dynamic_quantize", {tensor<double>({1}, {0})}); }).find("f32"),
            std::string::npos);
  EXPECT_NE(error_of([] {
              evaluate("dynamic_quantize", {tensor<float>({1}, {0})},
                       {{"granularity", std::string("axis")}});
            }).find("tensor or row"),
            std::string::npos);
}

TEST(MatmulInteger, ZeroPointsBroadcast) {
  const Tensor a = tensor<uint8_t>({2, 3}, {11, 7, 3, 10, 6, 2});
  const Tensor b = tensor<uint8_t>({3, 2}, {1, 4, 2, 5, 3, 6});
  const Tensor az = tensor<uint8_t>({}, {12}), bz = tensor<uint8_t>({}, {0});
  // The example of ONNX's MatMulInteger.
  EXPECT_THAT(list<int32_t>(evaluate_one("matmul_integer", {a, b, az, bz})),
              ElementsAre(-38, -83, -44, -98));
  // A zero point for each row and each column: (a - [12, 0]) (b - [1, 2]).
  EXPECT_THAT(list<int32_t>(evaluate_one("matmul_integer", {a, b, tensor<uint8_t>({2, 1}, {12, 0}),
                                                            tensor<uint8_t>({2}, {1, 2})})),
              ElementsAre(-1 * 0 + -5 * 1 + -9 * 2, -1 * 2 + -5 * 3 + -9 * 4, 6 * 1 + 2 * 2,
                          10 * 2 + 6 * 3 + 2 * 4));
  EXPECT_NE(error_of([&] {
              evaluate("matmul_integer", {a, b, tensor<int8_t>({}, {0})});
            }).find("its input's type"),
            std::string::npos);
}

TEST(ConvInteger, PadsCountAsTheZeroPoint) {
  // The example of ONNX's ConvInteger with padding.
  const Tensor x = tensor<uint8_t>({1, 1, 3, 3}, {2, 3, 4, 5, 6, 7, 8, 9, 10});
  const Tensor w = tensor<uint8_t>({1, 1, 2, 2}, {1, 1, 1, 1});
  const Tensor zero = tensor<uint8_t>({}, {1});
  const auto y = evaluate_one("conv_integer", {x, w, zero}, {{"pads", Ints{1, 1, 1, 1}}});
  EXPECT_THAT(list<int32_t>(y),
              ElementsAre(1, 3, 5, 3, 5, 12, 16, 9, 11, 24, 28, 15, 7, 15, 17, 9));
}

}  // namespace
}  // namespace octavo::testing
