#include "runtime/program.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>

#include "backends/reference/interpreter.h"
#include "codegen/compile.h"
#include "codegen/memory.h"
#include "graph/text.h"
#include "support/allocations.h"
#include "support/buffer_bytes.h"
#include "support/error.h"
#include "support/float_mode.h"

namespace octavo {
namespace {

Tensor noise(Dims dims, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<float> normal;
  Tensor x(DType::f32, std::move(dims));
  for (float& v : x.mutable_values<float>()) v = normal(generator);
  return x;
}

constexpr const char* network = R"(graph "g" canonical {
  input %x : f32[N, 3, 16, 16]
  const %w : f32[8, 3, 3, 3] = random(1, -1, 1)
  const %v : f32[8, 8, 1, 1] = random(2, -1, 1)
  const %k : f32[10, 8] = random(3, -1, 1)
  %a = conv(%x, %w) {pads = [1, 1, 1, 1], strides = [2, 2]}
  %r = relu(%a)
  %c = conv(%r, %v)
  %s = add(%c, %r)
  %p = reduce_mean(%s) {axes = [2, 3], keepdims = 1}
  %f = reshape(%p) {shape = [0, -1]}
  %y = gemm(%f, %k) {trans_b = 1}
  return %y
})";

TEST(Program, ServesEveryBatchSizeAsTheInterpreterDoes) {
  const Graph graph = parse_graph(network);
  Program program = compile(graph.clone(), {.threads = 2});
  for (int64_t batch : {1, 3, 1, 20, 2}) {
    const Tensor x = noise({batch, 3, 16, 16}, static_cast<uint64_t>(batch));
    const Tensor y = program.run(std::vector<Tensor>{x}).at(0),
                 want = interpret(graph, std::vector<Tensor>{x}).at(0);
    ASSERT_EQ(y.dims(), want.dims());
    for (size_t i = 0; i < y.values<float>().size(); ++i)
      EXPECT_NEAR(y.values<float>()[i], want.values<float>()[i],
                  1e-4);  // sums of at most 64 products near 1
  }
}

TEST(Program, ResultsDoNotDependOnThreads) {
  const Graph graph = parse_graph(network);
  const std::vector<Tensor> x{noise({2, 3, 16, 16}, 5)};
  const Tensor want = compile(graph.clone(), {.threads = 1}).run(x).at(0);
  for (int threads : {2, 3, 5})
    EXPECT_TRUE(compile(graph.clone(), {.threads = threads}).run(x).at(0) == want) << threads;
}

TEST(Program, ASteadyFloatCallAllocatesNothing) {
  Program program = compile(parse_graph(network), {.threads = 2});
  const Tensor x = noise({2, 3, 16, 16}, 5);
  const auto plan = program.plan({x.dims()});
  for (const Step& step : plan->steps) EXPECT_STRNE(step.kernel->name(), "reference") << step.op;
  Tensor y(DType::f32, {2, 10});
  const void* in = x.data();
  void* out = y.mutable_data();
  program.run(*plan, {&in, 1}, {&out, 1});
  const int64_t before = allocations();
  for (int i = 0; i < 3; ++i) program.run(*plan, {&in, 1}, {&out, 1});
  EXPECT_EQ(allocations(), before);
  EXPECT_TRUE(y == program.run(std::vector<Tensor>{x}).at(0));
}

// Bytes of tensors that are left when a graph has become a program, workspaces aside.
int64_t bytes_held_by(const std::string& text, const Dims& input) {
  const int64_t before = buffer_bytes();
  Program program = compile(parse_graph(text), {.threads = 1});
  program.plan({input});
  return buffer_bytes() - before;
}

TEST(Program, HoldsNoConstantBesideItsPackedForm) {
  const auto text = [](std::string_view batch, std::string_view weights) {
    return fmt::format(
        "graph \"g\" quantized {{\n  input %x : f32[{}, 512]\n{}  %y = matmul(%x, %w)\n"
        "  return %y\n}}\n",
        batch, weights);
  };
  const std::string floats = "  const %w : f32[512, 1024] = random(1, -1, 1)\n", integers = R"(
  const %q : i8[512, 1024] = random(1, -127, 127)
  const %s : f32[] = 0.01
  %w = dequantize(%q, %s)
)";
  constexpr int64_t elements = 512 * 1024, kilobytes = 64 * 1024;  // scales, biases
  // What shapes are known has one plan and no graph: the packed weights alone.
  EXPECT_LT(bytes_held_by(text("8", floats), {8, 512}), 4 * elements + kilobytes);
  EXPECT_GE(bytes_held_by(text("8", floats), {8, 512}), 4 * elements);
  EXPECT_LT(bytes_held_by(text("8", integers), {8, 512}), elements + kilobytes);
  EXPECT_GE(bytes_held_by(text("8", integers), {8, 512}), elements);
  // Other shapes may come: the graph's constants, and each plan's packed weights.
  EXPECT_LT(bytes_held_by(text("N", floats), {8, 512}), 2 * 4 * elements + kilobytes);
  EXPECT_LT(bytes_held_by(text("N", integers), {8, 512}), 2 * elements + kilobytes);
}

TEST(Program, PlansForOtherSizesShareThePackedWeights) {
  Program program = compile(parse_graph(R"(graph "g" canonical {
  input %x : f32[N, 64, 4, 4]
  const %w : f32[256, 64, 3, 3] = random(1, -1, 1)
  const %s : f32[256] = random(2, 1, 2)
  const %z : f32[256] = random(3, -1, 1)
  %c = conv(%x, %w) {pads = [1, 1, 1, 1]}
  %y = batch_norm(%c, %s, %z, %z, %s)
  return %y
})"),
                            {.threads = 2});
  constexpr int64_t weights = 256 * 64 * 9 * 4;
  const auto held_by = [&](int64_t batch) {
    const int64_t before = buffer_bytes();
    program.plan({{batch, 64, 4, 4}});
    return buffer_bytes() - before;
  };
  EXPECT_GE(held_by(1), weights);
  EXPECT_LT(held_by(2), weights / 16);
  EXPECT_LT(held_by(7), weights / 16);
  const std::vector<Tensor> x{noise({2, 64, 4, 4}, 5)};
  EXPECT_EQ(program.run(x).at(0).dims(), (Dims{2, 256, 4, 4}));
}

// Weights [K, N] are packed as they lie.
TEST(Program, ProductsOfEverySizeAgreeWithTheInterpreter) {
  for (const auto& [k, n] : {std::pair{1, 1}, {3, 2}, {37, 70}, {64, 16}, {1000, 33}, {129, 250}}) {
    const Graph graph = parse_graph(fmt::format(R"(graph "g" canonical {{
  input %x : f32[N, 2, {0}]
  const %w : f32[{0}, {1}] = random(1, -1, 1)
  const %b : f32[{1}] = random(2, -1, 1)
  %m = matmul(%x, %w)
  %y = add(%m, %b)
  return %y
}})",
                                                k, n));
    Program program = compile(graph.clone(), {.threads = 2});
    for (const int64_t batch : {1, 2, 9}) {
      const std::vector<Tensor> x{noise({batch, 2, k}, static_cast<uint64_t>(batch))};
      const Tensor y = program.run(x).at(0), want = interpret(graph, x).at(0);
      ASSERT_EQ(y.dims(), want.dims());
      for (size_t i = 0; i < y.values<float>().size(); ++i)
        ASSERT_NEAR(y.values<float>()[i], want.values<float>()[i], 1e-6 * k + 1e-6)
            << k << " " << n;
    }
  }
}

TEST(Program, AReferenceKernelHoldsWhatItReads) {
  Program program = compile(parse_graph(R"(graph "g" canonical {
    input %x : f64[2]
    const %c : f64[2] = [5, 6]
    %y = mul(%x, %c)
    return %y
  })"));
  const auto plan = program.plan({{2}});
  EXPECT_STREQ(plan->steps.at(0).kernel->name(), "reference");
  EXPECT_EQ(program.run(std::vector<Tensor>{Tensor::from(Dims{2}, std::vector<double>{-1, 2})})
                .at(0)
                .to_doubles(),
            (std::vector<double>{-5, 12}));
}

TEST(Program, ManyThreadsMayCallOneProgram) {
  const Graph graph = parse_graph(network);
  Program program = compile(graph.clone(), {.threads = 2});
  std::vector<std::thread> callers;
  for (uint64_t t = 0; t < 4; ++t)
    callers.emplace_back([&, t] {
      const std::vector<Tensor> x{noise({static_cast<int64_t>(1 + t % 2), 3, 16, 16}, t)};
      const Tensor first = program.run(x).at(0);
      for (int i = 0; i < 50; ++i) EXPECT_TRUE(program.run(x).at(0) == first);
    });
  for (std::thread& caller : callers) caller.join();
}

TEST(Program, NamesTheInputThatDoesNotFit) {
  Program program = compile(parse_graph(network));
  const auto message = [&](std::vector<Tensor> inputs) -> std::string {
    try {
      program.run(inputs);
    } catch (const UserError& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_EQ(message({}), "program: takes 1 inputs, not 0; octavo inspect lists the inputs");
  EXPECT_EQ(message({noise({1, 4, 16, 16}, 1)}),
            "input 'x': expected shape [N, 3, 16, 16], got [1, 4, 16, 16]; octavo inspect lists "
            "the inputs");
  EXPECT_EQ(
      message({noise({3, 16, 16}, 1)}),
      "input 'x': expected shape [N, 3, 16, 16], got [3, 16, 16]; octavo inspect lists the inputs");
  EXPECT_EQ(message({Tensor(DType::f64, {1, 3, 16, 16})}),
            "input 'x': expected f32[N, 3, 16, 16], got f64[1, 3, 16, 16]; octavo inspect lists "
            "the inputs");
}

TEST(Program, OutputsMayBeInputsConstantsAndDuplicates) {
  Program program = compile(parse_graph(R"(graph "g" canonical {
    input %x : f32[2]
    const %c : f32[2] = [5, 6]
    %y = relu(%x)
    %z = reshape(%y) {shape = [2, 1]}
    return %x, %c, %y, %y, %z
  })"));
  const auto out =
      program.run(std::vector<Tensor>{Tensor::from(Dims{2}, std::vector<float>{-1, 2})});
  const auto values = [&](size_t i) { return out[i].to_doubles(); };
  EXPECT_EQ(values(0), (std::vector<double>{-1, 2}));
  EXPECT_EQ(values(1), (std::vector<double>{5, 6}));
  EXPECT_EQ(values(2), (std::vector<double>{0, 2}));
  EXPECT_EQ(values(3), (std::vector<double>{0, 2}));
  EXPECT_EQ(values(4), (std::vector<double>{0, 2}));
  EXPECT_EQ(out[4].dims(), (Dims{2, 1}));
}

TEST(MemoryPlan, NeverOverlapsWhatLivesTogether) {
  const auto seed = static_cast<uint64_t>(std::random_device{}());
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937_64 generator(seed);
  for (int round = 0; round < 200; ++round) {
    std::vector<MemoryBlock> blocks(1 + generator() % 40);
    for (MemoryBlock& b : blocks) {
      b.bytes = generator() % 5000;
      b.first = static_cast<int>(generator() % 30);
      b.last = b.first + static_cast<int>(generator() % 8);
    }
    const MemoryPlan plan = plan_memory(blocks);
    EXPECT_GE(plan.bytes, plan.least);
    for (size_t i = 0; i < blocks.size(); ++i) {
      EXPECT_EQ(blocks[i].offset % 64, 0u);
      EXPECT_LE(blocks[i].offset + blocks[i].bytes, plan.bytes);
      for (size_t k = i + 1; k < blocks.size(); ++k) {
        const MemoryBlock &a = blocks[i], &b = blocks[k];
        const bool together = a.first <= b.last && b.first <= a.last;
        const bool overlap = a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes;
        EXPECT_FALSE(together && overlap && a.bytes && b.bytes);
      }
    }
  }
}

// 2^-130 times a half, in as many elements as several threads share.
TEST(Program, DenormalNumbersAreZeroUnlessTheyAreKept) {
  const Graph graph = parse_graph(R"(graph "g" canonical {
  input %x : f32[300000]
  const %h : f32[1] = [0.5]
  const %z : f32[1] = [0]
  %y = mul(%x, %h)
  %p = greater(%x, %z)
  return %y, %p
})");
  const unsigned before = _mm_getcsr() & FloatMode::control;
  Tensor x(DType::f32, {300000});
  std::fill_n(x.mutable_values<float>().begin(), 300000, 0x1p-130f);
  for (const bool keep : {false, true}) {
    Program program = compile(graph.clone(), {.threads = 2, .keep_denormals = keep});
    const std::vector<Tensor> out = program.run(std::vector<Tensor>{x});
    for (const float y : out[0].values<float>()) ASSERT_EQ(y, keep ? 0x1p-131f : 0.0f);
    for (const bool p : out[1].values<bool>()) ASSERT_TRUE(p);
    EXPECT_EQ(_mm_getcsr() & FloatMode::control, before);
  }
}

}  // namespace
}  // namespace octavo
