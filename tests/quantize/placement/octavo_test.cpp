#include <gtest/gtest.h>

#include <map>

#include "graph/text.h"
#include "quantize/placement/placement.h"

namespace octavo {
namespace {

using Names = std::vector<std::string>;

Names activations(const Placement& placement) {
  Names names;
  for (const PlacedActivation& a : placement.activations) names.push_back(a.value->name());
  return names;
}

Names products(const Placement& placement) {
  Names names;
  for (const PlacedWeights& w : placement.weights) names.push_back(w.node->name());
  return names;
}

TEST(PlaceOctavo, QuantizesWhatIntegersReadButNotInsideAFusedChain) {
  const Graph graph = parse_graph(R"(graph "g" canonical {
    input %x : f32[1, 4, 8, 8]
    const %w : f32[4, 4, 1, 1] = random(1, -1, 1)
    %a = conv(%x, %w)
    %b = clip(%a) {min = 0.0, max = 6.0}
    %c = conv(%b, %w)
    %d = add(%c, %b)
    %e = relu(%d)
    %f = conv(%e, %w)
    %g = softmax(%f) {axis = 1}
    return %g
  })");
  const Placement placement = place_octavo(graph, {});
  // a, c and d live inside their product's kernel; f leaves it as float.
  EXPECT_EQ(activations(placement), (Names{"x", "b", "e"}));
  EXPECT_EQ(products(placement), (Names{"a", "c", "f"}));
  EXPECT_TRUE(placement.skipped.empty());
}

TEST(PlaceOctavo, CopiesAndMaximaShareTheirInputsScale) {
  const Graph graph = parse_graph(R"(graph "g" canonical {
    input %x : f32[1, 4, 8, 8]
    const %w : f32[4, 4, 1, 1] = random(1, -1, 1)
    const %v : f32[4, 8, 1, 1] = random(2, -1, 1)
    %a = conv(%x, %w)
    %m = max_pool(%a) {kernel = [2, 2], strides = [2, 2]}
    %k = conv(%m, %w)
    %j = concat(%k, %m) {axis = 1}
    %y = conv(%j, %v)
    return %y
  })");
  const Placement placement = place_octavo(graph, {});
  EXPECT_EQ(activations(placement), (Names{"x", "a", "m", "k", "j"}));
  std::map<std::string, int> group;
  for (const PlacedActivation& a : placement.activations) group[a.value->name()] = a.group;
  EXPECT_EQ(group["a"], group["m"]);
  EXPECT_NE(group["x"], group["a"]);
  EXPECT_NE(group["j"], group["m"]);  // the larger range of what it joins
  EXPECT_EQ(placement.groups, 4);
}

TEST(PlaceOctavo, SaysWhyALayerStaysInFloat) {
  const Graph graph = parse_graph(R"(graph "g" canonical {
    input %x : f32[2, 4]
    input %v : f32[4, 4]
    const %w : f32[4, 4] = random(1, -1, 1)
    const %c : f32[2, 1] = [1, 2]
    %computed = matmul(%x, %v)
    %scaled = gemm(%x, %w) {alpha = 2.0}
    %shifted = gemm(%x, %w, %c)
    %ruled = matmul(%x, %w)
    %fine = matmul(%x, %w)
    return %computed, %scaled, %shifted, %ruled, %fine
  })");
  const Placement placement =
      place_octavo(graph, {{{.name = "ruled", .precision = Precision::float32}}});
  EXPECT_EQ(products(placement), (Names{"fine"}));
  Names reasons;
  for (const auto& s : placement.skipped) reasons.push_back(s.node + " " + s.op + " " + s.reason);
  EXPECT_EQ(reasons, (Names{"computed matmul its weights are not constant",
                            "scaled gemm alpha, beta or trans_a are not 1, 1, 0",
                            "shifted gemm its addend is no bias: one value per output channel",
                            "ruled matmul a rule keeps it in float"}));
}

TEST(PlaceOctavo, AMatmulsBiasIsPartOfIt) {
  const Graph graph = parse_graph(R"(graph "g" canonical {
    input %x : f32[1, 6, 4]
    const %w : f32[4, 4] = random(1, -1, 1)
    const %b : f32[4] = random(2, -1, 1)
    const %one : f32[1, 1, 4] = random(3, -1, 1)
    %a = matmul(%x, %w)
    %ab = add(%a, %b)
    %c = matmul(%ab, %w)
    %cb = add(%b, %c)
    %r = relu(%cb)
    %d = matmul(%r, %w)
    %db = add(%d, %one)
    %e = matmul(%db, %w)
    return %e
  })");
  // Of d's addend the kernel knows nothing: it has three axes.
  EXPECT_EQ(activations(place_octavo(graph, {})), (Names{"x", "ab", "r", "db"}));
}

constexpr const char* attention_block = R"(graph "g" canonical {
  input %x : f32[1, 6, 8]
  const %wq : f32[8, 8] = random(1, -1, 1)
  const %wk : f32[8, 8] = random(2, -1, 1)
  const %wv : f32[8, 8] = random(3, -1, 1)
  const %wo : f32[8, 8] = random(4, -1, 1)
  const %root : f32[] = 2.0
  %q = matmul(%x, %wq)
  %k = matmul(%x, %wk)
  %v = matmul(%x, %wv)
  %qr = reshape(%q) {shape = [1, 6, 2, 4]}
  %kr = reshape(%k) {shape = [1, 6, 2, 4]}
  %vr = reshape(%v) {shape = [1, 6, 2, 4]}
  %qt = transpose(%qr) {perm = [0, 2, 1, 3]}
  %kt = transpose(%kr) {perm = [0, 2, 3, 1]}
  %vt = transpose(%vr) {perm = [0, 2, 1, 3]}
  %s = matmul(%qt, %kt)
  %d = div(%s, %root)
  %p = softmax(%d)
  %a = matmul(%p, %vt)
  %at = transpose(%a) {perm = [0, 2, 1, 3]}
  %ar = reshape(%at) {shape = [1, 6, 8]}
  %o = matmul(%ar, %wo)
  %y = add(%o, %x)
  return %y
})";

TEST(PlaceOctavo, AttentionReadsAndWritesIntegers) {
  const Graph graph = parse_graph(attention_block);
  const Placement placement = place_octavo(graph, {});
  // Neither scores nor weights.
  EXPECT_EQ(activations(placement),
            (Names{"x", "q", "k", "v", "qr", "kr", "vr", "qt", "kt", "vt", "a", "at", "ar"}));
  EXPECT_EQ(products(placement), (Names{"q", "k", "v", "o"}));
  std::map<std::string, int> group;
  for (const PlacedActivation& a : placement.activations) group[a.value->name()] = a.group;
  EXPECT_EQ(group["q"], group["qt"]);
  EXPECT_EQ(group["a"], group["ar"]);
}

TEST(PlaceOctavo, ARuleKeepsAttentionInFloat) {
  const Graph graph = parse_graph(attention_block);
  const Placement placement =
      place_octavo(graph, {{{.name = "a", .precision = Precision::float32}}});
  // The projections are products still: they read integers and write floats.
  EXPECT_EQ(activations(placement), (Names{"x", "ar"}));
  EXPECT_EQ(products(placement), (Names{"q", "k", "v", "o"}));
}

TEST(PlaceOctavo, AResidualReadsTheFloatValueOfWhatAFloatOpMade) {
  const Graph graph = parse_graph(attention_block);
  const Placement placement = place_octavo(graph, {});
  ASSERT_EQ(placement.activations[0].value->name(), "x");
  ASSERT_EQ(placement.activations[0].float_readers.size(), 1u);
  EXPECT_EQ(placement.activations[0].float_readers[0].node->name(), "y");
  for (size_t i = 1; i < placement.activations.size(); ++i)
    EXPECT_TRUE(placement.activations[i].float_readers.empty());
}

TEST(Rules, GlobsMatchAsInAShell) {
  EXPECT_TRUE(glob_match("*", ""));
  EXPECT_TRUE(glob_match("a*c?", "abbcd"));
  EXPECT_FALSE(glob_match("a*c?", "abbc"));
  EXPECT_TRUE(glob_match("*.conv*", "/m.0/x.conv1"));
  EXPECT_FALSE(glob_match("conv", "conv1"));
}

}  // namespace
}  // namespace octavo
