// Dynamic products in fuse_compute: which forms become one kernel, with the same numbers, bit for
// bit, and which must not.
#include <gmock/gmock.h>

#include "backends/reference/interpreter.h"
#include "codegen/compile.h"
#include "passes/pass_test.h"
#include "passes/passes.h"

namespace octavo {
namespace {

using ::testing::Contains;
using ::testing::Not;

std::string matmul(const std::string& tail, const std::string& granularity = "tensor",
                   const std::string& weights = "const %w : i8[5, 7] = random(1, -127, 127)") {
  return R"(graph "g" quantized {
    input %x : f32[2, 3, 5]
    input %r : f32[2, 3, 7]
    )" + weights +
         R"(
    const %s : f32[7] = random(2, 0.001, 0.02)
    const %b : f32[7] = random(3, -1, 1)
    %q, %xs, %z = dynamic_quantize(%x) {granularity = ")" +
         granularity + R"("}
    %i = matmul_integer(%q, %w, %z)
    %f = cast(%i) {to = "f32"}
    )" + tail +
         R"(
    return %y
  })";
}

// Lowered and run on each instruction set, and interpreted node by node.
void expect_one_kernel(const std::string& text, const Names& want) {
  const Graph graph = parse_graph(text);
  const Graph fused = after(graph, fuse_compute, Stage::lowered);
  Names names = ops(fused);
  std::erase(names, "reshape");
  std::erase(names, "transpose");
  EXPECT_EQ(names, want) << print_graph(fused);
  const auto inputs = noise(graph, 5);
  const Tensor wanted = interpret(graph, inputs)[0];
  const Tensor got = compile(graph.clone(), {}).run(inputs)[0];
  EXPECT_EQ(largest_difference(wanted, got), 0);
}

TEST(FuseDynamic, MatrixProductsWithWhatFollows) {
  const Names one{"dynamic_quantize", "fused_gemm"};
  expect_one_kernel(matmul("%t = mul(%xs, %s) %y = mul(%f, %t)"), one);
  expect_one_kernel(matmul("%t = mul(%s, %xs) %y = mul(%t, %f)"), one);
  expect_one_kernel(matmul("%t = mul(%xs, %s) %m = mul(%f, %t) %y = add(%m, %b)"), one);
  expect_one_kernel(
      matmul("%t = mul(%xs, %s) %m = mul(%f, %t) %a = add(%b, %m) %c = add(%a, %r) %y = relu(%c)"),
      one);
  expect_one_kernel(
      matmul("%t = mul(%xs, %s) %m = mul(%f, %t) %y = leaky_relu(%m) {alpha = 0.125}"), one);
}

TEST(FuseDynamic, AScaleForEachRow) {
  expect_one_kernel(
      matmul("%t = mul(%xs, %s) %m = mul(%f, %t) %a = add(%m, %b) %y = add(%a, %r)", "row"),
      {"dynamic_quantize", "fused_gemm"});
}

TEST(FuseDynamic, Convolutions) {
  expect_one_kernel(R"(graph "g" quantized {
    input %x : f32[2, 4, 6, 5]
    const %w : i8[6, 4, 3, 3] = random(1, -127, 127)
    const %s : f32[1, 6, 1, 1] = random(2, 0.001, 0.02)
    const %b : f32[6, 1, 1] = random(3, -1, 1)
    %q, %xs, %z = dynamic_quantize(%x)
    %i = conv_integer(%q, %w, %z) {pads = [1, 1, 1, 1], strides = [2, 1]}
    %f = cast(%i) {to = "f32"}
    %t = mul(%xs, %s)
    %m = mul(%f, %t)
    %a = add(%m, %b)
    %y = relu(%a)
    return %y
  })",
                    {"dynamic_quantize", "fused_conv"});
}

// [groups, channels in, channels out]: two groups, one input channel a group, one of each.
TEST(FuseDynamic, ConvolutionsOfSeveralGroups) {
  const auto text = [](int64_t group, int64_t in, int64_t out, std::string_view tail) {
    return fmt::format(R"(graph "g" quantized {{
    input %x : f32[2, {1}, 7, 6]
    input %r : f32[2, {2}, 4, 6]
    const %w : i8[{2}, {3}, 3, 3] = random(1, -127, 127)
    const %s : f32[1, {2}, 1, 1] = random(2, 0.001, 0.02)
    const %b : f32[{2}, 1, 1] = random(3, -1, 1)
    %q, %xs, %z = dynamic_quantize(%x)
    %i = conv_integer(%q, %w, %z) {{group = {0}, pads = [1, 1, 1, 1], strides = [2, 1]}}
    %f = cast(%i) {{to = "f32"}}
    %t = mul(%xs, %s)
    %m = mul(%f, %t)
    {4}
    return %y
  }})",
                       group, in, out, in / group, tail);
  };
  const Names one{"dynamic_quantize", "fused_conv"};
  for (const std::string_view tail :
       {"%y = relu(%m)", "%a = add(%m, %b) %c = add(%a, %r) %y = relu(%c)",
        "%a = add(%m, %b) %y = leaky_relu(%a) {alpha = 0.125}"}) {
    expect_one_kernel(text(2, 6, 8, tail), one);
    expect_one_kernel(text(5, 5, 10, tail), one);
    expect_one_kernel(text(70, 70, 70, tail), one);
  }
  // Depthwise has a kernel of its own.
  const auto plan = compile(parse_graph(text(70, 70, 70, "%a = add(%m, %b) %y = relu(%a)")), {})
                        .plan({{2, 70, 7, 6}, {2, 70, 4, 6}});
  bool found = false;
  for (const Step& step : plan->steps)
    found = found || std::string_view(step.kernel->name()).starts_with("depthwise_int8");
  EXPECT_TRUE(found);
}

TEST(FuseDynamic, LeavesWhatIsRoundedOtherwise) {
  const auto fused = [](const std::string& text) {
    const Graph graph = parse_graph(text);
    const auto inputs = noise(graph, 5);
    EXPECT_EQ(
        largest_difference(interpret(graph, inputs)[0], compile(graph.clone(), {}).run(inputs)[0]),
        0);
    return ops(after(graph, fuse_compute, Stage::lowered));
  };
  // (float)i * x_scale first, then the weights' scale.
  EXPECT_THAT(fused(matmul("%m = mul(%f, %xs) %y = mul(%m, %s)")), Not(Contains("fused_gemm")));
  // Weights around a zero point that i8 cannot hold.
  EXPECT_THAT(fused(matmul("%t = mul(%xs, %s) %y = mul(%f, %t)", "tensor",
                           "const %w : u8[5, 7] = random(1, 0, 255)")),
              Not(Contains("fused_gemm")));
}

}  // namespace
}  // namespace octavo
