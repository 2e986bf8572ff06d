// conv_transpose as a conv and depth_to_space.
#include <gtest/gtest.h>

#include <cfloat>
#include <random>

#include "backends/reference/interpreter.h"
#include "graph/op_def.h"
#include "graph/text.h"
#include "passes/passes.h"

namespace octavo {
namespace {

std::vector<std::string> ops(const Graph& graph) {
  std::vector<std::string> names;
  graph.for_each([&](Node& node) { names.emplace_back(node.op_name()); });
  return names;
}

Tensor noise(const Graph& graph) {
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  Tensor x(DType::f32, graph.inputs()[0]->shape().dims());
  for (float& v : x.mutable_values<float>()) v = normal(random);
  return x;
}

// Both sum in float64 and round once: the orders differ by less than an epsilon of the largest.
void expect_same_numbers(const Graph& before, const Graph& after) {
  const std::vector<Tensor> x{noise(before)};
  const auto want = interpret(before, x)[0].to_doubles(), got = interpret(after, x)[0].to_doubles();
  ASSERT_EQ(got.size(), want.size());
  double largest = 0;
  for (const double v : want) largest = std::max(largest, std::abs(v));
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], FLT_EPSILON * largest) << i;
}

TEST(LowerConvTranspose, EveryWindow) {
  for (const char* window : {"strides = [2, 2]", "strides = [3, 3], pads = [1, 2, 0, 1]",
                             "strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]",
                             "strides = [2, 2], dilations = [2, 3]", "pads = [2, 2, 2, 2]"})
    for (const int group : {1, 2}) {
      SCOPED_TRACE(fmt::format("{}, group {}", window, group));
      const Graph before = parse_graph(fmt::format(R"(graph "g" canonical {{
        input %x : f32[2, 4, 5, 6]
        const %w : f32[4, 3, 3, 4] = random(1, -1, 1)
        const %b : f32[{}] = random(2, -1, 1)
        %y = conv_transpose(%x, %w, %b) {{{}, group = {}}}
        return %y
      }})",
                                                   3 * group, window, group));
      Graph after = before.clone();
      lower_conv_transpose(after);
      after.remove_dead();
      EXPECT_EQ(ops(after)[0], "conv");
      expect_same_numbers(before, after);
    }
}

TEST(LowerConvTranspose, ClampAndQuantizeStayWithTheProduct) {
  const Graph before = parse_graph(R"(graph "g" quantized {
    input %x : f32[1, 4, 5, 6]
    const %s : f32[] = 0.02
    const %z : u8[] = 100
    const %w : i8[4, 3, 2, 2] = random(1, -127, 127)
    const %ws : f32[3] = [0.01, 0.02, 0.03]
    %q = quantize(%x, %s, %z)
    %d = dequantize(%q, %s, %z)
    %wd = dequantize(%w, %ws) {axis = 1}
    %c = conv_transpose(%d, %wd) {strides = [2, 2]}
    %r = relu(%c)
    %y = quantize(%r, %s, %z)
    return %y
  })");
  Graph after = before.clone();
  lower_conv_transpose(after);
  after.remove_dead();
  const std::vector<std::string> names = ops(after);
  EXPECT_EQ(names, (std::vector<std::string>{"quantize", "dequantize", "dequantize", "conv", "relu",
                                             "quantize", "depth_to_space", "slice"}));
  EXPECT_TRUE(interpret(before, std::vector{noise(before)})[0] ==
              interpret(after, std::vector{noise(before)})[0]);
}

TEST(LowerConvTranspose, LeavesWhatItCannotExpress) {
  for (const char* body :
       {"%y = conv_transpose(%x, %w) {strides = [2, 1]}", "%y = conv_transpose(%x, %x)",
        "%y = conv_transpose(%x, %w) {pads = [0, 0, 2, 2]}"}) {
    Graph graph = parse_graph(fmt::format(R"(graph "g" canonical {{
      input %x : f32[2, 2, 2, 2]
      const %w : f32[2, 3, 2, 2] = random(1, -1, 1)
      {}
      return %y
    }})",
                                          body));
    lower_conv_transpose(graph);
    EXPECT_EQ(ops(graph), std::vector<std::string>{"conv_transpose"}) << body;
  }
}

}  // namespace
}  // namespace octavo
