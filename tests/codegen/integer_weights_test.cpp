// Float products and gathers whose weights are integers of 8 or 4 bits: the program gives, bit for
// bit, what it gives for the same weights as floats (whose kernels have bounds of their own), on
// every instruction set, for any number of threads, and a call allocates nothing.
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <random>

#include "backends/reference/interpreter.h"
#include "codegen/compile.h"
#include "ops/packed.h"
#include "passes/passes.h"
#include "support/allocations.h"
#include "support/cpu.h"
#include "support/error.h"

namespace octavo {
namespace {

struct Weights {
  Dims dims;
  int64_t axis;
  int64_t group;  // 0: one scale for each index of the axis; -1: one scale
  int bits;
  bool is_signed, zeros;
};

class IntegerWeights : public ::testing::Test {
 protected:
  void SetUp() override {
    seed_ = std::random_device{}();
    random_.seed(seed_);
    SCOPED_TRACE(seed_);
  }
  void TearDown() override { set_isa_limit(hardware_isa()); }

  int64_t pick(int64_t least, int64_t most) {
    return std::uniform_int_distribution(least, most)(random_);
  }
  Tensor floats(const Dims& dims, float least = -1, float most = 1) {
    Tensor t(DType::f32, dims);
    for (float& v : t.mutable_values<float>())
      v = std::uniform_real_distribution(least, most)(random_);
    return t;
  }
  Tensor integers(const Dims& dims, int bits, bool is_signed) {
    Tensor t(is_signed ? DType::i8 : DType::u8, dims);
    const int64_t levels = int64_t{1} << bits, least = is_signed ? -levels / 2 : 0;
    for (int64_t i = 0; i < t.size(); ++i)
      t.mutable_data()[i] =
          static_cast<std::byte>(static_cast<uint8_t>(pick(least, least + levels - 1)));
    return t;
  }

  // dequantize(...) of random weights.
  Value* dequantized(Graph& graph, const Weights& w) {
    Dims parameters;
    if (w.group == 0) parameters = {w.dims[static_cast<size_t>(w.axis)]};
    if (w.group > 0) {
      parameters = w.dims;
      int64_t& along = parameters[static_cast<size_t>(w.axis)];
      along = (along + w.group - 1) / w.group;
    }
    Tensor q = integers(w.dims, w.bits, w.is_signed);
    Attributes a{{"axis", w.axis}, {"group_size", std::max<int64_t>(w.group, 0)}};
    if (w.bits == 4) {
      a["packed"] = std::string(w.is_signed ? "i4" : "u4");
      if (w.dims.back() % 2) a["columns"] = w.dims.back();
      q = pack_nibbles(q, "test");
    }
    return graph.apply(
        "dequantize",
        {graph.add_constant("q", q), graph.add_constant("s", floats(parameters, 0.001f, 0.02f)),
         w.zeros ? graph.add_constant("z", integers(parameters, w.bits, w.is_signed)) : nullptr},
        a);
  }

  // The same graph with the dequantized weights as constants.
  static Graph with_float_weights(const Graph& graph) {
    Graph copy = graph.clone();
    copy.for_each([&](Node& node) {
      if (!node.is("dequantize")) return;
      std::vector<const Tensor*> inputs;
      for (const Value* v : node.inputs()) inputs.push_back(v ? &v->constant() : nullptr);
      copy.replace_all_uses(node.output(), copy.add_constant("", interpret_node(node, inputs)[0]));
    });
    copy.remove_dead();
    copy.stage = Stage::canonical;
    return copy;
  }

  // Compares the two, and checks the kernel that ran.
  void expect_equal(const Graph& graph, const std::vector<Tensor>& inputs,
                    const std::string& kernel) {
    SCOPED_TRACE(fmt::format("seed {}", seed_));
    const Graph floats = with_float_weights(graph);
    for (const Isa isa : {Isa::portable, Isa::avx2, Isa::avx512}) {
      if (isa > hardware_isa()) continue;
      set_isa_limit(isa);
      const std::vector<Tensor> expected = compile(floats.clone(), {.threads = 1}).run(inputs);
      for (const int threads : {1, 3}) {
        Program program = compile(graph.clone(), {.threads = threads});
        EXPECT_EQ(program.run(inputs), expected) << isa_name(isa) << ", " << threads << " threads";
        std::vector<Dims> dims;
        for (const Tensor& x : inputs) dims.push_back(x.dims());
        const auto plan = program.plan(dims);
        bool found = false;
        for (const Step& step : plan->steps)
          found = found || step.kernel->name() == kernel + isa_name(isa) ||
                  step.kernel->name() == kernel;
        EXPECT_TRUE(found) << kernel << isa_name(isa);
        std::vector<const void*> in;
        for (const Tensor& x : inputs) in.push_back(x.data());
        std::vector<Tensor> outputs;
        std::vector<void*> out;
        for (const Tensor& y : expected) outputs.emplace_back(y.dtype(), y.dims());
        for (Tensor& y : outputs) out.push_back(y.mutable_data());
        program.run(*plan, in, out);
        const int64_t before = allocations();
        program.run(*plan, in, out);
        EXPECT_EQ(allocations(), before);
      }
    }
  }

  uint64_t seed_ = 0;
  std::mt19937_64 random_;
};

TEST_F(IntegerWeights, MatrixProductsAreThoseOfTheirFloats) {
  struct Sizes {
    int64_t m, k, n;
  };
  const Sizes sizes[] = {{1, 64, 64},   {1, 1, 1},    {3, 33, 17},    {4, 127, 70}, {8, 1025, 130},
                         {9, 1600, 96}, {40, 200, 5}, {110, 777, 49}, {0, 16, 16}};
  for (const Sizes& s : sizes)
    for (const int bits : {8, 4})
      for (const int64_t group :
           {int64_t{0}, int64_t{-1}, int64_t{16}, int64_t{33}, int64_t{128}}) {
        Graph graph;
        graph.stage = Stage::quantized;
        const bool gemm = pick(0, 1);
        const bool trans = gemm && pick(0, 1);
        Value* x = graph.add_input("x", {DType::f32, Shape(Dims{s.m, s.k})});
        const int64_t out_axis = trans ? 0 : 1;
        Weights w{trans ? Dims{s.n, s.k} : Dims{s.k, s.n},
                  group > 0 ? 1 - out_axis : out_axis,
                  group,
                  bits,
                  pick(0, 1) != 0,
                  pick(0, 1) != 0};
        Value* y =
            gemm ? graph.apply("gemm",
                               {x, dequantized(graph, w), graph.add_constant("b", floats({s.n}))},
                               {{"trans_b", int64_t{trans}}})
                 : graph.apply("matmul", {x, dequantized(graph, w)});
        if (pick(0, 1)) y = graph.apply("add", {y, graph.add_input("r", y->type())});
        if (pick(0, 1)) y = graph.apply("relu", {y});
        graph.add_output(y);
        std::vector<Tensor> inputs{floats({s.m, s.k})};
        if (graph.inputs().size() > 1) inputs.push_back(floats({s.m, s.n}));
        SCOPED_TRACE(fmt::format("{} x {} x {}, {} bits, group {}", s.m, s.k, s.n, bits, group));
        expect_equal(graph, inputs, "packed_gemm_f32_");
      }
}

TEST_F(IntegerWeights, AgreeWithFloat64) {
  Graph graph;
  graph.stage = Stage::quantized;
  Value* x = graph.add_input("x", {DType::f32, Shape(Dims{5, 300})});
  Value* w = dequantized(graph, {{300, 37}, 0, 32, 4, true, true});
  graph.add_output(graph.apply("matmul", {x, w}));
  const std::vector<Tensor> inputs{floats({5, 300})};
  const Tensor floats = with_float_weights(graph).constants()[0]->constant();
  const Tensor y = compile(graph.clone()).run(inputs)[0];
  for (size_t m = 0; m < 5; ++m)
    for (size_t n = 0; n < 37; ++n) {
      double sum = 0, magnitude = 0;
      for (size_t k = 0; k < 300; ++k) {
        const double p = static_cast<double>(inputs[0].values<float>()[m * 300 + k]) *
                         floats.values<float>()[k * 37 + n];
        sum += p;
        magnitude += std::abs(p);
      }
      // A product and an addition are two roundings each, eps / 2 of what they give; the epilogue
      // has two more.
      EXPECT_NEAR(y.values<float>()[m * 37 + n], sum, 303 * FLT_EPSILON / 2 * 1.001 * magnitude);
    }
}

TEST_F(IntegerWeights, ConvolutionsAreThoseOfTheirFloats) {
  for (const int bits : {8, 4})
    for (const int64_t channels : {3, 40, 300}) {
      Graph graph;
      graph.stage = Stage::quantized;
      Value* x = graph.add_input("x", {DType::f32, Shape(Dims{1, channels, 9, 7})});
      Value* w = dequantized(graph, {{21, channels, 3, 3}, 0, 0, bits, true, pick(0, 1) != 0});
      graph.add_output(graph.apply("conv", {x, w}, {{"pads", Ints{1, 1, 1, 1}}}));
      expect_equal(graph, {floats({1, channels, 9, 7})}, "packed_gemm_f32_");
    }
}

TEST_F(IntegerWeights, GatherDequantizesWhatItReads) {
  for (const int bits : {8, 4})
    for (const int64_t group : {int64_t{0}, int64_t{-1}, int64_t{16}})
      for (const int64_t columns : {32, 37}) {
        Graph graph;
        graph.stage = Stage::quantized;
        Value* i = graph.add_input("i", {DType::i64, Shape(Dims{2, 3})});
        const Weights w{{50, columns}, group > 0 ? 1 : 0, group,
                        bits,          pick(0, 1) != 0,   pick(0, 1) != 0};
        graph.add_output(graph.apply("gather", {dequantized(graph, w), i}, {{"axis", int64_t{0}}}));
        const Tensor indices = Tensor::from(Dims{2, 3}, std::vector<int64_t>{0, 49, -1, -50, 7, 7});
        expect_equal(graph, {indices}, "gather_integers_portable");
        EXPECT_EQ(interpret(lowered(graph, {{2, 3}}), std::vector<Tensor>{indices}),
                  compile(graph.clone()).run(std::vector<Tensor>{indices}));
        EXPECT_THROW(compile(graph.clone())
                         .run(std::vector<Tensor>{
                             Tensor::from(Dims{2, 3}, std::vector<int64_t>{0, 0, 0, 0, 0, 50})}),
                     UserError);
      }
}

TEST_F(IntegerWeights, FuseGatherTakesRowsOnly) {
  const auto ops_after = [&](int64_t axis, int64_t scale_axis) {
    Graph graph;
    graph.stage = Stage::quantized;
    Value* i = graph.add_input("i", {DType::i64, Shape(Dims{2})});
    const Weights w{{5, 5}, scale_axis, 0, 8, true, false};
    graph.add_output(graph.apply("gather", {dequantized(graph, w), i}, {{"axis", axis}}));
    fuse_gather(graph);
    graph.remove_dead();
    std::vector<std::string> names;
    graph.for_each([&](Node& node) { names.emplace_back(node.op_name()); });
    return names;
  };
  EXPECT_EQ(ops_after(0, 0), (std::vector<std::string>{"fused_gather"}));
  EXPECT_EQ(ops_after(1, 0), (std::vector<std::string>{"dequantize", "gather"}));
  EXPECT_EQ(ops_after(0, 1), (std::vector<std::string>{"dequantize", "gather"}));
}

TEST_F(IntegerWeights, StayWhatTheyAreWhereNoKernelTakesThem) {
  // One scale for each row of [K, N] is one for each input: dequantized at compile time.
  Graph graph;
  graph.stage = Stage::quantized;
  Value* x = graph.add_input("x", {DType::f32, Shape(Dims{2, 8})});
  graph.add_output(graph.apply("matmul", {x, dequantized(graph, {{8, 6}, 0, 0, 4, true, true})}));
  const std::vector<Tensor> inputs{floats({2, 8})};
  EXPECT_EQ(compile(graph.clone()).run(inputs), compile(with_float_weights(graph)).run(inputs));
}

TEST_F(IntegerWeights, PackedNibblesComeBack) {
  for (const bool is_signed : {true, false})
    for (const Dims& dims : {Dims{3, 4}, Dims{3, 5}, Dims{1}, Dims{2, 0}}) {
      const Tensor q = integers(dims, 4, is_signed);
      EXPECT_EQ(unpack_nibbles(pack_nibbles(q, "test"), dims, q.dtype()), q);
    }
  EXPECT_THROW(pack_nibbles(Tensor::from(Dims{1}, std::vector<int8_t>{8}), "test"), UserError);
  EXPECT_THROW(pack_nibbles(Tensor::from(Dims{1}, std::vector<int8_t>{-9}), "test"), UserError);
  EXPECT_THROW(pack_nibbles(Tensor::from(Dims{1}, std::vector<uint8_t>{16}), "test"), UserError);
}

}  // namespace
}  // namespace octavo
