#include "graph/verify.h"

#include <gtest/gtest.h>

#include "graph/same_graph.h"
#include "graph/text.h"
#include "support/error.h"

namespace octavo {
namespace {

using Lines = std::vector<std::string>;

Graph two_relus() {
  return parse_graph(R"(graph canonical {
    input %x : f32[N, 4]
    %a = relu(%x)
    %b = relu(%a)
    return %b
  })");
}

TEST(Verify, SoundGraphHasNoViolations) {
  const Graph g = two_relus();
  for (const Stage stage : {Stage::captured, Stage::canonical, Stage::quantized, Stage::lowered})
    EXPECT_EQ(violations(g, stage), Lines());
  EXPECT_NO_THROW(verify(g));
}

TEST(Verify, NamesPassNodeAndRule) {
  Graph g = two_relus();
  g.find_value("a")->set_type({DType::f32, {1}});
  try {
    verify(g, Stage::canonical, "simplify");
    FAIL();
  } catch (const InternalError& e) {
    EXPECT_STREQ(e.what(),
                 "graph 'graph' is not a sound canonical graph after simplify\n"
                 "  relu 'a': output 0 is f32[1] instead of f32[N, 4]\n"
                 "  relu 'b': output 0 is f32[N, 4] instead of f32[1]");
  }
}

TEST(Verify, OrderOfDefinitions) {
  Graph g = two_relus();
  g.move_before(g.last(), g.first());
  EXPECT_EQ(violations(g, Stage::canonical),
            Lines{"relu 'b': input 0 is defined after it, or not in this graph"});
}

TEST(Verify, ValuesOfAnotherGraph) {
  Graph g = two_relus(), other = two_relus();
  g.add_output(other.inputs()[0]);
  EXPECT_EQ(violations(g, Stage::canonical),
            Lines{"graph: an output is not a value of this graph"});
  g = two_relus();
  g.first()->set_input(0, other.inputs()[0]);
  EXPECT_EQ(violations(g, Stage::canonical),
            Lines{"relu 'a': input 0 is defined after it, or not in this graph"});
}

TEST(Verify, AttributesAndInputs) {
  Graph g = parse_graph(R"(graph canonical {
    input %x : f32[1, 2]
    %y = transpose(%x) {perm = [1, 0]}
    return %y
  })");
  g.first()->set("perm", 1.0);
  g.first()->set("order", int64_t{1});
  EXPECT_EQ(violations(g, Stage::canonical),
            (Lines{"transpose 'y': attribute 'order' is unknown",
                   "transpose 'y': attribute 'perm' is real instead of integers"}));
  g = two_relus();
  g.first()->set_input(0, nullptr);
  EXPECT_EQ(violations(g, Stage::canonical).size(), 2u);
}

TEST(Verify, OutputsAreSet) {
  Graph g;
  g.add_input("x", {DType::f32, {1}});
  EXPECT_EQ(violations(g, Stage::captured), Lines{"graph: it has no outputs"});
}

TEST(Verify, GrammarOfStages) {
  const Graph captured = parse_graph(R"(graph captured {
    input %x : f32[1, 2, 4, 4]
    const %s : f32[2] = 1
    %y = batch_norm(%x, %s, %s, %s, %s)
    return %y
  })");
  EXPECT_EQ(violations(captured, Stage::captured), Lines());
  EXPECT_EQ(
      violations(captured, Stage::canonical),
      Lines{"batch_norm 'y': batch_norm is an op of the captured stage, the graph is canonical"});
  EXPECT_EQ(violations(captured, Stage::lowered).size(), 1u);
  const Graph quantized = parse_graph(R"(graph quantized {
    input %x : f32[1, 2, 4, 4]
    const %s : f32[] = 0.1
    %q = quantize(%x, %s)
    %y = dequantize(%q, %s)
    return %y
  })");
  EXPECT_EQ(violations(quantized, Stage::canonical).size(), 2u);
  EXPECT_EQ(violations(quantized, Stage::quantized), Lines());
  EXPECT_EQ(violations(quantized, Stage::lowered), Lines());
}

TEST(Verify, ScalesAndZeroPoints) {
  const auto check = [](const std::string& scale, const std::string& zero) {
    return violations(parse_graph(fmt::format(R"(graph quantized {{
      input %x : f32[1, 2]
      {}
      {}
      %y = fake_quantize(%x, %s, %z) {{least = 0, most = 15}}
      return %y
    }})",
                                              scale, zero)),
                      Stage::quantized);
  };
  const std::string good_scale = "const %s : f32[] = 0.5", good_zero = "const %z : u8[] = 15";
  EXPECT_EQ(check(good_scale, good_zero), Lines());
  const Lines bad_scale[] = {
      check("const %s : f32[] = 0", good_zero), check("const %s : f32[] = -1", good_zero),
      check("const %s : f32[] = inf", good_zero), check("const %s : f32[] = nan", good_zero)};
  for (const Lines& lines : bad_scale) {
    ASSERT_EQ(lines.size(), 1u);
    EXPECT_NE(lines[0].find("is not positive and finite"), std::string::npos);
  }
  // Dynamic quantization computes both.
  EXPECT_EQ(check("input %s : f32[]", good_zero), Lines());
  EXPECT_EQ(check(good_scale, "input %z : u8[]"), Lines());
  EXPECT_EQ(check(good_scale, "input %z : f32[]"),
            Lines{"fake_quantize 'y': the zero point is no integer"});
  EXPECT_EQ(check(good_scale, "const %z : i32[] = 16"),
            Lines{"fake_quantize 'y': the zero point 16 is outside [0, 15]"});
}

TEST(SameGraph, SaysWhatDiffers) {
  const auto difference = [](const char* from, const char* to) {
    std::string text = R"(graph "g" captured {
      input %x : f32[1, 2]
      const %c : f32[2] = [1, 2]
      %y = add(%x, %c)
      %z = clip(%y) {min = 0.0}
      return %z
    })";
    const Graph a = parse_graph(text);
    text.replace(text.find(from), std::string(from).size(), to);
    std::string found;
    EXPECT_FALSE(same_graph(a, parse_graph(text), &found)) << to;
    return found;
  };
  EXPECT_EQ(difference("captured", "canonical"), "stage captured against canonical");
  EXPECT_EQ(difference("\"g\"", "\"h\""), "name 'g' against 'h'");
  EXPECT_EQ(difference("f32[1, 2]", "f32[?, 2]"), "graph input 0: f32[1, 2] against f32[?, 2]");
  EXPECT_EQ(difference("[1, 2]\n      %y", "[1, 3]\n      %y"),
            "add 'y' input 1: constant 'c' against other elements");
  EXPECT_EQ(difference("add", "sub"), "add 'y': add against sub");
  EXPECT_EQ(difference("(%x, %c)", "(%x, %x)"), "add 'y' input 1: 'c' against 'x', another value");
  EXPECT_EQ(difference("min = 0.0", "min = -0.0"), "clip 'z': attribute min against another value");
  EXPECT_EQ(difference("min = 0.0", "max = 0.0"), "clip 'z': attribute min against none");
  EXPECT_EQ(difference("return %z", "return %y"), "graph output 0: 'z' against 'y', another value");
  EXPECT_EQ(difference("return %z", "return %z, %z"), "graph output: 1 values against 2");
  EXPECT_EQ(difference("%z = clip(%y) {min = 0.0}\n      return %z", "return %y"),
            "2 nodes against 1");
}

TEST(SameGraph, MayLeaveOutNames) {
  const Graph a = parse_graph("graph \"a\" { input %x : f32[1] %y = relu(%x) return %y }");
  const Graph b = parse_graph("graph \"b\" { input %p : f32[1] %0 = relu(%p) @ \"n\" return %0 }");
  EXPECT_FALSE(same_graph(a, b));
  EXPECT_TRUE(same_graph(a, b, nullptr, {.names = false}));
}

}  // namespace
}  // namespace octavo
