#include "quantize/placement/retarget.h"

#include <gtest/gtest.h>

#include <random>

#include "backends/reference/interpreter.h"
#include "graph/text.h"
#include "quantize/placement/lint.h"
#include "support/error.h"

namespace octavo {
namespace {

// One i8 activation that a convolution and an addition read; a convolution's i8 weights.
Graph shared_activation() {
  return parse_graph(R"(graph "g" quantized {
    input %x : f32[1, 4, 8, 8]
    const %w : f32[4, 4, 1, 1] = random(1, -1, 1)
    const %s : f32[] = 0.02
    const %t : f32[4] = [0.01, 0.02, 0.015, 0.01]
    const %z : i8[] = 0
    const %n : i8[] = -5
    const %zw : i8[4] = [0, 0, 0, 0]
    %qw = quantize(%w, %t, %zw) {axis = 0} : i8[4, 4, 1, 1]
    %dw = dequantize(%qw, %t, %zw) {axis = 0} : f32[4, 4, 1, 1]
    %q = quantize(%x, %s, %z) : i8[1, 4, 8, 8]
    %d = dequantize(%q, %s, %z) : f32[1, 4, 8, 8]
    %a = conv(%d, %dw)
    %qa = quantize(%a, %s, %n) : i8[1, 4, 8, 8]
    %da = dequantize(%qa, %s, %n) : f32[1, 4, 8, 8]
    %y = add(%da, %d)
    return %y
  })");
}

TEST(Retarget, MakesSharedI8ActivationsU8ForOnnxRuntimeWithTheSameValues) {
  const Graph before = shared_activation();
  Graph after = before.clone();
  EXPECT_EQ(lint(before, "onnxruntime").integer, std::vector<std::string>{});
  retarget(after, "onnxruntime");
  EXPECT_EQ(after.find_value("q")->dtype(), DType::u8);
  EXPECT_EQ(after.find_value("qa")->dtype(), DType::u8);
  EXPECT_EQ(after.find_value("qw")->dtype(), DType::i8);
  EXPECT_EQ(after.find_value("q")->producer()->input(2)->constant().values<uint8_t>()[0], 128);
  EXPECT_EQ(after.find_value("qa")->producer()->input(2)->constant().values<uint8_t>()[0], 123);
  EXPECT_EQ(lint(after, "onnxruntime").integer, std::vector<std::string>{"a"});
  Tensor x(DType::f32, {1, 4, 8, 8});
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0, 2);  // beyond both ends of the integers too
  for (float& value : x.mutable_values<float>()) value = normal(random);
  const std::vector inputs{x};
  const Tensor a = interpret(before, inputs)[0], b = interpret(after, inputs)[0];
  const auto one = a.values<float>(), other = b.values<float>();
  EXPECT_EQ(std::vector(one.begin(), one.end()), std::vector(other.begin(), other.end()));
}

TEST(Retarget, QuantizesBehindAReshapeThatOnnxRuntimeWouldStopAt) {
  const Graph before = parse_graph(R"(graph "g" quantized {
    input %x : f32[2, 4, 4]
    const %w : f32[16, 8] = random(1, -1, 1)
    const %s : f32[] = 0.0123
    const %z : u8[] = 77
    const %y : i8[] = 0
    %qw = quantize(%w, %s, %y) : i8[16, 8]
    %dw = dequantize(%qw, %s, %y) : f32[16, 8]
    %q = quantize(%x, %s, %z) : u8[2, 4, 4]
    %d = dequantize(%q, %s, %z) : f32[2, 4, 4]
    %t = transpose(%d) {perm = [0, 2, 1]}
    %r = reshape(%t) {shape = [2, 16]}
    %m = gemm(%r, %dw)
    return %m
  })");
  Graph after = before.clone();
  retarget(after, "onnxruntime");
  EXPECT_EQ(lint(before, "onnxruntime").integer, std::vector<std::string>{"t"});
  EXPECT_EQ(lint(after, "onnxruntime").integer, (std::vector<std::string>{"t", "r", "m"}));
  Tensor x(DType::f32, {2, 4, 4});
  std::mt19937 random(11);
  std::normal_distribution<float> normal(0, 2);
  for (float& value : x.mutable_values<float>()) value = normal(random);
  const std::vector inputs{x};
  const Tensor a = interpret(before, inputs)[0], b = interpret(after, inputs)[0];
  const auto one = a.values<float>(), other = b.values<float>();
  EXPECT_EQ(std::vector(one.begin(), one.end()), std::vector(other.begin(), other.end()));
}

TEST(Retarget, LeavesWhatIsReadAsIntegersAndOtherTargets) {
  for (const char* target : {"octavo", "openvino", "tensorrt"}) {
    Graph graph = shared_activation();
    retarget(graph, target);
    EXPECT_EQ(print_graph(graph), print_graph(shared_activation())) << target;
  }
  Graph graph = parse_graph(R"(graph "g" quantized {
    input %x : f32[4]
    const %s : f32[] = 0.02
    const %z : i8[] = 0
    %q = quantize(%x, %s, %z) : i8[4]
    %r = reshape(%q) {shape = [2, 2]} : i8[2, 2]
    %d = dequantize(%r, %s, %z) : f32[2, 2]
    return %d
  })");
  const std::string before = print_graph(graph);
  retarget(graph, "onnxruntime");
  EXPECT_EQ(print_graph(graph), before);
  EXPECT_THROW(retarget(graph, "nothing"), UserError);
}

TEST(Lint, ABiasBehindAnIntegerProductRunsInIt) {
  const Graph graph = parse_graph(R"(graph "g" quantized {
    input %x : f32[2, 3, 16]
    const %w : f32[16, 16] = random(1, -1, 1)
    const %b : f32[16] = random(2, -1, 1)
    const %s : f32[] = 0.02
    const %z : i8[] = 0
    %qw = quantize(%w, %s, %z) : i8[16, 16]
    %dw = dequantize(%qw, %s, %z) : f32[16, 16]
    %q = quantize(%x, %s, %z) : i8[2, 3, 16]
    %d = dequantize(%q, %s, %z) : f32[2, 3, 16]
    %m = matmul(%d, %dw)
    %y = add(%m, %b)
    return %y
  })");
  EXPECT_TRUE(lint(graph, "octavo").findings.empty());
}

TEST(Retarget, StoresTheFloatBiasOfAnUnquantizedGemmInStepsOfTheAccumulator) {
  const Graph before = parse_graph(R"(graph "g" quantized {
    input %x : f32[2, 3]
    const %w : i8[2, 3] = [1, -2, 3, 100, 50, 7]
    const %t : f32[2] = [0.5, 0.25]
    const %zw : i8[2] = [0, 0]
    const %s : f32[] = 0.125
    const %z : u8[] = 77
    const %b : f32[2] = [1.03, -0.5]
    %dw = dequantize(%w, %t, %zw) {axis = 0} : f32[2, 3]
    %q = quantize(%x, %s, %z) : u8[2, 3]
    %d = dequantize(%q, %s, %z) : f32[2, 3]
    %m = gemm(%d, %dw, %b) {trans_b = 1}
    return %m
  })");
  const auto findings = lint(before, "onnxruntime").findings;
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].reason, "its bias is float, and its output not quantized");
  Graph after = before.clone();
  retarget(after, "onnxruntime");
  EXPECT_EQ(lint(after, "onnxruntime").integer, std::vector<std::string>{"m"});
  const Node* bias = after.find_value("m")->producer()->input(2)->producer();
  const auto integers = bias->input(0)->constant().values<int32_t>();
  const auto steps = bias->input(1)->constant().values<float>();
  // 1.03 / 0.0625 = 16.48
  EXPECT_EQ(std::vector(integers.begin(), integers.end()), (std::vector<int32_t>{16, -16}));
  EXPECT_EQ(std::vector(steps.begin(), steps.end()), (std::vector<float>{0.0625F, 0.03125F}));
  Graph other = before.clone();
  retarget(other, "openvino");
  EXPECT_EQ(other.find_value("m")->producer()->input(2)->name(), "b");
}

}  // namespace
}  // namespace octavo
