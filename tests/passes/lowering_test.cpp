// The passes of lowering one by one: text before, text after, the same numbers, and where each must
// not fire. Scales are powers of two and weights small integers, so that float and integer
// arithmetic are both exact and the answers equal bit for bit, ties and saturation included.
#include <gtest/gtest.h>

#include "backends/reference/interpreter.h"
#include "passes/pass_test.h"
#include "passes/passes.h"

namespace octavo {
namespace {

// Multiples of an eighth in [-8, 8).
std::vector<Tensor> eighths(const Graph& graph, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<Tensor> inputs;
  for (const Value* input : graph.inputs()) {
    Tensor x(input->dtype(), input->shape().dims());
    if (input->dtype() == DType::f32)
      for (float& v : x.mutable_values<float>())
        v = (static_cast<float>(generator() % 128) - 64) / 8;
    else
      for (size_t i = 0; i < x.bytes(); ++i)
        x.mutable_data()[i] = static_cast<std::byte>(generator() % 256);
    inputs.push_back(std::move(x));
  }
  return inputs;
}

void expect_same_answers(const Graph& before, const Graph& after) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    const auto x = eighths(before, seed);
    const auto want = interpret(before, x), got = interpret(after, x);
    ASSERT_EQ(want.size(), got.size());
    for (size_t i = 0; i < want.size(); ++i)
      ASSERT_TRUE(want[i] == got[i]) << "output " << i << ", seed " << seed;
  }
}

// Fires: text to text, same answers.
void expect_becomes(const char* before_text, void (*pass)(Graph&), const char* after_text) {
  const Graph before = parse_graph(before_text), got = after(before, pass, Stage::lowered);
  expect_graph(got, after_text);
  expect_same_answers(before, got);
}

void expect_unchanged(const std::string& text, void (*pass)(Graph&)) {
  Graph before = parse_graph(text);
  before.remove_dead();
  const Graph got = after(before, pass, Stage::lowered);
  std::string difference;
  EXPECT_TRUE(same_graph(before, got, &difference)) << difference << "\n" << text;
}

std::string with(std::string text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

// ---- quantize_constants

TEST(QuantizeConstants, RoundsHalvesToEvenAndSaturates) {
  expect_becomes(R"(graph "g" quantized {
    input %x : f32[1, 3]
    const %w : f32[2, 3] = [-100, -0.75, -0.25, 0.25, 0.75, 100]
    const %s : f32[2] = [0.5, 0.25]
    const %z : i8[2] = [0, 3]
    %q = quantize(%w, %s, %z) {axis = 0}
    %d = dequantize(%q, %s, %z) {axis = 0}
    %y = gemm(%x, %d) {trans_b = 1}
    return %y
  })",
                 quantize_constants, R"(graph "g" quantized {
    input %x : f32[1, 3]
    const %q : i8[2, 3] = [-128, -2, 0, 4, 6, 127]
    const %s : f32[2] = [0.5, 0.25]
    const %z : i8[2] = [0, 3]
    %d = dequantize(%q, %s, %z) {axis = 0}
    %y = gemm(%x, %d) {trans_b = 1}
    return %y
  })");
}

TEST(QuantizeConstants, LeavesWhatIsComputed) {
  constexpr const char* text = R"(graph "g" quantized {
    input %x : f32[2, 3]
    const %s : f32[] = 0.5
    const %z : u8[] = 100
    %q = quantize(%x, %s, %z)
    return %q
  })";
  expect_unchanged(text, quantize_constants);
  // Known data, a scale that is not.
  expect_unchanged(R"(graph "g" quantized {
    input %s : f32[]
    const %w : f32[2] = [1, 2]
    %q = quantize(%w, %s)
    return %q
  })",
                   quantize_constants);
}

// ---- sink_dequantize

TEST(SinkDequantize, GoesBehindEveryOpThatOnlyMovesElements) {
  expect_becomes(R"(graph "g" quantized {
    input %x : u8[2, 3, 1, 4]
    const %s : f32[] = 0.25
    const %z : u8[] = 128
    %d = dequantize(%x, %s, %z)
    %a = squeeze(%d) {axes = [2]}
    %b = transpose(%a) {perm = [1, 0, 2]}
    %c = slice(%b) {starts = [1], ends = [3], axes = [0]}
    %e = unsqueeze(%c) {axes = [0]}
    %y = reshape(%e) {shape = [4, 4]}
    return %y
  })",
                 sink_dequantize, R"(graph "g" quantized {
    input %x : u8[2, 3, 1, 4]
    const %s : f32[] = 0.25
    const %z : u8[] = 128
    %a = squeeze(%x) {axes = [2]}
    %b = transpose(%a) {perm = [1, 0, 2]}
    %c = slice(%b) {starts = [1], ends = [3], axes = [0]}
    %e = unsqueeze(%c) {axes = [0]}
    %r = reshape(%e) {shape = [4, 4]}
    %y = dequantize(%r, %s, %z)
    return %y
  })");
}

TEST(SinkDequantize, DoesNotFire) {
  constexpr const char* text = R"(graph "g" quantized {
    input %x : u8[2, 3]
    const %s : f32[] = 0.25
    const %t : f32[3] = [0.25, 0.5, 1]
    const %wide : i32[2, 3] = [1, 2, 3, 4, 5, 6]
    %d = dequantize(%x, %s)
    %y = transpose(%d) {perm = [1, 0]}
    return %y
  })";
  for (const auto& [from, to] : {
           std::pair{"return %y", "return %y, %d"},                              // read twice
           std::pair{"%y = transpose(%d) {perm = [1, 0]}", "%y = sigmoid(%d)"},  // no movement
           std::pair{"dequantize(%x, %s)", "dequantize(%x, %t) {axis = 1}"},     // axes move
           std::pair{"dequantize(%x, %s)", "dequantize(%wide, %s)"},             // no byte
       })
    expect_unchanged(with(text, from, to), sink_dequantize);
}

// ---- fuse_compute

constexpr const char* quantized_conv = R"(graph "g" quantized {
  input %q : u8[1, 2, 3, 3]
  input %r : i8[1, 3, 2, 2]
  const %xs : f32[] = 0.25
  const %xz : u8[] = 120
  const %w : i8[3, 2, 2, 2] = [1, -2, 3, 0, 2, 1, -1, 4, -3, 2, 1, 1, 0, 0, 2, -2, 5, 1, -1, 0, 3, 2, -4, 1]
  const %ws : f32[3] = [0.5, 0.125, 0.25]
  const %b : f32[3] = [1.5, -2, 0.25]
  const %rs : f32[] = 0.5
  const %rz : i8[] = -3
  const %ys : f32[] = 2
  const %yz : u8[] = 10
  %d = dequantize(%q, %xs, %xz)
  %wd = dequantize(%w, %ws) {axis = 0}
  %c = conv(%d, %wd, %b) {strides = [1, 1]}
  %rd = dequantize(%r, %rs, %rz)
  %a = add(%c, %rd)
  %p = clip(%a) {min = 0.0, max = 100.0}
  %y = quantize(%p, %ys, %yz)
  return %y
})";

// multiplier = xs * ws / ys, bias = b / (xs * ws), the residual's multiplier rs / ys, the clamp in
// steps of y.
TEST(FuseCompute, AnIntegerConvolutionTakesBiasResidualClampAndQuantize) {
  expect_becomes(quantized_conv, fuse_compute, R"(graph "g" quantized {
  input %q : u8[1, 2, 3, 3]
  input %r : i8[1, 3, 2, 2]
  const %w : i8[3, 2, 2, 2] = [1, -2, 3, 0, 2, 1, -1, 4, -3, 2, 1, 1, 0, 0, 2, -2, 5, 1, -1, 0, 3, 2, -4, 1]
  const %b : i32[3] = [12, -64, 4]
  const %m : f32[3] = [0.0625, 0.015625, 0.03125]
  %x1 = transpose(%q) {perm = [0, 2, 3, 1]}
  %r1 = transpose(%r) {perm = [0, 2, 3, 1]}
  %c = fused_conv(%x1, %w, %b, %m, %r1) {clamp_hi = 50.0, clamp_lo = 0.0, dilations = [], group = 1, negative_slope = 1.0, output = "u8", pads = [], residual_multiplier = 0.25, residual_zero_point = -3, strides = [1, 1], x_zero_point = 120, y_zero_point = 10}
  %y = transpose(%c) {perm = [0, 3, 1, 2]}
  return %y
})");
}

TEST(FuseCompute, TheIntegersRangeIsAClampToo) {
  const Graph before =
      parse_graph(with(quantized_conv, "clip(%a) {min = 0.0, max = 100.0}", "relu(%a)"));
  const Graph got = after(before, fuse_compute, Stage::lowered);
  const Node* fused = got.outputs()[0]->producer()->input(0)->producer();
  ASSERT_TRUE(fused->is("fused_conv"));
  EXPECT_EQ(fused->real("clamp_lo"), 0);         // relu
  EXPECT_EQ(fused->real("clamp_hi"), 255 - 10);  // u8
  expect_same_answers(before, got);
}

TEST(FuseCompute, AFloatMatmulTakesItsBiasAndClamp) {
  expect_becomes(R"(graph "g" canonical {
    input %x : f32[2, 2, 3]
    const %w : f32[3, 2] = [1, 2, 3, 4, 5, 6]
    const %b : f32[2] = [0.5, -1]
    %m = matmul(%x, %w)
    %a = add(%m, %b)
    %y = relu(%a)
    return %y
  })",
                 fuse_compute, R"(graph "g" canonical {
    input %x : f32[2, 2, 3]
    const %w : f32[3, 2] = [1, 2, 3, 4, 5, 6]
    const %b : f32[2] = [0.5, -1]
    %x1 = reshape(%x) {shape = [-1, 3]}
    %m = fused_gemm(%x1, %w, %b) {clamp_hi = inf, clamp_lo = 0.0, negative_slope = 1.0, trans_w = 1}
    %y = reshape(%m) {shape = [2, 2, 2]}
    return %y
  })");
}

TEST(FuseCompute, AnIntegerProductMayGiveFloats) {
  const Graph before = parse_graph(with(quantized_conv, "return %y", "return %p"));
  const Graph got = after(before, fuse_compute, Stage::lowered);
  EXPECT_EQ(ops(got), (Names{"transpose", "transpose", "fused_conv", "transpose"}));
  EXPECT_EQ(got.outputs()[0]->dtype(), DType::f32);
  expect_same_answers(before, got);
}

TEST(FuseCompute, DoesNotFire) {
  constexpr const char* text = R"(graph "g" canonical {
    input %x : f32[2, 3]
    const %w : f32[3, 2] = [1, 2, 3, 4, 5, 6]
    const %b : f32[2] = [0.5, -1]
    %y = gemm(%x, %w, %b)
    return %y
  })";
  for (const auto& [from, to] : {
           std::pair{"gemm(%x, %w, %b)", "gemm(%x, %w, %b) {alpha = 2.0}"},
           std::pair{"gemm(%x, %w, %b)", "gemm(%x, %w, %b) {beta = 2.0}"},
           std::pair{"const %w : f32[3, 2] = [1, 2, 3, 4, 5, 6]", "input %w : f32[3, 2]"},
           std::pair{"const %b : f32[2] = [0.5, -1]", "input %b : f32[2]"},
           std::pair{"const %b : f32[2] = [0.5, -1]", "const %b : f32[2, 2] = [0.5, -1, 2, 1]"},
       })
    expect_unchanged(with(text, from, to), fuse_compute);
}

TEST(FuseCompute, WeightsOffTheirCentreAreNoIntegerProduct) {
  std::string text =
      with(quantized_conv, "const %ws : f32[3] = [0.5, 0.125, 0.25]",
           "const %ws : f32[3] = [0.5, 0.125, 0.25]\n const %wz : i8[3] = [0, 1, 0]");
  text = with(text, "dequantize(%w, %ws)", "dequantize(%w, %ws, %wz)");
  const Graph before = parse_graph(text), got = after(before, fuse_compute, Stage::lowered);
  got.for_each([](Node& node) {
    if (node.is("fused_conv")) {
      EXPECT_EQ(node.input(0)->dtype(), DType::f32);
    }
  });
  expect_same_answers(before, got);
}

// ---- fuse_integer

TEST(FuseInteger, ASumAndItsClamp) {
  expect_becomes(R"(graph "g" quantized {
    input %a : u8[40]
    input %b : i8[40]
    const %as : f32[] = 0.25
    const %az : u8[] = 100
    const %bs : f32[] = 0.5
    const %bz : i8[] = -5
    const %ys : f32[] = 2
    const %yz : i8[] = 7
    %ad = dequantize(%a, %as, %az)
    %bd = dequantize(%b, %bs, %bz)
    %s = add(%ad, %bd)
    %c = clip(%s) {min = -6.0, max = 60.0}
    %y = quantize(%c, %ys, %yz)
    return %y
  })",
                 fuse_integer, R"(graph "g" quantized {
    input %a : u8[40]
    input %b : i8[40]
    %y = quantized_add(%a, %b) {a_multiplier = 0.125, a_zero_point = 100, b_multiplier = 0.25, b_zero_point = -5, clamp_hi = 30.0, clamp_lo = -3.0, output = "i8", y_zero_point = 7}
    return %y
  })");
}

TEST(FuseInteger, AProduct) {
  expect_becomes(R"(graph "g" quantized {
    input %a : u8[40]
    input %b : i8[40]
    const %as : f32[] = 0.25
    const %az : u8[] = 100
    const %bs : f32[] = 0.5
    const %bz : i8[] = -5
    const %ys : f32[] = 16
    const %yz : i8[] = 7
    %ad = dequantize(%a, %as, %az)
    %bd = dequantize(%b, %bs, %bz)
    %s = mul(%ad, %bd)
    %y = quantize(%s, %ys, %yz)
    return %y
  })",
                 fuse_integer, R"(graph "g" quantized {
    input %a : u8[40]
    input %b : i8[40]
    %y = quantized_mul(%a, %b) {a_zero_point = 100, b_zero_point = -5, clamp_hi = 120.0, clamp_lo = -135.0, multiplier = 0.0078125, output = "i8", y_zero_point = 7}
    return %y
  })");
}

// The table is what the ops give for each byte, whatever they are.
TEST(FuseInteger, FunctionsOfOneElementBecomeATable) {
  constexpr const char* text = R"(graph "g" quantized {
    input %q : i8[16, 16]
    const %s : f32[] = 0.03125
    const %z : i8[] = 5
    const %k : f32[] = 3.0
    const %t : f32[] = 0.0078125
    const %u : u8[] = 20
    %d = dequantize(%q, %s, %z)
    %a = mul(%k, %d)
    %b = tanh(%a)
    %y = quantize(%b, %t, %u)
    return %y
  })";
  const Graph before = parse_graph(text), got = after(before, fuse_integer, Stage::lowered);
  ASSERT_EQ(ops(got), Names{"lookup"});
  EXPECT_EQ(got.outputs()[0]->name(), "y");
  const auto table = got.outputs()[0]->producer()->input(1)->constant().values<uint8_t>();
  for (int byte = 0; byte < 256; ++byte) {
    const double x = (static_cast<int8_t>(byte) - 5) * 0.03125;
    const double y = std::nearbyint(std::tanh(3 * x) / 0.0078125) + 20;
    EXPECT_EQ(table[static_cast<size_t>(byte)], std::clamp(y, 0.0, 255.0)) << byte;
  }
  expect_same_answers(before, got);
}

TEST(FuseInteger, AChangeOfScaleIsATableAndNoChangeIsNothing) {
  constexpr const char* text = R"(graph "g" quantized {
    input %q : u8[64]
    const %s : f32[] = 0.25
    const %z : u8[] = 100
    const %t : f32[] = 0.5
    %d = dequantize(%q, %s, %z)
    %y = quantize(%d, %t, %z)
    %e = dequantize(%y, %t, %z)
    return %e
  })";
  const Graph before = parse_graph(text), got = after(before, fuse_integer, Stage::lowered);
  EXPECT_EQ(ops(got), (Names{"lookup", "dequantize"}));
  expect_same_answers(before, got);
  expect_becomes(with(text, "quantize(%d, %t, %z)", "quantize(%d, %s, %z)").c_str(), fuse_integer,
                 R"(graph "g" quantized {
    input %q : u8[64]
    const %t : f32[] = 0.5
    const %z : u8[] = 100
    %e = dequantize(%q, %t, %z)
    return %e
  })");
}

TEST(FuseInteger, PoolingOverBytes) {
  expect_becomes(R"(graph "g" quantized {
    input %q : u8[1, 2, 4, 4]
    const %s : f32[] = 0.25
    const %z : u8[] = 100
    const %t : f32[] = 0.5
    const %u : i8[] = -4
    %d = dequantize(%q, %s, %z)
    %p = avg_pool(%d) {kernel = [2, 2], strides = [2, 2]}
    %y = quantize(%p, %t, %u)
    return %y
  })",
                 fuse_integer, R"(graph "g" quantized {
    input %q : u8[1, 2, 4, 4]
    %a = transpose(%q) {perm = [0, 2, 3, 1]}
    %p = pool(%a) {ceil_mode = 0, clamp_hi = 131.0, clamp_lo = -124.0, count_include_pad = 0, dilations = [], kernel = [2, 2], mode = "average", multiplier = 0.5, output = "i8", pads = [], strides = [2, 2], x_zero_point = 100, y_zero_point = -4}
    %y = transpose(%p) {perm = [0, 3, 1, 2]}
    return %y
  })");
}

TEST(FuseInteger, APadsValueIsQuantized) {
  expect_becomes(R"(graph "g" quantized {
    input %q : u8[2, 3]
    const %s : f32[] = 0.25
    const %z : u8[] = 100
    %d = dequantize(%q, %s, %z)
    %p = pad(%d) {pads = [0, 1, 0, 2]}
    %y = quantize(%p, %s, %z)
    return %y
  })",
                 fuse_integer, R"(graph "g" quantized {
    input %q : u8[2, 3]
    const %v : u8[] = 100
    %y = pad(%q, %v) {pads = [0, 1, 0, 2]}
    return %y
  })");
}

TEST(FuseInteger, DoesNotFire) {
  constexpr const char* text = R"(graph "g" quantized {
    input %a : u8[2, 3]
    input %f : f32[2, 3]
    input %c : u8[1, 3]
    const %s : f32[] = 0.25
    const %z : u8[] = 100
    const %t : f32[3] = [0.25, 0.5, 1]
    const %tz : u8[3] = [1, 2, 3]
    %d = dequantize(%a, %s, %z)
    %e = dequantize(%c, %s, %z)
    %y = add(%d, %f)
    %q = quantize(%y, %s, %z)
    return %q
  })";
  for (const auto& [from, to] : {
           std::pair{"add(%d, %f)", "add(%f, %d)"},            // a float operand
           std::pair{"add(%d, %f)", "add(%d, %e)"},            // broadcast
           std::pair{"%y = add(%d, %f)", "%y = sigmoid(%f)"},  // float input
           std::pair{"%y = add(%d, %f)", "%y = softmax(%d)"},  // many elements
           std::pair{"%q = quantize(%y, %s, %z)", "%q = quantize(%d, %t, %tz) {axis = 1}"},
       })
    expect_unchanged(with(text, from, to), fuse_integer);
  // Another reader wants the float value.
  expect_unchanged(with(with(text, "add(%d, %f)", "sigmoid(%d)"), "return %q", "return %q, %y, %e"),
                   fuse_integer);
}

// ---- lower_pooling

TEST(LowerPooling, FloatPoolsGoChannelsLast) {
  expect_becomes(R"(graph "g" canonical {
    input %x : f32[1, 2, 5, 4]
    %m = max_pool(%x) {kernel = [3, 2], strides = [2, 1], pads = [1, 0, 1, 1]}
    %y = reduce_mean(%m) {axes = [-1, 2], keepdims = 1}
    return %y
  })",
                 lower_pooling, R"(graph "g" canonical {
    input %x : f32[1, 2, 5, 4]
    %a = transpose(%x) {perm = [0, 2, 3, 1]}
    %b = pool(%a) {ceil_mode = 0, dilations = [], kernel = [3, 2], mode = "max", pads = [1, 0, 1, 1], strides = [2, 1]}
    %m = transpose(%b) {perm = [0, 3, 1, 2]}
    %c = transpose(%m) {perm = [0, 2, 3, 1]}
    %d = pool(%c) {kernel = [3, 4], mode = "average"}
    %y = transpose(%d) {perm = [0, 3, 1, 2]}
    return %y
  })");
}

TEST(LowerPooling, ALineIsAnImageOfOneRow) {
  expect_becomes(R"(graph "g" canonical {
    input %x : f32[2, 3, 8]
    %y = avg_pool(%x) {kernel = [2], strides = [2], pads = [1, 1]}
    return %y
  })",
                 lower_pooling, R"(graph "g" canonical {
    input %x : f32[2, 3, 8]
    %a = reshape(%x) {shape = [2, 3, 1, 8]}
    %b = transpose(%a) {perm = [0, 2, 3, 1]}
    %c = pool(%b) {ceil_mode = 0, count_include_pad = 0, dilations = [], kernel = [1, 2], mode = "average", pads = [0, 1, 0, 1], strides = [1, 2]}
    %d = transpose(%c) {perm = [0, 3, 1, 2]}
    %y = reshape(%d) {shape = [2, 3, 5]}
    return %y
  })");
}

TEST(LowerPooling, DoesNotFire) {
  for (const char* body : {
           "%y = reduce_mean(%x) {axes = [1, 2], keepdims = 1}",                      // channels
           "%y = reduce_mean(%x) {axes = [2], keepdims = 1}",                         // rows alone
           "%z = unsqueeze(%x) {axes = [0]} %y = max_pool(%z) {kernel = [1, 2, 2]}",  // a volume
       })
    expect_unchanged(fmt::format(R"(graph "g" canonical {{
      input %x : f32[1, 2, 4, 4]
      {}
      return %y
    }})",
                                 body),
                     lower_pooling);
}

// ---- merge_quantize_transpose

constexpr const char* quantize_and_transpose = R"(graph "g" quantized {
  input %x : f32[1, 3, 4, 5]
  const %s : f32[] = 0.25
  const %t : f32[3] = [0.25, 0.5, 1]
  const %z : u8[] = 100
  %q = quantize(%x, %s, %z)
  %y = transpose(%q) {perm = [0, 2, 3, 1]}
  return %y
})";

TEST(MergeQuantizeTranspose, BecomesOneNode) {
  expect_becomes(quantize_and_transpose, merge_quantize_transpose, R"(graph "g" quantized {
    input %x : f32[1, 3, 4, 5]
    %y = quantize_to_nhwc(%x) {output = "u8", scale = 0.25, y_zero_point = 100}
    return %y
  })");
}

TEST(MergeQuantizeTranspose, DoesNotFire) {
  for (const auto& [from, to] : {
           std::pair{"return %y", "return %y, %q"},                           // read twice
           std::pair{"perm = [0, 2, 3, 1]", "perm = [0, 3, 1, 2]"},           // the other way
           std::pair{"quantize(%x, %s, %z)", "quantize(%x, %t) {axis = 1}"},  // per channel
           std::pair{"%z : u8[] = 100", "%z : i16[] = 100"},                  // no byte
       })
    expect_unchanged(with(quantize_and_transpose, from, to), merge_quantize_transpose);
}

}  // namespace
}  // namespace octavo
