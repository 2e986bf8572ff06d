// What the selectors choose for each op, wired as the reference kernel computes it.
#include "codegen/select.h"

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <random>
#include <set>

#include "backends/reference/interpreter.h"
#include "codegen/compile.h"
#include "graph/op_def.h"
#include "graph/text.h"
#include "support/allocations.h"
#include "support/cpu.h"

namespace octavo {
namespace {

class Select : public ::testing::Test {
 protected:
  ~Select() override { set_isa_limit(hardware_isa()); }
};

std::vector<Tensor> noise(const Graph& graph, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<Tensor> inputs;
  for (const Value* input : graph.inputs()) {
    inputs.emplace_back(input->dtype(), input->shape().dims());
    if (input->dtype() == DType::f32)
      for (float& v : inputs.back().mutable_values<float>()) v = normal(random);
    else
      for (int8_t& v : inputs.back().mutable_values<int8_t>()) v = static_cast<int8_t>(random());
  }
  return inputs;
}

std::set<std::string> kernels(Program& program, const std::vector<Tensor>& inputs) {
  std::vector<Dims> dims;
  dims.reserve(inputs.size());
  for (const Tensor& x : inputs) dims.push_back(x.dims());
  std::set<std::string> names;
  for (const Step& step : program.plan(dims)->steps) names.insert(step.kernel->name());
  return names;
}

// An op that is not here may have the reference kernel alone.
TEST_F(Select, WhatConvolutionalNetworksNeedHasAKernel) {
  std::set<std::string_view> selected;
  for (const Selector& selector : selectors()) {
    EXPECT_NE(find_op(selector.op), nullptr) << selector.op;
    selected.insert(selector.op);
  }
  for (const char* op :
       {"fused_conv",    "fused_gemm",   "quantized_add", "quantized_mul", "lookup",
        "pool",          "quantize",     "dequantize",    "transpose",     "quantize_to_nhwc",
        "add",           "sub",          "mul",           "div",           "pow",
        "relu",          "clip",         "leaky_relu",    "elu",           "sigmoid",
        "softplus",      "hard_sigmoid", "hard_swish",    "silu",          "tanh",
        "erf",           "exp",          "log",           "sqrt",          "reciprocal",
        "neg",           "abs",          "floor",         "ceil",          "round",
        "reduce_mean",   "reduce_sum",   "reduce_max",    "reduce_min",    "reduce_prod",
        "softmax",       "slice",        "concat",        "maximum",       "minimum",
        "prelu",         "gelu",         "swish",         "mish",          "expand",
        "tile",          "pad",          "gather",        "where",         "cast",
        "resize",        "celu",         "selu",          "softsign",      "depth_to_space",
        "space_to_depth"})
    EXPECT_TRUE(selected.contains(op)) << op;
}

struct Case {
  const char* x;     // shape of the input
  const char* body;  // from %x to %y
  double ulps;       // of the largest magnitude
};

// Products, sums, differences and quotients of two are one rounding. elementwise.h bounds the
// functions by 4 ulp; pow is the C library's. A sum of n floats: n ulp of the sum of magnitudes,
// here at most n times the largest of the output's terms; a mean the same, divided by n.
const Case cases[] = {
    {"[2, 3, 4, 5]", "%y = add(%x, %x)", 0},
    {"[2, 3, 40]", "%y = gelu(%x)", 4},
    {"[3, 2, 8, 8]", "const %b : f32[2, 8, 7] = random(1, -1, 1)\n %y = matmul(%x, %b)", 8 * 8},
    {"[2, 3, 4, 5]", "const %b : f32[5] = random(1, 1, 2)\n %y = sub(%x, %b)", 0},
    {"[2, 3, 4, 5]", "const %b : f32[] = 3\n %y = mul(%x, %b)", 0},
    {"[2, 3, 4, 5]", "const %b : f32[] = 3\n %y = div(%b, %x)", 0},
    {"[2, 3, 4, 5]", "const %b : f32[3, 1, 1] = random(1, 1, 2)\n %y = div(%x, %b)", 0},
    {"[2, 3, 4, 5]", "const %b : f32[2, 1, 4, 1] = random(1, 1, 2)\n %y = mul(%b, %x)", 0},
    {"[3, 1]", "const %b : f32[1, 4] = random(1, 1, 2)\n %y = add(%x, %b)", 0},
    {"[1, 1]", "const %b : f32[] = 3\n %y = add(%x, %b)", 0},
    {"[0, 4]", "const %b : f32[4] = random(1, 1, 2)\n %y = add(%x, %b)", 0},
    {"[7, 5]", "%a = abs(%x)\n const %b : f32[5] = random(1, -2, 2)\n %y = pow(%a, %b)", 1},
    {"[7, 5]", "const %b : f32[] = 2\n %y = pow(%x, %b)", 0},
    {"[2, 2, 3, 4]", "%a = abs(%x)\n const %b : f32[2, 1, 4] = random(1, -2, 2)\n %y = pow(%a, %b)",
     1},
    {"[37]", "%y = relu(%x)", 0},
    {"[37]", "%y = clip(%x) {min = -0.5, max = 0.75}", 0},
    {"[37]", "%y = leaky_relu(%x) {alpha = 0.3}", 1},
    {"[37]", "%y = elu(%x) {alpha = 0.3}", 4},
    {"[37]", "%y = sigmoid(%x)", 4},
    {"[37]", "%y = hard_sigmoid(%x) {alpha = 0.3, beta = 0.4}", 4},
    {"[37]", "%y = hard_swish(%x)", 4},
    {"[37]", "%y = silu(%x)", 4},
    {"[37]", "%y = softplus(%x)", 4},
    {"[37]", "%y = tanh(%x)", 4},
    {"[37]", "%y = erf(%x)", 4},
    {"[37]", "%y = exp(%x)", 4},
    {"[37]", "%a = abs(%x)\n %y = log(%a)", 4},
    {"[37]", "%a = abs(%x)\n %y = sqrt(%a)", 0},
    {"[37]", "%y = reciprocal(%x)", 0},
    {"[37]", "%y = neg(%x)", 0},
    {"[37]", "%y = floor(%x)", 0},
    {"[37]", "%y = ceil(%x)", 0},
    {"[37]", "%y = round(%x)", 0},
    {"[2, 3, 8, 9]", "%y = max_pool(%x) {kernel = [3, 2], strides = [2, 1], pads = [1, 0, 0, 1]}",
     0},
    {"[2, 3, 8, 9]", "%y = avg_pool(%x) {kernel = [3, 2], strides = [2, 1], pads = [1, 0, 0, 1]}",
     8},
    {"[2, 3, 8, 9]",
     "%y = avg_pool(%x) {kernel = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], ceil_mode = 1, "
     "count_include_pad = 1}",
     16},
    {"[2, 19, 4, 4]", "%y = reduce_mean(%x) {axes = [2, 3], keepdims = 1}", 64},
    {"[5, 6, 7]", "%y = reduce_mean(%x) {axes = [-1], keepdims = 0}", 16},
    {"[5, 6, 7]", "%y = reduce_sum(%x) {axes = [0], keepdims = 0}", 16},
    {"[5, 6, 7, 3]", "%y = reduce_sum(%x) {axes = [0, 2], keepdims = 1}", 64},
    {"[5, 6, 7, 3]", "%y = reduce_mean(%x) {axes = [1, 3], keepdims = 0}", 64},
    {"[5, 6, 7]", "%y = reduce_max(%x) {axes = [1], keepdims = 0}", 0},
    {"[5, 6, 7]", "%y = reduce_min(%x)", 0},
    {"[5, 6, 3]", "%y = reduce_prod(%x) {axes = [2], keepdims = 1}", 4},
    {"[5, 1, 3]", "%y = reduce_sum(%x) {axes = [1], keepdims = 0}", 0},
    {"[5, 6, 7]", "%y = softmax(%x) {axis = -1}", 16},
    {"[5, 6, 7]", "%y = softmax(%x) {axis = 1}", 16},
    {"[5, 6, 7]", "%y = softmax(%x) {axis = 0}", 16},
    {"[5, 6, 7]", "%y = transpose(%x) {perm = [2, 0, 1]}", 0},
    {"[5, 6, 7]", "%y = transpose(%x) {perm = [2, 1, 0]}", 0},
    {"[5, 6, 7]", "%y = transpose(%x) {perm = [0, 2, 1]}", 0},
    {"[2, 1, 3, 4, 5]", "%y = transpose(%x) {perm = [4, 1, 0, 3, 2]}", 0},
    {"[5, 6, 7]",
     "%y = slice(%x) {starts = [1, -1], ends = [5, -8], axes = [0, 2], steps = [2, -3]}", 0},
    {"[5, 6, 7]",
     "%a = slice(%x) {starts = [2], ends = [3], axes = [1], steps = [1]}\n %y = concat(%a, %x, %x) "
     "{axis = 1}",
     0},
    {"[5, 6]", "%y = concat(%x, %x) {axis = 0}", 0},
    {"[1, 4, 5, 6]",
     "const %w : f32[4, 3, 2, 2] = random(1, -1, 1)\n %y = conv_transpose(%x, %w) {strides = [2, "
     "2]}",
     64},
    {"[2, 4, 5, 6]",
     "const %w : f32[4, 3, 4, 3] = random(1, -1, 1)\n const %b : f32[3] = random(2, -1, 1)\n %z = "
     "conv_transpose(%x, %w, %b) {strides = [2, 2], pads = [1, 0, 1, 2], output_padding = [1, "
     "0]}\n "
     "%y = relu(%z)",
     64},
    {"[2, 4, 5, 6]",
     "const %w : f32[4, 3, 3, 3] = random(1, -1, 1)\n %y = conv_transpose(%x, %w) {strides = [3, "
     "3], "
     "dilations = [2, 1], pads = [2, 1, 0, 0], group = 2}",
     64},
    {"[1, 4, 5, 6]",
     "const %w : f32[4, 3, 3, 3] = random(1, -1, 1)\n %y = conv_transpose(%x, %w) {pads = [1, 1, "
     "1, 1]}",
     64},
    {"[37]", "%y = gelu(%x)", 8},
    {"[37]", "%y = gelu(%x) {approximate = \"tanh\"}", 8},
    {"[37]", "%y = swish(%x) {alpha = 1.7}", 8},
    {"[37]", "%y = mish(%x)", 8},
    {"[37]", "%y = celu(%x) {alpha = 0.7}", 4},
    {"[37]", "%y = selu(%x)", 4},
    {"[37]", "%y = softsign(%x)", 2},
    {"[2, 3, 4, 5]", "const %b : f32[5] = random(1, -1, 1)\n %y = maximum(%x, %b)", 0},
    {"[2, 3, 4, 5]", "const %b : f32[2, 1, 4, 1] = random(1, -1, 1)\n %y = minimum(%b, %x)", 0},
    {"[2, 3, 4, 5]", "const %b : f32[3, 1, 1] = random(1, -1, 1)\n %y = prelu(%x, %b)", 0},
    {"[2, 3, 4, 5]", "const %b : f32[1] = 0.25\n %y = prelu(%x, %b)", 0},
    {"[2, 1, 4, 1]", "%y = expand(%x) {shape = [3, 2, 3, 1, 5]}", 0},
    {"[3]", "%y = expand(%x) {shape = [1]}", 0},
    {"[2, 3, 4]", "%y = tile(%x) {repeats = [2, 1, 3]}", 0},
    {"[2, 0, 4]", "%y = tile(%x) {repeats = [2, 1, 3]}", 0},
    {"[2, 12, 3, 5]", "%y = depth_to_space(%x) {block = 2}", 0},
    {"[2, 12, 3, 5]", "%y = depth_to_space(%x) {block = 2, mode = \"crd\"}", 0},
    {"[2, 3, 4, 6]", "%y = space_to_depth(%x) {block = 2}", 0},
    {"[2, 3, 4, 6]", "%y = pad(%x) {pads = [0, 0, 1, 2, 0, 0, 3, 0]}", 0},
    {"[2, 3, 4]", "const %v : f32[] = 7\n %y = pad(%x, %v) {pads = [1, -1, 2, 0, 2, -3]}", 0},
    {"[2, 3, 4]", "%y = pad(%x) {pads = [1, 3, 2, 2], axes = [0, 2], mode = \"edge\"}", 0},
    {"[2, 3, 4]", "%y = pad(%x) {pads = [1, 3, 2, 2], axes = [1, 2], mode = \"reflect\"}", 0},
    {"[2, 3, 4]", "%y = pad(%x) {pads = [1, 3, 2, 4], axes = [1, 2], mode = \"wrap\"}", 0},
    {"[2, 1, 3]", "%y = pad(%x) {pads = [2, 7, 1, 5], axes = [1, 2], mode = \"reflect\"}", 0},
    {"[2, 1, 3]", "%y = pad(%x) {pads = [2, 7, 1, 5], axes = [1, 2], mode = \"wrap\"}", 0},
    {"[2, 3, 4]", "%y = pad(%x) {pads = [-1, 3, 1, -2], axes = [1, 2], mode = \"reflect\"}", 0},
    {"[5, 6, 7]", "const %i : i64[2, 3] = [0, -1, 4, 2, 2, -5]\n %y = gather(%x, %i) {axis = 0}",
     0},
    {"[5, 6, 7]", "const %i : i32[3] = [0, -1, 4]\n %y = gather(%x, %i) {axis = 1}", 0},
    {"[5, 6, 7]", "const %i : i64[] = -2\n %y = gather(%x, %i) {axis = 2}", 0},
    {"[3, 4, 5]",
     "const %b : f32[4, 1] = random(1, -1, 1)\n %c = cast(%x) {to = \"i32\"}\n %d = cast(%c) {to = "
     "\"bool\"}\n %y = where(%d, %x, %b)",
     0},
    {"[37]",
     "%a = cast(%x) {to = \"f16\"}\n %b = cast(%a) {to = \"i64\"}\n %y = cast(%b) {to = "
     "\"f32\"}",
     0},
    {"[2, 3, 4, 5]", "%y = resize(%x) {scales = [1.0, 1.0, 2.0, 2.0]}", 0},
    {"[2, 3, 4, 5]",
     "%y = resize(%x) {sizes = [7, 3], axes = [2, 3], coordinates = \"asymmetric\", rounding = "
     "\"floor\"}",
     0},
    {"[2, 4, 5, 3]",
     "%y = resize(%x) {sizes = [7, 3], axes = [1, 2], mode = \"linear\", coordinates = "
     "\"align_corners\"}",
     4},
    {"[2, 3, 4, 5]", "%y = resize(%x) {scales = [1.0, 1.0, 1.7, 0.6], mode = \"linear\"}", 4},
    {"[2, 3, 5]",
     "%y = resize(%x) {scales = [1.0, 1.0, 2.0], mode = \"linear\", coordinates = "
     "\"pytorch_half_pixel\"}",
     4},
};

TEST_F(Select, FloatStepsComputeWhatTheReferenceDoesAndAllocateNothing) {
  for (const Case& c : cases) {
    SCOPED_TRACE(c.body);
    std::string body = c.body, constants;
    for (size_t at; (at = body.find("const ")) != std::string::npos;) {
      const size_t end = body.find('\n', at);
      constants += body.substr(at, end - at) + "\n";
      body.erase(at, end - at);
    }
    const Graph graph = parse_graph(
        fmt::format("graph \"g\" canonical {{\n input %x : f32{}\n {} {}\n return %y\n}}", c.x,
                    constants, body));
    const std::vector<Tensor> x = noise(graph, 1);
    const Tensor want = interpret(graph, x).at(0);
    double largest = 0;
    for (float v : want.values<float>()) largest = std::max<double>(largest, std::abs(v));
    for (const Isa isa : {Isa::portable, Isa::avx2, Isa::avx512}) {
      if (isa > hardware_isa()) break;
      set_isa_limit(isa);
      Program program = compile(graph.clone(), {.threads = 2});
      EXPECT_FALSE(kernels(program, x).contains("reference"));
      const Tensor y = program.run(x).at(0);
      ASSERT_EQ(y.dims(), want.dims());
      for (size_t i = 0; i < y.values<float>().size(); ++i)
        ASSERT_NEAR(y.values<float>()[i], want.values<float>()[i], c.ulps * FLT_EPSILON * largest)
            << i << " on " << isa_name(isa);
      for (const int threads : {1, 3})
        EXPECT_TRUE(compile(graph.clone(), {.threads = threads}).run(x).at(0) == y) << threads;
      const auto plan = program.plan({x[0].dims()});
      Tensor out(DType::f32, want.dims());
      const void* in_pointer = x[0].data();
      void* out_pointer = out.mutable_data();
      program.run(*plan, {&in_pointer, 1}, {&out_pointer, 1});
      const int64_t before = allocations();
      program.run(*plan, {&in_pointer, 1}, {&out_pointer, 1});
      EXPECT_EQ(allocations(), before);
      EXPECT_TRUE(out == y);
    }
  }
}

// One per tensor, one per channel in the middle, one per channel at the end.
TEST_F(Select, QuantizeAndDequantizeEqualTheReference) {
  for (const char* text : {
           R"(const %s : f32[] = 0.02
              const %z : u8[] = 100)",
           R"(const %s : f32[3] = [0.01, 0.02, 0.03]
              const %z : i8[3] = [-5, 0, 7])",
           R"(const %s : f32[9] = random(1, 0.01, 0.02)
              const %z : u8[9] = random(2, 0, 255))",
       }) {
    SCOPED_TRACE(text);
    const int axis = std::string(text).find("[3]") != std::string::npos ? 1 : 2;
    Graph graph = parse_graph(fmt::format(R"(graph "g" quantized {{
      input %x : f32[4, 3, 9]
      {}
      %q = quantize(%x, %s, %z) {{axis = {}}}
      %y = dequantize(%q, %s, %z) {{axis = {}}}
      return %q, %y
    }})",
                                          text, axis, axis));
    const std::vector<Tensor> x = noise(graph, 2);
    const auto want = interpret(graph, x);
    for (const Isa isa : {Isa::portable, Isa::avx2, Isa::avx512}) {
      if (isa > hardware_isa()) break;
      set_isa_limit(isa);
      Program program = compile(graph.clone());
      EXPECT_FALSE(kernels(program, x).contains("reference"));
      EXPECT_TRUE(program.run(x) == want) << isa_name(isa);
    }
  }
}

TEST_F(Select, WhatNoKernelTakesRunsOnTheReferenceAndSaysWhy) {
  const auto declined = [](const char* text) {
    Program program = compile(parse_graph(text));
    std::vector<Dims> dims;
    for (const TensorType& type : program.signature().input_types)
      dims.push_back(type.shape.dims());
    const auto plan = program.plan(dims);
    EXPECT_STREQ(plan->steps.at(0).kernel->name(), "reference");
    return plan->steps.at(0).declined;
  };
  EXPECT_EQ(declined(R"(graph "g" canonical {
    input %x : i64[3]
    %y = add(%x, %x)
    return %y
  })"),
            std::vector<std::string>{"binary: takes f32, not i64"});
  EXPECT_EQ(declined(R"(graph "g" quantized {
    input %x : f32[3]
    const %s : f32[] = 0.1
    const %z : i16[] = 0
    %y = quantize(%x, %s, %z)
    return %y
  })"),
            std::vector<std::string>{"quantize: takes 8 bits, not i16"});
  EXPECT_EQ(declined(R"(graph "g" quantized {
    input %x : f32[4]
    const %s : f32[2] = [0.1, 0.2]
    const %z : u8[2] = [0, 1]
    %y = quantize(%x, %s, %z) {axis = 0, group_size = 2}
    return %y
  })"),
            std::vector<std::string>{"quantize: the scale is not constant, or one per group"});
}

}  // namespace
}  // namespace octavo
