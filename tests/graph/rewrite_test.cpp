#include "graph/rewrite.h"

#include <gtest/gtest.h>

#include "graph/same_graph.h"
#include "graph/text.h"
#include "graph/verify.h"
#include "support/error.h"

namespace octavo {
namespace {

namespace p = pattern;

const RewriteRule silu{
    "silu", p::op("mul", {p::any("x"), p::op("sigmoid", {p::any("x")}).once()}).either_order(),
    [](Graph& graph, const Match& m) {
      replace(graph, m.root(), graph.apply("silu", {m.value("x")}, {}, m.root()->name(), m.root()));
      return true;
    }};
const RewriteRule relu_once{"relu_once", p::op("relu", {p::op("relu", {p::any("x")})}),
                            [](Graph&, const Match& m) {
                              m.root()->set_input(0, m.value("x"));
                              return true;
                            }};

void expect_rewritten(const char* before, const char* after, const RewriteRule& rule,
                      size_t applied) {
  Graph g = parse_graph(before);
  EXPECT_EQ(rewrite(g, std::span(&rule, 1)), applied);
  std::string difference;
  EXPECT_TRUE(same_graph(g, parse_graph(after), &difference)) << difference << "\n"
                                                              << print_graph(g);
  EXPECT_EQ(violations(g, Stage::canonical), std::vector<std::string>());
}

TEST(Rewrite, MatchesBothOrdersAndTheSameValue) {
  expect_rewritten(R"(graph canonical {
    input %x : f32[N, 8]
    %s = sigmoid(%x)
    %a = mul(%x, %s)
    %t = sigmoid(%a)
    %b = mul(%t, %a)
    return %b
  })",
                   R"(graph canonical {
    input %x : f32[N, 8]
    %a_1 = silu(%x) @ "a"
    %b = silu(%a_1)
    return %b
  })",
                   silu, 2);
}

TEST(Rewrite, LeavesAloneWhatDoesNotMatch) {
  for (const char* text : {
           "graph canonical { input %x : f32[4] input %y : f32[4] %s = sigmoid(%x) %a = mul(%y, "
           "%s) return %a }",
           "graph canonical { input %x : f32[4] %s = sigmoid(%x) %a = mul(%x, %s) %b = add(%a, %s) "
           "return %b }",
           "graph canonical { input %x : f32[4] %s = sigmoid(%x) %a = mul(%x, %s) return %a, %s }",
           "graph canonical { input %x : f32[4] %s = sigmoid(%x) %a = add(%x, %s) return %a }",
       })
    expect_rewritten(text, text, silu, 0);
}

TEST(Rewrite, ReachesAFixedPointAndErasesWhatIsUnread) {
  expect_rewritten(R"(graph canonical {
    input %x : f32[4]
    %a = relu(%x)
    %b = relu(%a)
    %c = relu(%b)
    return %c
  })",
                   R"(graph canonical {
    input %x : f32[4]
    %c = relu(%x)
    return %c
  })",
                   relu_once, 2);
}

TEST(Rewrite, CapturesNodesConstantsAndLeftOutInputs) {
  Graph g = parse_graph(R"(graph captured {
    input %x : f32[1, 3, 8, 8]
    const %w : f32[4, 3, 1, 1] = 1
    const %s : f32[4] = 1
    %c = conv(%x, %w)
    %n = batch_norm(%c, %s, %s, %s, %s)
    %r = relu(%n)
    return %r
  })");
  Node& norm = *g.find_value("n")->producer();
  const Pattern conv =
      p::op("conv|gemm", {p::any(), p::constant("w"), p::absent()}).once().as("producer");
  const auto match = p::op("batch_norm", {conv}).match(g, norm);
  ASSERT_TRUE(match);
  EXPECT_EQ(match->root(), &norm);
  EXPECT_EQ(match->node("producer"), g.first());
  EXPECT_EQ(match->value("w"), g.find_value("w"));
  EXPECT_THROW(match->value("x"), InternalError);
  EXPECT_FALSE(p::op("batch_norm", {conv.where([](const Node& n) { return n.has("group"); })})
                   .match(g, norm));
  EXPECT_FALSE(p::op("batch_norm", {p::constant()}).match(g, norm));
  EXPECT_FALSE(p::op("batch_norm", {p::op("gemm")}).match(g, norm));
  EXPECT_THROW(p::op("convv"), InternalError);

  EXPECT_EQ(chain(g, *g.first(), {"conv", "batch_norm", "relu"}).size(), 3u);
  EXPECT_TRUE(chain(g, *g.first(), {"conv", "relu"}).empty());
  EXPECT_TRUE(chain(g, norm, {"batch_norm", "relu", "relu"}).empty());
  g.add_output(g.find_value("c"));
  EXPECT_TRUE(chain(g, *g.first(), {"conv", "batch_norm"}).empty());
}

TEST(Rewrite, OutputsKeepTheirNames) {
  Graph g = parse_graph("graph { input %x : f32[4] %a = relu(%x) %b = relu(%a) return %b }");
  replace(g, g.find_value("b"), g.find_value("a"));
  EXPECT_EQ(g.outputs()[0]->name(), "b");
  EXPECT_EQ(g.outputs()[0]->producer(), g.first());
  replace(g, g.first(), g.inputs()[0]);  // an input keeps its own
  EXPECT_EQ(g.outputs()[0]->name(), "x");
}

TEST(Rewrite, RulesThatNeverEndAreABug) {
  Graph g = parse_graph("graph { input %x : f32[4] %a = relu(%x) return %a }");
  const RewriteRule endless{"endless", p::op("relu"), [](Graph&, const Match&) { return true; }};
  EXPECT_THROW(rewrite(g, std::span(&endless, 1)), InternalError);
}

TEST(Rewrite, LongChainsTakeLinearTime) {
  Graph g;
  Value* x = g.add_input("x", {DType::f32, {4}});
  for (int i = 0; i < 100000; ++i) x = g.apply("relu", {x});
  g.add_output(x);
  EXPECT_EQ(rewrite(g, std::span(&relu_once, 1)), 99999u);
  EXPECT_EQ(g.node_count(), 1u);
}

}  // namespace
}  // namespace octavo
