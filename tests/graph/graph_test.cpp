#include "graph/graph.h"

#include <gtest/gtest.h>

#include "backends/reference/interpreter.h"
#include "graph/bind.h"
#include "graph/op_def.h"
#include "support/error.h"

namespace octavo {
namespace {

Graph conv_relu_add() {
  Graph g;
  Value* x = g.add_input("x", {DType::f32, {Dim::symbol("N"), 1, 3, 3}});
  Value* w = g.add_constant("w", Tensor::from(Dims{1, 1, 3, 3}, std::vector<float>(9, 1.0f)));
  Value* y = g.apply("conv", {x, w}, {{"pads", Ints{1, 1, 1, 1}}}, "c");
  Value* r = g.apply("relu", {y}, {}, "r");
  g.add_output(g.apply("add", {r, x}, {}, "a"));
  return g;
}

TEST(Graph, InfersSymbolicShapesAndRuns) {
  Graph g = conv_relu_add();
  EXPECT_EQ(g.outputs()[0]->type().str(), "f32[N, 1, 3, 3]");
  const Tensor x = Tensor::from(Dims{1, 1, 3, 3}, std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8, 9});
  const auto y = interpret(g, std::vector<Tensor>{x});
  const std::vector<float> want{13, 23, 19, 31, 50, 39, 31, 47, 37};
  const auto got = y.at(0).values<float>();
  EXPECT_EQ(std::vector<float>(got.begin(), got.end()), want);
  EXPECT_EQ(bind_symbols(g, {{"N", 2}}).outputs()[0]->type().str(), "f32[2, 1, 3, 3]");
}

TEST(Graph, EditsKeepUsesTrue) {
  Graph g = conv_relu_add();
  Value* r = g.find_value("r");
  Value* c = g.find_value("c");
  ASSERT_TRUE(r && c);
  g.replace_all_uses(r, c);
  EXPECT_TRUE(r->uses().empty());
  EXPECT_EQ(c->uses().size(), 2u);  // relu and add
  EXPECT_EQ(g.remove_dead(), 1u);
  EXPECT_EQ(g.find_value("r"), nullptr);
  EXPECT_EQ(g.node_count(), 2u);
  EXPECT_THROW(g.erase(c->producer()), InternalError);
}

TEST(Graph, NamesStayUniqueAndCloneIsEqual) {
  Graph g = conv_relu_add();
  EXPECT_EQ(g.add_input("x", {DType::f32, {1}})->name(), "x_1");
  Graph copy = conv_relu_add().clone();
  EXPECT_EQ(copy.node_count(), 3u);
  EXPECT_TRUE(copy.find_value("a"));
}

TEST(Graph, RefusesWhatDoesNotFit) {
  Graph g;
  Value* x = g.add_input("x", {DType::f32, {1, 2, 8, 8}});
  Value* w = g.add_constant("w", Tensor(DType::f32, {4, 3, 3, 3}));
  EXPECT_THROW(g.apply("conv", {x, w}), UserError);
  EXPECT_THROW(g.apply("conv", {x}), UserError);
  EXPECT_THROW(g.apply("conv", {x, w}, {{"grup", int64_t{1}}}), UserError);
  EXPECT_THROW(g.apply("no_such_op", {x}), InternalError);
  EXPECT_EQ(g.node_count(), 0u);
  EXPECT_TRUE(x->uses().empty());
}

TEST(Bind, NamesTheInputThatDoesNotFit) {
  Graph g = conv_relu_add();
  try {
    check_inputs(g, std::vector<Tensor>{Tensor(DType::f32, {1, 2, 3, 3})});
    FAIL();
  } catch (const UserError& e) {
    EXPECT_STREQ(e.what(), "input 'x': expected f32[N, 1, 3, 3], got f32[1, 2, 3, 3]");
  }
}

}  // namespace
}  // namespace octavo
