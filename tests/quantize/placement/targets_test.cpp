#include <gtest/gtest.h>

#include <map>

#include "graph/text.h"
#include "quantize/placement/lint.h"
#include "quantize/placement/placement.h"
#include "support/error.h"

namespace octavo {
namespace {

std::map<std::string, PlacedActivation> placed(const Placement& placement) {
  std::map<std::string, PlacedActivation> by_name;
  for (const PlacedActivation& a : placement.activations) by_name.emplace(a.value->name(), a);
  return by_name;
}

std::vector<std::string> names(const Placement& placement) {
  std::vector<std::string> result;
  for (const PlacedActivation& a : placement.activations) result.push_back(a.value->name());
  return result;
}

using Names = std::vector<std::string>;

// conv -> clip -> residual -> pool -> concat -> conv
Graph network() {
  return parse_graph(R"(graph "g" canonical {
    input %x : f32[1, 16, 8, 8]
    const %w : f32[16, 16, 1, 1] = random(1, -1, 1)
    const %v : f32[16, 32, 1, 1] = random(2, -1, 1)
    %a = conv(%x, %w)
    %b = clip(%a) {min = 0.0, max = 6.0}
    %c = conv(%b, %w)
    %d = add(%c, %b)
    %p = max_pool(%d) {kernel = [1, 1]}
    %k = concat(%p, %b) {axis = 1}
    %y = conv(%k, %v)
    return %y
  })");
}

TEST(PlaceOnnxRuntime, QuantizesEverySideOfEachIntegerOp) {
  const Graph graph = network();
  const Placement placement = place_onnxruntime(graph, {});
  // Not a: the clip goes with its convolution. y: a convolution without it is float.
  EXPECT_EQ(names(placement), (Names{"x", "b", "c", "d", "p", "k", "y"}));
  const auto by_name = placed(placement);
  EXPECT_EQ(by_name.at("d").group, by_name.at("p").group);
  EXPECT_NE(by_name.at("k").group, by_name.at("p").group);
  EXPECT_EQ(by_name.at("x").scheme.storage(), DType::u8);
  EXPECT_FALSE(by_name.at("x").scheme.symmetric);
  EXPECT_TRUE(placement.integer_bias);
}

TEST(PlaceOpenVino, LeavesTheLastOutputInFloat) {
  const Graph graph = network();
  const Placement placement = place_openvino(graph, {});
  EXPECT_EQ(names(placement), (Names{"x", "b", "c", "d", "p", "k"}));
}

TEST(PlaceTensorRt, QuantizesInputsOfProductsAndShortcutsWithSharedScales) {
  const Graph graph = network();
  const Placement placement = place_tensorrt(graph, {});
  // Not c: its convolution takes the addition.
  EXPECT_EQ(names(placement), (Names{"x", "b", "d", "p", "k"}));
  const auto by_name = placed(placement);
  // The concat's inputs and output, and the pool's, have one scale.
  for (const char* name : {"b", "d", "p"})
    EXPECT_EQ(by_name.at(name).group, by_name.at("k").group) << name;
  EXPECT_NE(by_name.at("x").group, by_name.at("k").group);
  EXPECT_EQ(by_name.at("x").scheme, Scheme{});
  EXPECT_FALSE(placement.integer_bias);
}

TEST(PlaceTensorRt, LeavesSmallProductsInFloatAndSaysSo) {
  const Graph graph = parse_graph(R"(graph "g" canonical {
    input %x : f32[1, 3, 8, 8]
    const %w : f32[16, 3, 1, 1] = random(1, -1, 1)
    const %v : f32[16, 16, 1, 1] = random(2, -1, 1)
    %a = conv(%x, %w)
    %b = conv(%a, %v)
    return %b
  })");
  const Placement placement = place_tensorrt(graph, {});
  EXPECT_EQ(names(placement), Names{"a"});
  ASSERT_EQ(placement.skipped.size(), 1u);
  EXPECT_EQ(placement.skipped[0].node, "a");
  EXPECT_EQ(placement.skipped[0].reason, "fewer than 16 channels gain nothing");
}

TEST(PlaceByFacts, ARuleKeepsANodeInFloat) {
  const Graph graph = network();
  Rules rules;
  rules.rules.push_back({.name = "y", .precision = Precision::float32});
  // Nothing behind reads integers any more but c, whose input is b.
  EXPECT_EQ(names(place_tensorrt(graph, rules)), (Names{"x", "b"}));
}

// ---- lint

TEST(Lint, AFloatGraphIsAllFloat) {
  const LintReport report = lint(network(), "onnxruntime");
  EXPECT_TRUE(report.integer.empty());
  Names found;
  for (const LintFinding& f : report.findings) found.push_back(f.node + ": " + f.reason);
  ASSERT_EQ(found.size(), 7u);
  EXPECT_EQ(found[0], "a: an input is not dequantized");
  EXPECT_EQ(found[1], "b: onnxruntime has no kernel for it on integers");
}

TEST(Lint, BatchNormalizationAndQuantizedBiasesBreakTensorRtsRules) {
  const Graph graph = parse_graph(R"(graph "g" captured {
    input %x : f32[1, 4, 8, 8]
    const %s : f32[] = [0.1]
    const %z : i8[] = [0]
    const %w : i8[4, 4, 1, 1] = random(1, -100, 100)
    const %b : i32[4] = [1, 2, 3, 4]
    const %bz : i32[] = [0]
    const %one : f32[4] = [1, 1, 1, 1]
    %q = quantize(%x, %s, %z)
    %d = dequantize(%q, %s, %z)
    %wd = dequantize(%w, %s, %z)
    %bd = dequantize(%b, %s, %bz)
    %c = conv(%d, %wd, %bd)
    %n = batch_norm(%c, %one, %one, %one, %one)
    return %n
  })");
  const LintReport report = lint(graph, "tensorrt");
  Names rules;
  for (const LintFinding& f : report.findings)
    if (f.kind == LintKind::rule) rules.push_back(f.node + ": " + f.reason);
  EXPECT_EQ(rules, (Names{"c: its bias is quantized",
                          "n: batch normalization is not folded into the convolution before it"}));
  EXPECT_EQ(report.integer.front(), "c");
}

TEST(Lint, ALeakyReluRunsInOctavosProductButInFloatBehindADepthwiseOne) {
  const std::string form = R"(graph "g" quantized {
    input %x : f32[1, 4, 8, 8]
    const %s : f32[] = [0.1]
    const %z : u8[] = [0]
    const %wz : i8[] = [0]
    const %w : i8[4, WIDTH, 1, 1] = random(1, -100, 100)
    %q = quantize(%x, %s, %z)
    %d = dequantize(%q, %s, %z)
    %wd = dequantize(%w, %s, %wz)
    %c = conv(%d, %wd) {group = GROUP}
    %l = leaky_relu(%c) {alpha = 0.1}
    %y = quantize(%l, %s, %z)
    %o = dequantize(%y, %s, %z)
    return %o
  })";
  const auto graph = [&](const char* width, const char* group) {
    std::string text = form;
    text.replace(text.find("WIDTH"), 5, width);
    text.replace(text.find("GROUP"), 5, group);
    return parse_graph(text);
  };
  EXPECT_TRUE(lint(graph("4", "1"), "octavo").findings.empty());
  // A depthwise kernel has no such epilogue, and without Q/DQ between there is no table.
  const LintReport depthwise = lint(graph("1", "4"), "octavo");
  ASSERT_EQ(depthwise.findings.size(), 1u);
  EXPECT_EQ(depthwise.findings[0].node, "l");
}

TEST(Lint, NamesTheTargetsItKnows) {
  try {
    lint(network(), "tflite");
    FAIL();
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("onnxruntime"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace octavo
