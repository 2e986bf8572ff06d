// Graph in, graph out: where Q/DQ stand, what they hold.
#include "quantize/apply.h"

#include <gtest/gtest.h>

#include "backends/reference/interpreter.h"
#include "graph/text.h"
#include "graph/verify.h"

namespace octavo {
namespace {

TEST(Apply, PutsQuantizationRoundOneProduct) {
  Graph graph = parse_graph(R"(graph "g" canonical {
    input %x : f32[1, 2]
    const %w : f32[2, 2] = [1, 2, 3, 4]
    const %b : f32[2] = [0.5, -0.5]
    %y = gemm(%x, %w, %b) {trans_b = 1}
    return %y
  })");
  const Placement placement = place_octavo(graph, {});
  const Graph result =
      apply_quantization(graph, placement, {{"x", {0.5f, 3, DType::u8}}},
                         {{"y",
                           {{0.25f, 0.125f},
                            Tensor::from(Dims{2, 2}, std::vector<int8_t>{1, 2, 3, 4}),
                            Tensor::from(Dims{2}, std::vector<float>{0.5f, -0.5f})}}});
  verify(result);
  EXPECT_EQ(result.stage, Stage::quantized);
  const Graph want = parse_graph(R"(graph "g" quantized {
    input %x : f32[1, 2]
    const %"x/scale" : f32[] = [0.5]
    const %"x/zero_point" : u8[] = [3]
    const %"w/quantized" : i8[2, 2] = [1, 2, 3, 4]
    const %"w/scale" : f32[2] = [0.25, 0.125]
    const %"w/zero_point" : i8[2] = [0, 0]
    const %"b/quantized" : i32[2] = [4, -8]
    const %"b/scale" : f32[2] = [0.125, 0.0625]
    const %"b/zero_point" : i32[2] = [0, 0]
    %"x/quantized" = quantize(%x, %"x/scale", %"x/zero_point")
    %"x/dequantized" = dequantize(%"x/quantized", %"x/scale", %"x/zero_point")
    %"w/dequantized" = dequantize(%"w/quantized", %"w/scale", %"w/zero_point") {axis = 0}
    %"b/dequantized" = dequantize(%"b/quantized", %"b/scale", %"b/zero_point") {axis = 0}
    %y = gemm(%"x/dequantized", %"w/dequantized", %"b/dequantized") {trans_b = 1}
    return %y
  })");
  EXPECT_EQ(print_graph(result), print_graph(want));
}

TEST(Apply, GivesAMatmulItsBiasByAnAddition) {
  const auto quantized = [](const char* text) {
    Graph graph = parse_graph(text);
    const Placement placement = place_octavo(graph, {});
    return apply_quantization(graph, placement, {{"x", {0.5f, 0, DType::u8}}},
                              {{"m",
                                {{1, 1},
                                 Tensor::from(Dims{2, 2}, std::vector<int8_t>{1, 0, 0, 1}),
                                 Tensor::from(Dims{2}, std::vector<float>{10, 20})}}});
  };
  const Graph alone = quantized(R"(graph "g" canonical {
    input %x : f32[1, 2]
    const %w : f32[2, 2] = [1, 0, 0, 1]
    %m = matmul(%x, %w)
    return %m
  })");
  const Graph with_bias = quantized(R"(graph "g" canonical {
    input %x : f32[1, 2]
    const %w : f32[2, 2] = [1, 0, 0, 1]
    const %b : f32[2] = [100, 200]
    %m = matmul(%x, %w)
    %y = add(%b, %m)
    return %y
  })");
  verify(alone);
  verify(with_bias);
  EXPECT_EQ(with_bias.node_count(), alone.node_count());  // the addition that was there takes it
  const std::vector<Tensor> x{Tensor::from(Dims{1, 2}, std::vector<float>{1.5f, 3})};
  EXPECT_EQ(interpret(alone, x)[0].to_doubles(), (std::vector<double>{11.5, 23}));
  EXPECT_EQ(interpret(with_bias, x)[0].to_doubles(), (std::vector<double>{111.5, 223}));
}

TEST(Apply, ReadersThatStayInFloatKeepTheFloatValue) {
  const Graph graph = parse_graph(R"(graph "g" canonical {
    input %x : f32[1, 2]
    const %w : f32[2, 2] = [1, 0, 0, 1]
    %m = matmul(%x, %w)
    %y = add(%m, %x)
    return %y
  })");
  const Graph result = apply_quantization(
      graph, place_octavo(graph, {}), {{"x", {0.5f, 0, DType::u8}}},
      {{"m", {{1, 1}, Tensor::from(Dims{2, 2}, std::vector<int8_t>{1, 0, 0, 1}), {}}}});
  verify(result);
  const std::vector<Tensor> x{Tensor::from(Dims{1, 2}, std::vector<float>{1.625f, 3})};
  // The product sees 1.5; the residual 1.625.
  EXPECT_EQ(interpret(result, x)[0].to_doubles(), (std::vector<double>{3.125, 6}));
}

}  // namespace
}  // namespace octavo
