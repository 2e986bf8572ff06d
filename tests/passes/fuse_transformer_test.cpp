// fuse_gelu and fuse_layer_norm: fire, keep the numbers, and where they must not fire.
#include <gtest/gtest.h>

#include "backends/reference/interpreter.h"
#include "codegen/compile.h"
#include "passes/pass_test.h"
#include "passes/passes.h"

namespace octavo {
namespace {

std::string gelu(const std::string& body) {
  return R"(graph "g" canonical {
    input %x : f32[2, 3, 40]
    const %root : f32[] = 1.4142135
    const %inverse : f32[] = 0.70710678
    const %one : f32[] = 1.0
    const %two : f32[] = 2.0
    const %half : f32[1] = [0.5]
    )" + body +
         R"(
    return %y
  })";
}

TEST(FuseGelu, EveryOrderOfItsProducts) {
  for (const char* body : {
           "%d = div(%x, %root) %e = erf(%d) %a = add(%e, %one) %m = mul(%x, %a) %y = mul(%m, "
           "%half)",
           "%d = mul(%x, %inverse) %e = erf(%d) %a = add(%one, %e) %h = mul(%half, %x) %y = "
           "mul(%h, %a)",
           "%d = mul(%inverse, %x) %e = erf(%d) %a = add(%e, %one) %h = mul(%a, %half) %y = "
           "mul(%h, %x)",
           "%d = div(%x, %root) %e = erf(%d) %a = add(%e, %one) %m = mul(%a, %x) %y = div(%m, "
           "%two)",
       }) {
    const Graph before = parse_graph(gelu(body));
    const Graph fused = after(before, fuse_gelu, Stage::canonical);
    EXPECT_EQ(ops(fused), Names{"gelu"}) << body;
    EXPECT_TRUE(fused.find_value("y"));
    const auto x = noise(before, 1);
    // Roundings of values up to 5, one for each op.
    EXPECT_LT(largest_difference(interpret(before, x)[0], interpret(fused, x)[0]), 3e-6);
  }
}

// A stride of 2 leaves a size without a name; a constant of more axes would add one.
TEST(FuseGelu, OfUnknownSizes) {
  const std::string head = R"(graph "g" canonical {
    input %p : f32[1, 2, N, 8]
    const %root : f32[] = 1.4142135
    const %one : f32[] = 1.0
    const %half : f32[1] = [0.5]
    const %deep : f32[1, 1, 1, 1, 1] = [0.5]
    %x = max_pool(%p) {kernel = [2, 2], strides = [2, 2]}
    %d = div(%x, %root) %e = erf(%d) %a = add(%e, %one) %m = mul(%x, %a) )";
  const Graph flat = parse_graph(head + "%y = mul(%m, %half) return %y }");
  EXPECT_EQ(ops(after(flat, fuse_gelu, Stage::canonical)), (Names{"max_pool", "gelu"}));
  const Graph deep = parse_graph(head + "%y = mul(%m, %deep) return %y }");
  EXPECT_EQ(ops(after(deep, fuse_gelu, Stage::canonical)), ops(deep));
}

TEST(FuseGelu, DoesNotFire) {
  for (const char* body : {
           "%d = div(%x, %two) %e = erf(%d) %a = add(%e, %one) %m = mul(%x, %a) %y = mul(%m, "
           "%half)",
           "%d = div(%x, %root) %e = erf(%d) %a = add(%e, %two) %m = mul(%x, %a) %y = mul(%m, "
           "%half)",
           "%d = div(%x, %root) %e = erf(%d) %a = add(%e, %one) %y = mul(%x, %a)",
           "%d = div(%x, %root) %e = erf(%d) %a = add(%e, %one) %m = mul(%d, %a) %y = mul(%m, "
           "%half)",
           "%d = div(%x, %root) %e = erf(%d) %a = add(%e, %one) %m = mul(%x, %a) %h = mul(%m, "
           "%half) %y = mul(%h, %e)",
           "%d = div(%x, %root) %e = erf(%d) %a = add(%e, %one) %m = mul(%x, %a) %n = mul(%m, %x) "
           "%y = mul(%n, %half)",
       }) {
    const Graph before = parse_graph(gelu(body));
    EXPECT_EQ(ops(after(before, fuse_gelu, Stage::canonical)), ops(before)) << body;
  }
}

constexpr const char* norm = R"(graph "g" quantized {
  input %x : f32[2, 5, 48]
  const %s : f32[48] = random(1, 0.5, 1.5)
  const %b : f32[48] = random(2, -1, 1)
  const %step : f32[] = 0.03
  const %z : u8[] = 120
  %n, %mean, %factor = layer_norm(%x, %s, %b) {epsilon = 0.00001}
  %q = quantize(%n, %step, %z)
  %d = dequantize(%q, %step, %z)
  %y = add(%d, %n)
  return %y
})";

std::string with(std::string text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(FuseLayerNorm, GivesBytesAndFloats) {
  const Graph before = parse_graph(norm), fused = after(before, fuse_layer_norm, Stage::lowered);
  EXPECT_EQ(ops(fused), (Names{"fused_layer_norm", "dequantize", "add"}));
  const auto x = noise(before, 1);
  // A quotient by the step and a product by its inverse may round to neighbours.
  EXPECT_LT(largest_difference(interpret(before, x)[0], interpret(fused, x)[0]), 0.0301);
}

TEST(FuseLayerNorm, BytesAlone) {
  const Graph before = parse_graph(with(norm, "add(%d, %n)", "add(%d, %d)"));
  const Graph fused = after(before, fuse_layer_norm, Stage::lowered);
  fused.for_each([](Node& node) {
    if (node.is("fused_layer_norm")) {
      EXPECT_EQ(node.outputs().size(), 1u);
      EXPECT_EQ(node.output()->dtype(), DType::u8);
    }
  });
}

TEST(FuseLayerNorm, FloatsAloneAndNoScale) {
  std::string text =
      with(norm, "%q = quantize(%n, %step, %z)\n  %d = dequantize(%q, %step, %z)", "");
  text = with(text, "add(%d, %n)", "add(%n, %x)");
  const Graph before = parse_graph(text);
  EXPECT_EQ(ops(after(before, fuse_layer_norm, Stage::lowered)),
            (Names{"fused_layer_norm", "add"}));
  const Graph bare = parse_graph(with(text, "layer_norm(%x, %s, %b)", "layer_norm(%x)"));
  const Graph fused = after(bare, fuse_layer_norm, Stage::lowered);
  EXPECT_EQ(ops(fused), (Names{"fused_layer_norm", "add"}));
  const auto x = noise(bare, 2);
  EXPECT_EQ(largest_difference(interpret(bare, x)[0], interpret(fused, x)[0]), 0);
}

TEST(FuseLayerNorm, DoesNotFire) {
  const std::pair<const char*, const char*> changes[] = {
      {"return %y", "return %y, %mean"},                         // statistics are wanted
      {"{epsilon = 0.00001}", "{epsilon = 0.00001, axis = 1}"},  // over two axes
      {"const %s : f32[48] = random(1, 0.5, 1.5)", "const %s : f32[1] = [2.0]"},  // one scale
  };
  for (const auto& [from, to] : changes) {
    const Graph before = parse_graph(with(norm, from, to));
    EXPECT_EQ(ops(after(before, fuse_layer_norm, Stage::lowered)), ops(before)) << to;
  }
}

TEST(FuseLayerNorm, ProgramsRunItsKernel) {
  const Graph before = parse_graph(norm);
  const auto x = noise(before, 3);
  Program program = compile(before.clone(), {.threads = 2});
  std::vector<StepProfile> profile;
  const Tensor y = program.run_profiled(x, profile).at(0);
  // The reference's statistics are of float64: values near a half may round the other way.
  EXPECT_LT(largest_difference(y, interpret(before, x).at(0)), 0.0301);
  EXPECT_TRUE(profile.front().kernel.starts_with("layer_norm"));
}

}  // namespace
}  // namespace octavo
