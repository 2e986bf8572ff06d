// Each pass as text: a graph before, the graph after, the numbers too, and where it must not fire.
#include "passes/passes.h"

#include <gtest/gtest.h>

#include "backends/reference/interpreter.h"
#include "graph/op_def.h"
#include "passes/pass_test.h"
#include "passes/pipeline.h"

namespace octavo {
namespace {

// Largest difference over the largest magnitude, all outputs.
double difference(const Graph& a, const Graph& b, uint64_t seed = 1) {
  const auto x = noise(a, seed);
  const auto y = interpret(a, x), z = interpret(b, x);
  double worst = 0, most = 1e-30;
  for (size_t i = 0; i < y.size(); ++i) {
    EXPECT_EQ(y[i].dims(), z[i].dims());
    const auto p = y[i].to_doubles(), q = z[i].to_doubles();
    for (size_t k = 0; k < p.size(); ++k) {
      worst = std::max(worst, std::abs(p[k] - q[k]));
      most = std::max(most, std::abs(p[k]));
    }
  }
  return worst / most;
}

constexpr const char* conv_bn = R"(graph "g" captured {
  input %x : f32[2, 3, 5, 5]
  const %w : f32[4, 3, 3, 3] = random(1, -1, 1)
  const %s : f32[4] = random(2, 0.5, 2)
  const %b : f32[4] = random(3, -1, 1)
  const %m : f32[4] = random(4, -1, 1)
  const %v : f32[4] = random(5, 0.1, 2)
  %c = conv(%x, %w)
  %y = batch_norm(%c, %s, %b, %m, %v)
  %r = relu(%y)
  return %r
})";

TEST(FoldBatchNorm, GoesIntoAConvolution) {
  const Graph before = parse_graph(conv_bn), folded = after(before, fold_batch_norm);
  EXPECT_EQ(ops(folded), (Names{"conv", "relu"}));
  EXPECT_TRUE(folded.find_value("y"));          // the name that readers of the file know
  EXPECT_LT(difference(before, folded), 1e-5);  // two float32 roundings on 27 products and a bias
}

TEST(FoldBatchNorm, LeavesASharedConvolutionAlone) {
  std::string text = conv_bn;
  text.replace(text.find("return %r"), 9, "return %r, %c");
  const Graph before = parse_graph(text), folded = after(before, fold_batch_norm);
  EXPECT_EQ(ops(folded), (Names{"conv", "mul", "add", "relu"}));
  EXPECT_LT(difference(before, folded), 1e-5);
}

TEST(FoldConstants, ComputesWhatIsKnown) {
  const Graph before = parse_graph(R"(graph "g" canonical {
    input %x : f32[2]
    const %a : f32[2] = [1, 2]
    const %b : f32[2] = [10, 20]
    %c = add(%a, %b)
    %d = mul(%x, %c)
    return %d
  })");
  const Graph folded = after(before, fold_constants);
  EXPECT_EQ(ops(folded), Names{"mul"});
  EXPECT_EQ(folded.find_value("c")->constant().to_doubles(), (std::vector<double>{11, 22}));
  EXPECT_EQ(difference(before, folded), 0);
}

TEST(FoldConstants, KeepsStoredWeightsQuantized) {
  const Graph before = parse_graph(R"(graph "g" quantized {
    input %x : f32[1, 2]
    const %q : i8[3, 2] = [1, 2, 3, 4, 5, 6]
    const %s : f32[] = 0.5
    %w = dequantize(%q, %s)
    %y = gemm(%x, %w) {trans_b = 1}
    return %y
  })");
  EXPECT_EQ(ops(after(before, fold_constants)), (Names{"dequantize", "gemm"}));
}

TEST(Simplify, MergesAndRemoves) {
  const Graph before = parse_graph(R"(graph "g" canonical {
    input %x : f32[2, 3, 4, 4]
    %a = reshape(%x) {shape = [2, 48]}
    %b = reshape(%a) {shape = [6, 16]}
    %c = transpose(%b) {perm = [0, 1]}
    %s = sigmoid(%c)
    %y = mul(%c, %s)
    return %y
  })");
  const Graph simple = after(before, simplify);
  EXPECT_EQ(ops(simple), (Names{"reshape", "silu"}));
  EXPECT_LT(difference(before, simple), 1e-6);
}

TEST(Simplify, SigmoidThatIsReadElsewhereStays) {
  const Graph before = parse_graph(R"(graph "g" canonical {
    input %x : f32[4]
    %s = sigmoid(%x)
    %y = mul(%x, %s)
    return %y, %s
  })");
  EXPECT_EQ(ops(after(before, simplify)), (Names{"sigmoid", "mul"}));
}

TEST(Simplify, AnAddendPerChannelBecomesTheBias) {
  const Graph before = parse_graph(R"(graph "g" canonical {
    input %x : f32[1, 2, 4, 4]
    const %w : f32[3, 2, 1, 1] = random(1, -1, 1)
    const %b : f32[1, 3, 1, 1] = random(2, -1, 1)
    %c = conv(%x, %w)
    %y = add(%c, %b)
    return %y
  })");
  const Graph simple = after(before, simplify);
  EXPECT_EQ(ops(simple), Names{"conv"});
  EXPECT_LT(difference(before, simple), 1e-6);
}

// ---- lowering

Graph lowered_form(const Graph& before) {
  Graph graph = before.clone();
  lower(graph);
  return graph;
}

TEST(Lower, FloatConvolutionTakesResidualAndClamp) {
  const Graph before = parse_graph(R"(graph "g" canonical {
    input %x : f32[1, 4, 6, 6]
    const %w : f32[4, 4, 3, 3] = random(1, -1, 1)
    const %b : f32[4] = random(2, -1, 1)
    %c = conv(%x, %w, %b) {pads = [1, 1, 1, 1]}
    %a = add(%c, %x)
    %y = clip(%a) {min = 0.0, max = 6.0}
    return %y
  })");
  const Graph low = lowered_form(before);
  EXPECT_EQ(ops(low), (Names{"transpose", "fused_conv", "transpose"}));
  EXPECT_LT(difference(before, low), 1e-6);
}

TEST(Lower, AValueThatIsReadTwiceIsNotFused) {
  const Graph before = parse_graph(R"(graph "g" canonical {
    input %x : f32[1, 4, 6, 6]
    const %w : f32[4, 4, 1, 1] = random(1, -1, 1)
    %c = conv(%x, %w)
    %r = relu(%c)
    %y = add(%c, %r)
    return %y
  })");
  const Graph low = lowered_form(before);
  EXPECT_EQ(ops(low), (Names{"transpose", "fused_conv", "relu", "add", "transpose"}));
  EXPECT_LT(difference(before, low), 1e-6);
}

// A quantized residual block: integers from the first quantize to the last dequantize.
constexpr const char* quantized_block = R"(graph "g" quantized {
  input %x : f32[1, 4, 6, 6]
  const %xs : f32[] = 0.03
  const %xz : u8[] = 128
  const %w : i8[4, 4, 3, 3] = random(1, -127, 127)
  const %ws : f32[4] = random(2, 0.005, 0.01)
  const %b : f32[4] = random(3, -1, 1)
  const %ys : f32[] = 0.05
  const %yz : u8[] = 100
  %q = quantize(%x, %xs, %xz)
  %d = dequantize(%q, %xs, %xz)
  %wd = dequantize(%w, %ws) {axis = 0}
  %c = conv(%d, %wd, %b) {pads = [1, 1, 1, 1]}
  %a = add(%c, %d)
  %r = relu(%a)
  %yq = quantize(%r, %ys, %yz)
  %y = dequantize(%yq, %ys, %yz)
  return %y
})";

TEST(Lower, IntegersStayIntegersBetweenNeighbours) {
  const Graph before = parse_graph(quantized_block);
  const Graph low = lowered_form(before);
  EXPECT_EQ(ops(low), (Names{"quantize_to_nhwc", "fused_conv", "transpose", "dequantize"}));
  // The integer arithmetic and the float one may round to neighbouring integers: one step of 0.05.
  const auto x = noise(before, 7);
  const auto y = interpret(before, x)[0].to_doubles(), z = interpret(low, x)[0].to_doubles();
  size_t steps = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    EXPECT_LE(std::abs(y[i] - z[i]), 0.0501);
    steps += y[i] != z[i];
  }
  EXPECT_LE(steps, y.size() / 50);
}

// As PyTorch's exporter writes it: no Q/DQ pair between the pool and the product.
TEST(Lower, AProductSeesIntegersBehindAFlatten) {
  const Graph before = parse_graph(R"(graph "g" quantized {
    input %x : f32[2, 4, 3, 3]
    const %s : f32[] = 0.03
    const %z : u8[] = 128
    const %w : i8[5, 36] = random(1, -127, 127)
    const %ws : f32[] = 0.005
    %q = quantize(%x, %s, %z)
    %d = dequantize(%q, %s, %z)
    %f = reshape(%d) {shape = [2, 36]}
    %wd = dequantize(%w, %ws)
    %y = gemm(%f, %wd) {trans_b = 1}
    return %y
  })");
  const Graph low = lowered_form(before);
  EXPECT_EQ(ops(low), (Names{"quantize", "reshape", "fused_gemm"}));
  const auto x = noise(before, 7);
  const auto y = interpret(before, x)[0].to_doubles(), z = interpret(low, x)[0].to_doubles();
  // One float32 rounding of the sum and one of the product with the multiplier, each below 2^-24,
  // beside float64 sums of products of floats rounded once each (|x| <= 4, |w| <= 0.635).
  for (size_t i = 0; i < y.size(); ++i) EXPECT_NEAR(y[i], z[i], 36 * 4 * 0.635 * 3 / (1 << 24));
}

TEST(Lower, LinesAreImagesOfOneRow) {
  const Graph before = parse_graph(R"(graph "g" canonical {
    input %x : f32[2, 3, 20]
    const %w : f32[4, 3, 3] = random(1, -1, 1)
    const %v : f32[4, 1, 5] = random(2, -1, 1)
    %a = conv(%x, %w) {pads = [1, 0], strides = [2]}
    %r = relu(%a)
    %m = max_pool(%r) {kernel = [2], strides = [1]}
    %b = conv(%m, %v) {pads = [4, 4], dilations = [2], group = 4}
    %y = avg_pool(%b) {kernel = [3], strides = [2], pads = [1, 1], count_include_pad = 1}
    return %y
  })");
  const Graph low = lowered_form(before);
  EXPECT_EQ(ops(low), (Names{"reshape", "transpose", "fused_conv", "pool", "fused_conv", "pool",
                             "transpose", "reshape"}));
  EXPECT_LT(difference(before, low), 1e-6);
}

TEST(Lower, ADequantizeWithOtherReadersStays) {
  const Graph before = parse_graph(R"(graph "g" quantized {
    input %q : u8[2, 6]
    const %s : f32[] = 0.03
    %d = dequantize(%q, %s)
    %f = transpose(%d) {perm = [1, 0]}
    return %f, %d
  })");
  EXPECT_EQ(ops(lowered_form(before)), (Names{"dequantize", "transpose"}));
}

TEST(Lower, AFloatConsumerGetsAFloatProduct) {
  std::string text = quantized_block;
  text.replace(text.find("return %y"), 9, "return %y, %c");
  const Graph low = lowered_form(parse_graph(text));
  bool float_conv_output = false;
  low.for_each([&](Node& node) {
    if (node.is("fused_conv")) float_conv_output = node.output()->dtype() == DType::f32;
  });
  EXPECT_TRUE(float_conv_output);
}

TEST(Lower, PoolingAddsAndFunctionsRunOnIntegers) {
  const Graph before = parse_graph(R"(graph "g" quantized {
    input %x : f32[1, 4, 6, 6]
    const %s : f32[] = 0.05
    const %z : u8[] = 120
    const %t : f32[] = 0.02
    const %u : u8[] = 10
    %q = quantize(%x, %s, %z)
    %d = dequantize(%q, %s, %z)
    %m = max_pool(%d) {kernel = [2, 2], strides = [2, 2]}
    %mq = quantize(%m, %s, %z)
    %md = dequantize(%mq, %s, %z)
    %f = sigmoid(%md)
    %fq = quantize(%f, %t, %u)
    %fd = dequantize(%fq, %t, %u)
    %a = add(%fd, %md)
    %aq = quantize(%a, %s, %z)
    %ad = dequantize(%aq, %s, %z)
    %p = reduce_mean(%ad) {axes = [2, 3], keepdims = 1}
    %pq = quantize(%p, %t, %u)
    %pd = dequantize(%pq, %t, %u)
    return %pd
  })");
  const Graph low = lowered_form(before);
  const Names names = ops(low);
  for (const char* wanted : {"pool", "lookup", "quantized_add"})
    EXPECT_NE(std::find(names.begin(), names.end(), wanted), names.end()) << wanted;
  for (const char* gone : {"max_pool", "sigmoid", "add", "reduce_mean"})
    EXPECT_EQ(std::find(names.begin(), names.end(), gone), names.end()) << gone;
  EXPECT_EQ(std::count(names.begin(), names.end(), "quantize_to_nhwc"), 1);
  EXPECT_EQ(std::count(names.begin(), names.end(), "dequantize"), 1);
  const auto x = noise(before, 3);
  const auto y = interpret(before, x)[0].to_doubles(), z = interpret(low, x)[0].to_doubles();
  for (size_t i = 0; i < y.size(); ++i) EXPECT_LE(std::abs(y[i] - z[i]), 0.0201) << i;
}

TEST(Lower, ConcatOfDifferentScalesMovesBytes) {
  const Graph before = parse_graph(R"(graph "g" quantized {
    input %x : f32[1, 2, 3, 3]
    input %v : f32[1, 2, 3, 3]
    const %s : f32[] = 0.02
    const %t : f32[] = 0.03
    const %z : u8[] = 128
    %q = quantize(%x, %s, %z)
    %d = dequantize(%q, %s, %z)
    %p = quantize(%v, %t, %z)
    %e = dequantize(%p, %t, %z)
    %c = concat(%d, %e) {axis = 1}
    %cq = quantize(%c, %t, %z)
    %y = dequantize(%cq, %t, %z)
    return %y
  })");
  const Graph low = lowered_form(before);
  EXPECT_EQ(ops(low), (Names{"quantize", "quantize", "lookup", "concat", "dequantize"}));
  EXPECT_EQ(difference(before, low), 0);
}

TEST(Lower, TransposesMeetAndVanish) {
  const Graph before = parse_graph(R"(graph "g" canonical {
    input %x : f32[1, 3, 8, 8]
    const %w : f32[4, 3, 3, 3] = random(1, -1, 1)
    const %v : f32[4, 4, 1, 1] = random(2, -1, 1)
    const %k : f32[10, 4] = random(3, -1, 1)
    %a = conv(%x, %w)
    %b = sigmoid(%a)
    %c = conv(%b, %v)
    %p = reduce_mean(%c) {axes = [2, 3], keepdims = 1}
    %f = reshape(%p) {shape = [1, 4]}
    %y = gemm(%f, %k) {trans_b = 1}
    return %y
  })");
  const Graph low = lowered_form(before);
  EXPECT_EQ(ops(low), (Names{"transpose", "fused_conv", "sigmoid", "fused_conv", "pool", "reshape",
                             "fused_gemm"}));
  EXPECT_LT(difference(before, low), 1e-5);
}

}  // namespace
}  // namespace octavo
