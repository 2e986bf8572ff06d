// Attention as one op: fires, keeps the numbers, and where it must not fire.
#include <gtest/gtest.h>

#include "backends/reference/interpreter.h"
#include "codegen/compile.h"
#include "graph/text.h"
#include "graph/verify.h"
#include "passes/pass_test.h"
#include "passes/passes.h"
#include "passes/pipeline.h"
#include "support/cpu.h"

namespace octavo {
namespace {

Graph fused(const Graph& before) {
  Graph graph = before.clone();
  fuse_attention(graph);
  graph.remove_dead();
  verify(graph, Stage::lowered, "fuse_attention");
  return graph;
}

Graph lowered_form(const Graph& before) {
  Graph graph = before.clone();
  lower(graph);
  return graph;
}

constexpr const char* attention = R"(graph "g" canonical {
  input %x : f32[2, 6, 24]
  input %y : f32[2, 9, 24]
  input %mask : f32[2, 1, 1, 9]
  const %root : f32[] = 2.5
  %xh = reshape(%x) {shape = [2, 6, 3, 8]}
  %yh = reshape(%y) {shape = [2, 9, 3, 8]}
  %q = transpose(%xh) {perm = [0, 2, 1, 3]}
  %k = transpose(%yh) {perm = [0, 2, 3, 1]}
  %v = transpose(%yh) {perm = [0, 2, 1, 3]}
  %s = matmul(%q, %k)
  %d = div(%s, %root)
  %m = add(%d, %mask)
  %p = softmax(%m)
  %o = matmul(%p, %v)
  %t = transpose(%o) {perm = [0, 2, 1, 3]}
  %r = reshape(%t) {shape = [2, 6, 24]}
  return %r
})";

std::string with(std::string text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(FuseAttention, HeadsAreReadWhereTheyLie) {
  const Graph before = parse_graph(attention), low = lowered_form(before);
  EXPECT_EQ(ops(low), (Names{"reshape", "reshape", "fused_attention", "reshape"}));
  const auto x = noise(before, 1);
  // Both in float64, rounded to float32 once or after each op: sums of 8 products of about 1, then
  // means of values below 5.
  EXPECT_LT(largest_difference(interpret(before, x)[0], interpret(low, x)[0]), 1e-5);
}

TEST(FuseAttention, ScaleMayBeAProductAndTheMaskMissing) {
  std::string text = with(attention, "div(%s, %root)", "mul(%root, %s)");
  text = with(text, "%m = add(%d, %mask)\n", "");
  text = with(text, "softmax(%m)", "softmax(%d)");
  const Graph before = parse_graph(text), after = fused(before);
  const auto x = noise(before, 2);
  EXPECT_EQ(std::ranges::count(ops(after), "fused_attention"), 1);
  EXPECT_LT(largest_difference(interpret(before, x)[0], interpret(after, x)[0]), 1e-5);
}

TEST(FuseAttention, TheMaskMayComeFirstInTheSumAndHaveFewerAxes) {
  std::string text = with(attention, "input %mask : f32[2, 1, 1, 9]", "input %mask : f32[6, 9]");
  text = with(text, "add(%d, %mask)", "add(%mask, %d)");
  const Graph before = parse_graph(text), after = fused(before);
  const auto x = noise(before, 3);
  EXPECT_EQ(std::ranges::count(ops(after), "fused_attention"), 1);
  EXPECT_LT(largest_difference(interpret(before, x)[0], interpret(after, x)[0]), 1e-5);
}

TEST(FuseAttention, DoesNotFire) {
  const std::pair<const char*, const char*> changes[] = {
      {"return %r", "return %r, %p"},                        // the weights are wanted
      {"return %r", "return %r, %m"},                        // the scores are
      {"softmax(%m)", "softmax(%m) {axis = 2}"},             // over queries
      {"div(%s, %root)", "div(%root, %s)"},                  // not a scale
      {"const %root : f32[] = 2.5", "input %root : f32[]"},  // not known
      {"%m = add(%d, %mask)", "%m = mul(%d, %mask)"},        // not a mask
      {"mask : f32[2, 1, 1, 9]", "mask : f32[2, 1, 6, 1]"},  // one for all keys
      {"%d = div(%s, %root)", "%e = add(%s, %mask)\n  %d = div(%e, %root)"},  // two masks
  };
  for (const auto& [from, to] : changes) {
    const Graph before = parse_graph(with(attention, from, to));
    EXPECT_EQ(ops(fused(before)), ops(before)) << to;
  }
}

constexpr const char* quantized = R"(graph "g" quantized {
  input %x : f32[2, 3, 6, 8]
  input %y : f32[2, 3, 8, 9]
  input %z : f32[2, 3, 9, 5]
  const %a : f32[] = 0.03
  const %b : f32[] = 0.02
  const %c : f32[] = 0.01
  const %az : u8[] = 120
  const %bz : u8[] = 131
  const %cz : i8[] = -7
  const %scale : f32[] = 0.4
  %xq = quantize(%x, %a, %az)
  %yq = quantize(%y, %b, %bz)
  %zq = quantize(%z, %b, %cz)
  %q = dequantize(%xq, %a, %az)
  %k = dequantize(%yq, %b, %bz)
  %v = dequantize(%zq, %b, %cz)
  %s = matmul(%q, %k)
  %d = mul(%s, %scale)
  %p = softmax(%d)
  %o = matmul(%p, %v)
  %oq = quantize(%o, %c, %az)
  %od = dequantize(%oq, %c, %az)
  return %od
})";

TEST(FuseAttention, IntegersStayIntegers) {
  const Graph before = parse_graph(quantized), low = lowered_form(before);
  bool integer = false;
  low.for_each([&](Node& node) {
    if (node.is("fused_attention")) integer = node.output()->dtype() == DType::u8;
  });
  EXPECT_TRUE(integer);
  for (uint64_t seed = 1; seed < 6; ++seed) {
    const auto x = noise(before, seed);
    // Weights of 255ths of the largest: each is off by up to 1/510 of the largest weight, and so
    // is the mean of 9 values that reach 255 * 0.02 / 2, by at most 9 * 2 / 510 of that; a step of
    // y.
    EXPECT_LT(largest_difference(interpret(before, x)[0], interpret(low, x)[0]),
              9 * 2.0 / 510 * 2.6 + 0.0101);
  }
}

TEST(FuseAttention, WithoutAQuantizeTheOutputIsFloat) {
  const Graph before = parse_graph(with(quantized, "return %od", "return %o"));
  const Graph low = lowered_form(before);
  bool is_float = false;
  low.for_each([&](Node& node) {
    if (node.is("fused_attention")) is_float = node.output()->dtype() == DType::f32;
  });
  EXPECT_TRUE(is_float);
}

// The kernels beside the op's definition: bytes bit for bit.
TEST(FuseAttention, ProgramsEqualTheReference) {
  for (const char* text : {attention, quantized}) {
    const Graph before = parse_graph(text), low = lowered_form(before);
    const auto x = noise(before, 4);
    Program program = compile(before.clone(), {.threads = 2});
    std::vector<StepProfile> profile;
    const Tensor y = program.run_profiled(x, profile).at(0), want = interpret(low, x).at(0);
    if (text == quantized)
      EXPECT_TRUE(y == want);
    else
      EXPECT_LT(largest_difference(y, want), 1e-5);
    bool own_kernel = false;
    for (const StepProfile& step : profile)
      own_kernel = own_kernel || step.kernel.starts_with("attention");
    EXPECT_TRUE(own_kernel);
  }
}

}  // namespace
}  // namespace octavo
