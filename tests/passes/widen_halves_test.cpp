// Products of float16 and bfloat16 on the kernels of float32: text, and programs against the
// interpreter of the graph before. Where sums are exact in float32 the answers are equal bit for
// bit, rounding order included.
#include <gtest/gtest.h>

#include <cfloat>
#include <set>

#include "backends/reference/interpreter.h"
#include "codegen/compile.h"
#include "graph/op_def.h"
#include "graph/rewrite.h"
#include "passes/pass_test.h"
#include "passes/passes.h"
#include "support/cpu.h"

namespace octavo {
namespace {

class WidenHalves : public ::testing::Test {
 protected:
  ~WidenHalves() override { set_isa_limit(hardware_isa()); }
};

void expect_becomes(const char* before, const char* want) {
  expect_graph(after(parse_graph(before), widen_halves, Stage::lowered), want);
}

std::set<std::string> kernels(Program& program, const std::vector<Tensor>& inputs) {
  std::vector<Dims> dims;
  for (const Tensor& x : inputs) dims.push_back(x.dims());
  std::set<std::string> names;
  for (const Step& step : program.plan(dims)->steps) names.insert(step.kernel->name());
  return names;
}

// Runs on no reference kernel, and equals the interpreter bit for bit, on every instruction set.
void expect_program(const Graph& graph, const std::vector<Tensor>& inputs) {
  const auto want = interpret(graph, inputs);
  for (const Isa isa : {Isa::portable, Isa::avx2, Isa::avx512}) {
    if (isa > hardware_isa()) continue;
    SCOPED_TRACE(isa_name(isa));
    set_isa_limit(isa);
    Program program = compile(graph.clone(), {.threads = 2});
    const auto got = program.run(inputs);
    for (size_t i = 0; i < want.size(); ++i)
      EXPECT_TRUE(want[i] == got[i]) << largest_difference(want[i], got[i]);
    EXPECT_FALSE(kernels(program, inputs).contains("reference"));
  }
}

// Integers of up to 6 bits: sums of products are exact in float32, but not in half.
Tensor integers(DType dtype, Dims dims, uint64_t seed) {
  std::mt19937_64 random(seed);
  Tensor x(DType::f32, std::move(dims));
  for (float& v : x.mutable_values<float>()) v = static_cast<float>(random() % 128) - 64;
  return convert(x, dtype);
}

TEST_F(WidenHalves, RoundsOperandsAndResultOnce) {
  expect_becomes(R"(graph "g" canonical {
    input %x : f32[1, 2]
    const %w : f16[2, 2] = [1, 0.1, 3, 4]
    const %b : f16[2] = [0.5, 0.2]
    %h = cast(%x) {to = "f16"}
    %m = gemm(%h, %w, %b) {trans_b = 1}
    %y = cast(%m) {to = "f32"}
    return %y
  })",
                 R"(graph "g" canonical {
    input %x : f32[1, 2]
    const %w : f32[2, 2] = [1, 0.0999755859375, 3, 4]
    const %b : f32[2] = [0.5, 0.199951171875]
    %r = round_to(%x) {to = "f16"}
    %m = gemm(%r, %w, %b) {trans_b = 1}
    %y = round_to(%m) {to = "f16"}
    return %y
  })");
}

TEST_F(WidenHalves, DoesNotRoundWhatIsHalfAlready) {
  expect_becomes(R"(graph "g" canonical {
    input %x : bf16[1, 1, 4, 4]
    const %w : bf16[1, 1, 1, 1] = [3]
    %a = conv(%x, %w)
    %fa = cast(%a) {to = "f32"}
    %r = clip(%fa) {min = 0, max = 6}
    %p = max_pool(%r) {kernel = [2, 2], strides = [2, 2]}
    %h = cast(%p) {to = "bf16"}
    %b = conv(%h, %w)
    %c = conv(%b, %w)
    %fc = cast(%c) {to = "f32"}
    %u = clip(%fc) {min = 0, max = 0.1}
    %hu = cast(%u) {to = "bf16"}
    %d = conv(%hu, %w)
    return %d
  })",
                 R"(graph "g" canonical {
    input %x : bf16[1, 1, 4, 4]
    const %w : f32[1, 1, 1, 1] = [3]
    %wx = cast(%x) {to = "f32"}
    %a = conv(%wx, %w)
    %fa = round_to(%a) {to = "bf16"}
    %r = clip(%fa) {min = 0, max = 6}
    %p = max_pool(%r) {kernel = [2, 2], strides = [2, 2]}
    %b = conv(%p, %w)
    %fb = round_to(%b) {to = "bf16"}
    %c = conv(%fb, %w)
    %fc = round_to(%c) {to = "bf16"}
    %u = clip(%fc) {min = 0, max = 0.1}
    %ru = round_to(%u) {to = "bf16"}
    %s = conv(%ru, %w)
    %rs = round_to(%s) {to = "bf16"}
    %d = cast(%rs) {to = "bf16"}
    return %d
  })");
}

// Two outputs keep their names; other types and products of integers stay.
TEST_F(WidenHalves, LeavesTheRest) {
  for (const char* text : {R"(graph "g" canonical {
    input %x : f16[2, 2]
    %f = cast(%x) {to = "f32"}
    %y = relu(%f)
    %h = cast(%y) {to = "f16"}
    %z = cast(%h) {to = "f32"}
    return %y, %z
  })",
                           R"(graph "g" canonical {
    input %x : f64[2, 2]
    %h = cast(%x) {to = "f16"}
    %f = cast(%h) {to = "f32"}
    %a = matmul(%f, %f)
    %y = cast(%a) {to = "f16"}
    return %y
  })"}) {
    Graph before = parse_graph(text);
    before.remove_dead();
    std::string difference;
    EXPECT_TRUE(same_graph(before, after(before, widen_halves, Stage::lowered), &difference))
        << difference;
  }
}

// Products of f32 in `half`, as use_float_products writes them; of bfloat16 convolutions too.
Graph halved(const char* text, DType half) {
  Graph graph = parse_graph(text);
  std::vector<Node*> products;
  graph.for_each([&](Node& node) {
    if (node.op().quant == QuantTrait::weighted) products.push_back(&node);
  });
  const auto cast = [&](Value* x, DType to, Node* before) {
    return graph.apply("cast", {x}, {{"to", std::string(dtype_name(to))}}, "", before);
  };
  for (Node* node : products) {
    std::vector<Value*> inputs;
    for (Value* x : node->inputs()) inputs.push_back(x ? cast(x, half, node) : nullptr);
    Value* y = graph.apply(node->op_name(), inputs, node->attributes(), "", node);
    replace(graph, node, cast(y, DType::f32, node));
  }
  graph.remove_dead();
  return graph;
}

// Residual, clamp and slope see the rounded sum, each of which is exact in float32 before.
TEST_F(WidenHalves, EpiloguesSeeTheRoundedSum) {
  constexpr const char* text = R"(graph "g" canonical {
    input %x : f32[2, 8, 6, 5]
    const %w : f32[16, 8, 3, 3] = random(1, -4, 4)
    const %b : f32[16] = random(2, -4, 4)
    const %d : f32[16, 1, 3, 3] = random(3, -4, 4)
    const %v : f32[16, 16, 1, 1] = random(4, -4, 4)
    const %m : f32[16, 10] = random(5, -1, 1)
    const %n : f32[10] = random(6, -4, 4)
    %rw = round(%w)
    %rb = round(%b)
    %rd = round(%d)
    %rv = round(%v)
    %rm = round(%m)
    %c = conv(%x, %rw, %rb) {pads = [1, 1, 1, 1]}
    %r = clip(%c) {min = 0, max = 60}
    %e = conv(%r, %rd) {pads = [1, 1, 1, 1], group = 16}
    %s = add(%e, %r)
    %f = conv(%s, %rv)
    %t = add(%f, %s)
    %u = relu(%t)
    %o = leaky_relu(%f) {alpha = 0.5}
    %p = reduce_max(%u) {axes = [2, 3], keepdims = 0}
    %q = matmul(%p, %rm)
    %y = add(%q, %n)
    return %t, %u, %o, %y
  })";
  const std::vector<Tensor> x{integers(DType::f32, {2, 8, 6, 5}, 1)};
  for (const DType half : {DType::f16, DType::bf16}) {
    const Graph graph = halved(text, half);
    expect_program(graph, x);
    for (const Tensor& y : interpret(graph, x))
      for (const double v : y.to_doubles()) ASSERT_TRUE(std::isfinite(v));
    EXPECT_GT(largest_difference(interpret(graph, x)[0], interpret(parse_graph(text), x)[0]), 0);
  }
}

TEST_F(WidenHalves, ProductsOfActivationsAndTransposedConvolutions) {
  constexpr const char* text = R"(graph "g" canonical {
    input %a : f32[2, 3, 6, 5]
    input %b : f32[2, 3, 5, 4]
    const %w : f32[3, 4, 2, 2] = random(1, -4, 4)
    %rw = round(%w)
    %y = matmul(%a, %b)
    %t = conv_transpose(%a, %rw) {strides = [2, 2]}
    %u = relu(%t)
    return %y, %u
  })";
  const std::vector<Tensor> x{integers(DType::f32, {2, 3, 6, 5}, 2),
                              integers(DType::f32, {2, 3, 5, 4}, 3)};
  for (const DType half : {DType::f16, DType::bf16}) expect_program(halved(text, half), x);
}

// A file that is half throughout: all of it is exact in float32 before it is rounded.
TEST_F(WidenHalves, NetworksOfHalf) {
  for (const char* half : {"f16", "bf16"}) {
    std::string text = R"(graph "g" canonical {
      input %x : T[2, 8, 6, 6]
      input %i : i64[3]
      const %w : T[8, 8, 3, 3] = random(1, -4, 4)
      const %b : T[8] = random(2, -4, 4)
      const %s : T[8, 1, 1] = random(3, 1, 4)
      const %m : T[16, 5] = random(5, -2, 2)
      const %e : T[9, 8] = random(6, -4, 4)
      %rw = round(%w)
      %rb = round(%b)
      %rs = round(%s)
      %rm = round(%m)
      %re = round(%e)
      %c = conv(%x, %rw, %rb) {pads = [1, 1, 1, 1]}
      %n = mul(%c, %rs)
      %r = relu(%n)
      %u = add(%r, %x)
      %t = transpose(%u) {perm = [0, 1, 3, 2]}
      %j = concat(%t, %u) {axis = 1}
      %p = max_pool(%j) {kernel = [2, 2], strides = [2, 2], pads = [1, 1, 1, 1]}
      %a = reduce_mean(%p) {axes = [2, 3], keepdims = 0}
      %y = gemm(%a, %rm)
      %g = gather(%re, %i) {axis = 0}
      %z = sub(%g, %rb)
      return %y, %z, %u
    })";
    for (size_t at; (at = text.find(": T")) != std::string::npos;) text.replace(at + 2, 1, half);
    const Graph graph = parse_graph(text);
    expect_program(graph, {integers(parse_dtype(half), {2, 8, 6, 6}, 5),
                           Tensor::from(Dims{3}, std::vector<int64_t>{8, 0, 3})});
  }
}

// Within float32's few ulps before the rounding: the same half, or where the value is near the
// middle of two the other one.
TEST_F(WidenHalves, FunctionsOfHalf) {
  for (const char* function : {"abs(%x)",
                               "exp(%x)",
                               "sigmoid(%x)",
                               "tanh(%x)",
                               "erf(%x)",
                               "gelu(%x)",
                               "silu(%x)",
                               "mish(%x)",
                               "softplus(%x)",
                               "elu(%x)",
                               "hard_swish(%x)",
                               "leaky_relu(%x) {alpha = 0.1}",
                               "clip(%x) {min = -0.1, max = 0.7}",
                               "div(%x, %d)",
                               "reciprocal(%x)",
                               "pow(%d, %x)",
                               "avg_pool(%x) {kernel = [3, 3], pads = [1, 1, 1, 1]}",
                               "reduce_sum(%x) {axes = [1]}",
                               "layer_norm(%x, %k) {axis = -1}",
                               "conv(%x, %v)",
                               "softmax(%x) {axis = -1}",
                               "softmax(%x) {axis = 1}"})
    for (const DType half : {DType::f16, DType::bf16}) {
      SCOPED_TRACE(fmt::format("{} {}", function, dtype_name(half)));
      const Graph graph = parse_graph(fmt::format(
          R"(graph "g" canonical {{
        input %x : {0}[3, 2, 8, 40]
        const %d : {0}[3, 2, 8, 40] = random(1, 1, 2)
        const %v : {0}[4, 2, 1, 1] = random(2, -1, 1)
        const %k : {0}[40] = random(3, -1, 1)
        %y{2} = {1}
        return %y
      }})",
          dtype_name(half), function,
          std::string_view(function).starts_with("layer") ? ", %mean, %deviation" : ""));
      Tensor x(DType::f32, {3, 2, 8, 40});
      std::mt19937_64 random(4);
      for (float& v : x.mutable_values<float>()) v = std::normal_distribution<float>()(random);
      const std::vector<Tensor> inputs{convert(x, half)};
      const auto want = interpret(graph, inputs)[0].to_doubles();
      Program program = compile(graph.clone(), {.threads = 2});
      const auto got = program.run(inputs)[0].to_doubles();
      EXPECT_FALSE(kernels(program, inputs).contains("reference"));
      ASSERT_EQ(got.size(), want.size());
      const double last = half == DType::f16 ? 0x1p-10 : 0x1p-7;
      size_t moved = 0;
      for (size_t i = 0; i < want.size(); ++i) {
        EXPECT_LE(std::abs(got[i] - want[i]), last * std::abs(want[i]) + 1e-6) << i;
        moved += got[i] != want[i];
      }
      EXPECT_LE(moved, want.size() / 100);
    }
}

// Sums that float32 rounds: K + 1 roundings of the magnitudes, and where that is near the middle of
// two halves the other one of them.
TEST_F(WidenHalves, SumsAreWithinOneHalfAndTheirOwnRounding) {
  constexpr const char* text = R"(graph "g" canonical {
    input %x : f32[2, 20, 7, 7]
    const %w : f32[24, 20, 3, 3] = random(1, -1, 1)
    %y = conv(%x, %w) {pads = [1, 1, 1, 1]}
    return %y
  })";
  std::vector<Tensor> x = noise(parse_graph(text), 3), sizes = noise(parse_graph(text), 3);
  for (float& v : sizes[0].mutable_values<float>()) v = std::abs(v);
  Graph absolute = parse_graph(text);
  Tensor w = convert(absolute.find_value("w")->constant(), DType::f32);
  for (float& v : w.mutable_values<float>()) v = std::abs(v);
  absolute.replace_all_uses(absolute.find_value("w"), absolute.add_constant("", w));
  const auto magnitude = interpret(absolute, sizes)[0].to_doubles();
  for (const DType half : {DType::f16, DType::bf16}) {
    const Graph graph = halved(text, half);
    const auto want = interpret(graph, x)[0].to_doubles();
    const auto got = compile(graph.clone(), {.threads = 2}).run(x)[0].to_doubles();
    const double last = half == DType::f16 ? 0x1p-10 : 0x1p-7;  // of a number near 1
    size_t moved = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      const double off = 182 * FLT_EPSILON / 2 * magnitude[i] * (1 + 4 * last);
      EXPECT_LE(std::abs(got[i] - want[i]), off + last * (std::abs(want[i]) + off));
      moved += got[i] != want[i];
    }
    EXPECT_LE(moved, want.size() / 50);  // ties are rare: it is the same rounding
  }
}

}  // namespace
}  // namespace octavo
