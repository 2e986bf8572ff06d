#include "quantize/half_products.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "backends/reference/interpreter.h"
#include "graph/same_graph.h"
#include "graph/text.h"
#include "graph/verify.h"
#include "support/error.h"

namespace octavo {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

void expect_text(const Graph& graph, const char* text) {
  std::string difference;
  EXPECT_TRUE(same_graph(graph, parse_graph(text), &difference, {.names = false}))
      << difference << '\n'
      << print_graph(graph);
  verify(graph);
}

Graph halved(const char* text, const std::string& type = "float16") {
  Graph graph = parse_graph(text);
  use_float_products(graph, type);
  return graph;
}

TEST(HalfProducts, CastsAroundAProductAndStoresItsConstantsInHalf) {
  expect_text(halved(R"(graph "g" canonical {
    input %x : f32[N, 2]
    const %w : f32[2, 2] = [1, 0.1, 3, 4]
    const %b : f32[2] = [0.5, 0.2]
    %y = gemm(%x, %w, %b) {trans_b = 1}
    return %y
  })"),
              R"(graph "g" canonical {
    input %x : f32[N, 2]
    const %w : f16[2, 2] = [1, 0.1, 3, 4]
    const %b : f16[2] = [0.5, 0.2]
    %h = cast(%x) {to = "f16"}
    %m = gemm(%h, %w, %b) {trans_b = 1}
    %y = cast(%m) {to = "f32"}
    return %y
  })");
}

TEST(HalfProducts, CastsAnActivationOnceAndNotBackBetweenNeighbours) {
  expect_text(halved(R"(graph "g" canonical {
    input %x : f32[3, 2]
    const %w : f32[2, 2] = [1, 2, 3, 4]
    const %v : f32[2, 2] = [1, 0, 0, 1]
    %a = matmul(%x, %w)
    %b = matmul(%x, %v)
    %c = matmul(%a, %w)
    %r = relu(%a)
    %d = matmul(%r, %v)
    %s = add(%b, %c)
    %y = add(%s, %d)
    return %y
  })",
                     "bfloat16"),
              R"(graph "g" canonical {
    input %x : f32[3, 2]
    const %w : bf16[2, 2] = [1, 2, 3, 4]
    const %v : bf16[2, 2] = [1, 0, 0, 1]
    %h = cast(%x) {to = "bf16"}
    %ha = matmul(%h, %w)
    %a = cast(%ha) {to = "f32"}
    %hb = matmul(%h, %v)
    %b = cast(%hb) {to = "f32"}
    %hc = matmul(%ha, %w)
    %c = cast(%hc) {to = "f32"}
    %r = relu(%a)
    %hr = cast(%r) {to = "bf16"}
    %hd = matmul(%hr, %v)
    %d = cast(%hd) {to = "f32"}
    %s = add(%b, %c)
    %y = add(%s, %d)
    return %y
  })");
}

TEST(HalfProducts, ABatchNormalizationGoesIntoItsProduct) {
  expect_text(halved(R"(graph "g" captured {
    input %x : f32[1, 1, 2, 2]
    const %w : f32[1, 1, 1, 1] = [2]
    const %g : f32[1] = [3]
    const %b : f32[1] = [0.5]
    const %m : f32[1] = [1]
    const %v : f32[1] = [4]
    %c = conv(%x, %w)
    %n = batch_norm(%c, %g, %b, %m, %v) {epsilon = 0}
    %r = relu(%n)
    %y = batch_norm(%r, %g, %b, %m, %v) {epsilon = 0}
    return %y
  })"),
              R"(graph "g" captured {
    input %x : f32[1, 1, 2, 2]
    const %w : f16[1, 1, 1, 1] = [3]
    const %d : f16[1] = [-1]
    const %g : f32[1] = [3]
    const %b : f32[1] = [0.5]
    const %m : f32[1] = [1]
    const %v : f32[1] = [4]
    %h = cast(%x) {to = "f16"}
    %c = conv(%h, %w, %d)
    %n = cast(%c) {to = "f32"}
    %r = relu(%n)
    %y = batch_norm(%r, %g, %b, %m, %v) {epsilon = 0}
    return %y
  })");
}

TEST(HalfProducts, AConstantThatOthersReadIsNotStoredTwice) {
  expect_text(halved(R"(graph "g" canonical {
    input %i : i64[3]
    input %x : f32[3, 2]
    const %t : f32[4, 2] = [1, 2, 3, 4, 5, 6, 7, 8]
    %e = gather(%t, %i) {axis = 0}
    %s = add(%e, %x)
    %y = gemm(%s, %t) {trans_b = 1}
    return %y
  })"),
              R"(graph "g" canonical {
    input %i : i64[3]
    input %x : f32[3, 2]
    const %t : f32[4, 2] = [1, 2, 3, 4, 5, 6, 7, 8]
    %e = gather(%t, %i) {axis = 0}
    %s = add(%e, %x)
    %h = cast(%s) {to = "f16"}
    %ht = cast(%t) {to = "f16"}
    %m = gemm(%h, %ht) {trans_b = 1}
    %y = cast(%m) {to = "f32"}
    return %y
  })");
}

// In order: multiplied integers (behind a transposition), weights alone as integers, two
// activations of which one is float, other types.
constexpr const char* mixed = R"(graph "g" quantized {
    input %x : f32[4, 4]
    input %k : f64[4, 4]
    const %s : f32[] = 0.02
    const %z : i8[] = 0
    const %w : i8[4, 4] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    %dw = dequantize(%w, %s, %z) : f32[4, 4]
    %q = quantize(%x, %s, %z) : i8[4, 4]
    %d = dequantize(%q, %s, %z) : f32[4, 4]
    %t = transpose(%d) {perm = [1, 0]}
    %a = gemm(%t, %dw)
    %b = gemm(%a, %dw)
    %e = matmul(%b, %t)
    %f = matmul(%k, %k)
    return %e, %f
  })";

TEST(HalfProducts, LeavesIntegersAndOtherTypes) {
  const Graph graph = halved(mixed);
  std::vector<std::string> changed;
  graph.for_each([&](Node& node) {
    if (node.output()->dtype() == DType::f16 && !node.is("cast")) changed.push_back(node.name());
  });
  EXPECT_EQ(changed, std::vector<std::string>{"e"});
  EXPECT_EQ(graph.find_value("w")->dtype(), DType::i8);
  const Graph same = halved(mixed, "float32");
  std::string difference;
  EXPECT_TRUE(same_graph(same, parse_graph(mixed), &difference)) << difference;
}

// Weights, inputs and results are each rounded by at most 2^-11 of themselves, or half of float16's
// least step; the interpreter's sums are exact.
TEST(HalfProducts, RoundsEachOperandOnce) {
  constexpr const char* text = R"(graph "g" canonical {
    input %x : f32[2, 6, 5, 5]
    const %w : f32[8, 3, 3, 3] = random(3, -1, 1)
    const %b : f32[8] = random(4, -1, 1)
    %y = conv(%x, %w, %b) {group = 2, pads = [1, 1, 1, 1]}
    return %y
  })";
  const Graph whole = parse_graph(text), half = halved(text);
  Graph size = parse_graph(text);  // of absolute values, for the bound
  for (const char* name : {"w", "b"}) {
    Value* value = size.find_value(name);
    Tensor absolute = convert(value->constant(), DType::f32);
    for (float& each : absolute.mutable_values<float>()) each = std::fabs(each);
    size.replace_all_uses(value, size.add_constant("", absolute));
  }
  Tensor x(DType::f32, {2, 6, 5, 5}), large(DType::f32, {2, 6, 5, 5});
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 3);
  for (float& value : x.mutable_values<float>()) value = normal(random);
  for (size_t i = 0; i < x.values<float>().size(); ++i)
    large.mutable_values<float>()[i] = std::fabs(x.values<float>()[i]);
  const std::vector inputs{x}, magnitudes{large};
  const Tensor a = interpret(whole, inputs)[0], b = interpret(half, inputs)[0],
               c = interpret(size, magnitudes)[0];
  EXPECT_EQ(b.dtype(), DType::f32);
  double most = 0;
  for (size_t i = 0; i < a.values<float>().size(); ++i) {
    const double off = std::fabs(a.values<float>()[i] - b.values<float>()[i]);
    EXPECT_LE(off, c.values<float>()[i] * 3.01 * std::ldexp(1, -11) + 1e-6);
    most = std::max(most, off);
  }
  EXPECT_GT(most, 1e-4);  // it is float16
}

TEST(HalfProducts, SaysWhatCannotBe) {
  constexpr const char* conv = R"(graph "g" canonical {
    input %x : f32[1, 1, 2, 2]
    const %w : f32[1, 1, 1, 1] = [70000]
    %y = conv(%x, %w)
    return %y
  })";
  const auto message = [&](const std::string& type) {
    Graph graph = parse_graph(conv);
    try {
      use_float_products(graph, type);
    } catch (const UserError& error) {
      std::string difference;
      EXPECT_TRUE(same_graph(graph, parse_graph(conv), &difference)) << difference;
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_THAT(message("float16"), AllOf(HasSubstr("conv 'y'"), HasSubstr("70000")));
  EXPECT_THAT(message("float8"), HasSubstr("'float8' is not known"));
}

}  // namespace
}  // namespace octavo
