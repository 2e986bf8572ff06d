// Random quantized convolutional networks: the program gives the reference interpreter's answer of
// the lowered graph bit for bit, on every instruction set, for any number of threads, and a call
// allocates nothing.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <random>
#include <thread>

#include "backends/reference/interpreter.h"
#include "codegen/compile.h"
#include "graph/text.h"
#include "support/allocations.h"
#include "support/cpu.h"

namespace octavo {
namespace {

class RandomNetwork {
 public:
  explicit RandomNetwork(uint64_t seed) : random_(seed) {}

  Graph make() {
    g_.name = "random";
    g_.stage = Stage::quantized;
    Value* x = g_.add_input("x", {DType::f32, {pick(1, 3), pick(1, 9), pick(5, 20), pick(5, 20)}});
    values_.push_back(requantized(x, 1.0 / 40));
    for (int64_t i = pick(4, 10); i > 0; --i) layer();
    Value* last = values_.back().value;
    if (pick(0, 1)) {
      last = requantized(
                 g_.apply("reduce_mean", {last}, {{"axes", Ints{2, 3}}, {"keepdims", int64_t{1}}}),
                 values_.back().scale)
                 .value;
      const Shape& s = last->shape();
      last = requantized(g_.apply("reshape", {last}, {{"shape", Ints{s[0].value(), s[1].value()}}}),
                         values_.back().scale)
                 .value;
      const int64_t out = pick(1, 40);
      last = g_.apply("gemm", {last, weights({out, s[1].value()}), bias(out)},
                      {{"trans_b", int64_t{1}}});
      if (pick(0, 1)) last = requantized(last, 0.05).value;
    }
    g_.add_output(last);
    g_.add_output(
        values_[static_cast<size_t>(pick(0, static_cast<int64_t>(values_.size()) - 1))].value);
    return std::move(g_);
  }

 private:
  struct Activation {
    Value* value;  // dequantized
    double scale;
  };

  int64_t pick(int64_t least, int64_t most) {
    return std::uniform_int_distribution(least, most)(random_);
  }
  double real(double least, double most) {
    return std::uniform_real_distribution(least, most)(random_);
  }
  Value* number(double v) { return g_.add_constant("", Tensor::scalar(static_cast<float>(v))); }

  Activation requantized(Value* x, double scale) {
    EXPECT_GT(element_count(x->shape().dims()), 0) << "an empty tensor runs on no kernel";
    const bool u8 = pick(0, 1);
    scale = static_cast<float>(scale * real(0.7, 1.4));
    Value* s = number(scale);
    Value* z = g_.add_constant("", u8 ? Tensor::scalar(static_cast<uint8_t>(pick(60, 200)))
                                      : Tensor::scalar(static_cast<int8_t>(pick(-60, 60))));
    Value* q = g_.apply("quantize", {x, s, z});
    return {g_.apply("dequantize", {q, s, z}), scale};
  }

  Value* weights(Dims dims, int64_t axis = 0) {
    Tensor w(DType::i8, dims);
    for (int8_t& v : w.mutable_values<int8_t>()) v = static_cast<int8_t>(pick(-127, 127));
    const bool each = pick(0, 3) > 0;
    Tensor s(DType::f32, each ? Dims{dims[static_cast<size_t>(axis)]} : Dims{});
    for (float& v : s.mutable_values<float>()) v = static_cast<float>(real(0.004, 0.012));
    return g_.apply("dequantize",
                    {g_.add_constant("", std::move(w)), g_.add_constant("", std::move(s))},
                    {{"axis", axis}});
  }
  Value* bias(int64_t channels) {
    Tensor b(DType::f32, {channels});
    for (float& v : b.mutable_values<float>()) v = static_cast<float>(real(-1, 1));
    return g_.add_constant("", std::move(b));
  }

  Value* activated(Value* x) {
    switch (pick(0, 5)) {
      case 0:
        return g_.apply("relu", {x});
      case 1:
        return g_.apply("clip", {x}, {{"min", -0.5}, {"max", 3.0}});
      case 2:
        return g_.apply("leaky_relu", {x}, {{"alpha", 0.1}});
      case 3: {
        // A table: through integers first, as quantizers place it.
        const Activation a = requantized(x, 0.03);
        return g_.apply(pick(0, 1) ? "silu" : "hard_swish", {a.value});
      }
      default:
        return x;
    }
  }

  void layer() {
    const Activation x = values_[static_cast<size_t>(
        std::max<int64_t>(0, static_cast<int64_t>(values_.size()) - pick(1, 3)))];
    const Dims d = x.value->shape().dims();
    switch (pick(0, 10)) {
      case 0: {  // pooling
        const bool max = pick(0, 1);
        Attributes a{{"kernel", Ints{pick(1, 3), pick(1, 3)}},
                     {"strides", Ints{pick(1, 2), pick(1, 2)}},
                     {"pads", Ints{0, 0, 0, 0}}};
        if (!max) a["count_include_pad"] = pick(0, 1);
        if (d[2] < 3 || d[3] < 3) return;
        values_.push_back(
            requantized(g_.apply(max ? "max_pool" : "avg_pool", {x.value}, std::move(a)), x.scale));
        return;
      }
      case 1:  // sum or product of two of one shape
        for (const Activation& other : values_)
          if (other.value->shape() == x.value->shape()) {
            const bool add = pick(0, 1);
            values_.push_back(
                requantized(activated(g_.apply(add ? "add" : "mul", {x.value, other.value})),
                            add ? x.scale + other.scale : 60 * x.scale * other.scale));
            return;
          }
        return;
      case 2:
        for (const Activation& other : values_) {
          const Dims o = other.value->shape().dims();
          if (o[2] == d[2] && o[3] == d[3] && o[1] + d[1] < 120) {
            values_.push_back(
                requantized(g_.apply("concat", {x.value, other.value}, {{"axis", int64_t{1}}}),
                            std::max(x.scale, other.scale)));
            return;
          }
        }
        return;
      case 3:
        return movement(x, d);
      case 4: {  // transposed convolution
        if (d[2] > 12 || d[3] > 12) return;
        const int64_t out = pick(1, 20), k = pick(1, 4), step = pick(1, 3), pad = pick(0, k / 2);
        if ((std::min(d[2], d[3]) - 1) * step + k <= 2 * pad) return;  // nothing is left
        Value* y =
            g_.apply("conv_transpose",
                     {x.value, weights({d[1], out, k, k}, 1), pick(0, 1) ? bias(out) : nullptr},
                     {{"strides", Ints{step, step}}, {"pads", Ints{pad, pad, pad, pad}}});
        const double fan = static_cast<double>(d[1] * k * k) / static_cast<double>(step * step);
        values_.push_back(requantized(activated(y), 0.6 * x.scale * std::sqrt(fan) + 0.002));
        return;
      }
      default:
        convolution(x, d);
    }
  }

  // What moves bytes, or mixes them by weights that floats hold exactly.
  void movement(const Activation& x, const Dims& d) {
    Value* y = x.value;
    switch (pick(0, 3)) {
      case 0:
        y = g_.apply("pad", {y},
                     {{"pads", Ints{0, 0, pick(0, 2), 1, 0, 0, 1, pick(0, 2)}},
                      {"mode", std::string(pick(0, 1) ? "constant" : "reflect")}});
        break;
      case 1:
        if (d[2] > 12 || d[3] > 12) return;
        y = g_.apply("resize", {y},
                     {{"scales", std::vector<double>{1, 1, 2, 2}},
                      {"mode", std::string(pick(0, 1) ? "nearest" : "linear")}});
        break;
      case 2:
        if (d[2] < 2) return;
        y = g_.apply("slice", {y},
                     {{"starts", Ints{d[1] / 3, 1}},
                      {"ends", Ints{d[1], d[2]}},
                      {"axes", Ints{1, 2}},
                      {"steps", Ints{1, 1}}});
        break;
      default:
        if (d[1] % 4 != 0 || d[2] > 12 || d[3] > 12) return;
        y = g_.apply("depth_to_space", {y},
                     {{"block", int64_t{2}}, {"mode", std::string(pick(0, 1) ? "dcr" : "crd")}});
    }
    values_.push_back(requantized(y, x.scale));
  }

  void convolution(const Activation& x, const Dims& d) {
    int64_t group = 1, out = pick(1, 70);
    const int64_t form = pick(0, 3);
    if (form == 0) group = d[1], out = d[1] * pick(1, 2);
    if (form == 1 && d[1] % 2 == 0) group = 2, out = 2 * pick(1, 20);
    const bool keeps = pick(0, 2) == 0;  // the shape, for a residual
    if (keeps) out = group == d[1] || d[1] % group == 0 ? d[1] : out;
    const int64_t kh = keeps ? 3 : pick(1, 5), kw = keeps ? 3 : form == 2 ? kh : pick(1, 3);
    const int64_t step = keeps ? 1 : pick(1, 2), dilation = keeps ? 1 : pick(0, 4) ? 1 : 2;
    Ints pads{pick(0, 2), pick(0, 2), pick(0, 2), pick(0, 2)};
    if (keeps) pads = {1, 1, 1, 1};
    if (d[2] + pads[0] + pads[2] < (kh - 1) * dilation + 1 ||
        d[3] + pads[1] + pads[3] < (kw - 1) * dilation + 1)
      return;
    const int64_t fan = d[1] / group * kh * kw;
    Value* y = g_.apply(
        "conv", {x.value, weights({out, d[1] / group, kh, kw}), pick(0, 3) ? bias(out) : nullptr},
        {{"strides", Ints{step, step}},
         {"pads", pads},
         {"dilations", Ints{dilation, dilation}},
         {"group", group}});
    double scale = 0.6 * x.scale * std::sqrt(static_cast<double>(fan)) + 0.002;
    if (keeps && y->shape() == x.value->shape()) {
      y = g_.apply("add", {y, x.value});
      scale += x.scale;
    }
    values_.push_back(requantized(activated(y), scale));
  }

  std::mt19937_64 random_;
  Graph g_;
  std::vector<Activation> values_;
};

TEST(Int8Network, EqualsTheReferenceBitForBit) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937_64 seeds(seed);
  size_t varied = 0, count = 0;
  for (int round = 0; round < 60; ++round) {
    const uint64_t one = seeds();
    const Graph graph = RandomNetwork(one).make();
    SCOPED_TRACE(fmt::format("network {}", one));
    Tensor x(DType::f32, graph.inputs()[0]->shape().dims());
    std::normal_distribution<float> normal(0, 1.5f);
    for (float& v : x.mutable_values<float>()) v = normal(seeds);
    Graph canonical = graph.clone();
    const Graph low = lowered(canonical, {x.dims()});
    const auto want = interpret(low, std::vector{x});
    const auto values = want[0].to_doubles();
    count += values.size() > 1;
    varied += std::any_of(values.begin(), values.end(), [&](double v) { return v != values[0]; });
    for (const Isa isa : {Isa::portable, Isa::avx2, Isa::avx512, Isa::vnni}) {
      if (isa > hardware_isa()) break;
      set_isa_limit(isa);
      for (const int threads : {1, 2, 3}) {
        Program program = compile(graph.clone(), {.threads = threads});
        const auto got = program.run(std::vector{x});
        for (size_t i = 0; i < want.size(); ++i)
          ASSERT_TRUE(got[i] == want[i])
              << "output " << i << ", " << isa_name(isa) << ", " << threads << " threads\n"
              << print_graph(low);
        const auto plan = program.plan({x.dims()});
        for (const Step& step : plan->steps)
          ASSERT_STRNE(step.kernel->name(), "reference") << step.op << " " << step.node;
        std::vector<Tensor> out;
        std::vector<void*> pointers;
        for (const TensorType& type : plan->output_types) {
          out.emplace_back(type.dtype, type.shape.dims());
          pointers.push_back(out.back().mutable_data());
        }
        const void* in = x.data();
        const int64_t before = allocations();
        program.run(*plan, {&in, 1}, pointers);
        ASSERT_EQ(allocations(), before);
        for (size_t i = 0; i < want.size(); ++i) ASSERT_TRUE(out[i] == want[i]);
      }
    }
    set_isa_limit(hardware_isa());
  }
  // The test is worth something only while most outputs are not all one number.
  EXPECT_GE(varied * 4, count * 3);
}

TEST(Int8Network, ProgramsOfManyCallersShareThePools) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(fmt::format("seed {}", seed));
  struct Job {
    std::unique_ptr<Program> program;
    std::vector<Tensor> inputs, want;
  };
  std::vector<Job> jobs;
  for (uint64_t i = 0; i < 6; ++i) {
    const Graph graph = RandomNetwork(seed + i).make();
    Tensor x(DType::f32, graph.inputs()[0]->shape().dims());
    std::mt19937_64 random(seed + i);
    std::normal_distribution<float> normal;
    for (float& v : x.mutable_values<float>()) v = normal(random);
    const Graph low = lowered(graph, {x.dims()});
    auto want = interpret(low, std::vector{x});
    // Three pools for six programs.
    auto program =
        std::make_unique<Program>(compile(graph.clone(), {.threads = 1 + static_cast<int>(i % 3)}));
    jobs.push_back({std::move(program), {x}, std::move(want)});
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (size_t t = 0; t < 4; ++t)
    callers.emplace_back([&, t] {
      for (size_t i = 0; i < 40; ++i) {
        const Job& job = jobs[(t + i) % jobs.size()];
        wrong += job.program->run(job.inputs) != job.want;
      }
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong.load(), 0);
}

}  // namespace
}  // namespace octavo
