// If, Loop and Scan: taken apart where that is possible, named where it is not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backends/reference/interpreter.h"
#include "frontends/onnx/import.h"
#include "frontends/onnx/models.h"

namespace octavo {
namespace {

using namespace octavo::testing;
using ::onnx::TensorProto;
using ::testing::HasSubstr;

::onnx::GraphProto* add_graph(::onnx::NodeProto* node, const std::string& name) {
  auto* attribute = node->add_attribute();
  attribute->set_name(name);
  attribute->set_type(::onnx::AttributeProto::GRAPH);
  attribute->mutable_g()->set_name(name);
  return attribute->mutable_g();
}

void add_op(::onnx::GraphProto* graph, const std::string& op,
            const std::vector<std::string>& inputs, const std::string& output) {
  auto* node = graph->add_node();
  node->set_op_type(op);
  for (const auto& input : inputs) node->add_input(input);
  node->add_output(output);
}

// y = condition ? relu(x) : neg(x), reading x from outside.
::onnx::ModelProto branch_model() {
  auto model = empty_model();
  *model.mutable_graph()->add_input() = value_info("x", {"2"});
  *model.mutable_graph()->add_output() = value_info("y", {"2"});
  auto* node = add_node(model, "If", {"condition"}, {"y"}, "choice");
  for (const auto& [name, op] :
       {std::pair("then_branch", "Relu"), std::pair("else_branch", "Neg")}) {
    auto* graph = add_graph(node, name);
    add_op(graph, op, {"x"}, "inner");
    *graph->add_output() = value_info("inner", {"2"});
  }
  return model;
}

::onnx::TensorProto condition(bool value) {
  TensorProto tensor;
  tensor.set_name("condition");
  tensor.set_data_type(TensorProto::BOOL);
  tensor.add_int32_data(value);
  return tensor;
}

const Tensor x = Tensor::from(Dims{2}, std::vector<float>{-1, 2});

TEST(Control, AKnownConditionTakesItsBranch) {
  for (const bool value : {true, false}) {
    auto model = branch_model();
    *model.mutable_graph()->add_initializer() = condition(value);
    const Graph g = load(model);
    ASSERT_EQ(g.node_count(), 1u);
    EXPECT_EQ(g.first()->op_name(), value ? "relu" : "neg");
    EXPECT_EQ(g.outputs()[0]->name(), "y");
  }
}

TEST(Control, AComputedConditionPicksResults) {
  auto model = branch_model();
  *model.mutable_graph()->add_input() = value_info("condition", {}, TensorProto::BOOL);
  const Graph g = load(model);
  EXPECT_EQ(interpret(g, std::vector{x, Tensor::scalar(true)})[0].to_doubles(), (Floats{0, 2}));
  EXPECT_EQ(interpret(g, std::vector{x, Tensor::scalar(false)})[0].to_doubles(), (Floats{1, -2}));
  auto* other = model.mutable_graph()->mutable_node(0)->mutable_attribute(1)->mutable_g();
  other->mutable_node(0)->set_op_type("Shape");
  EXPECT_THAT(error_of(model),
              HasSubstr("If 'choice' (domain ai.onnx, opset 17): its condition is computed and its "
                        "branches differ in type"));
}

// state = state + x * i for i in 0 to count, all states listed.
::onnx::ModelProto loop_model() {
  auto model = empty_model();
  auto* graph = model.mutable_graph();
  *graph->add_input() = value_info("x", {"2"});
  for (const char* y : {"last", "all"})
    *graph->add_output() = value_info(
        y, y[0] == 'l' ? std::vector<std::string>{"2"} : std::vector<std::string>{"3", "2"});
  auto* body =
      add_graph(add_node(model, "Loop", {"count", "", "x"}, {"last", "all"}, "loop"), "body");
  *body->add_input() = value_info("i", {}, TensorProto::INT64);
  *body->add_input() = value_info("go", {}, TensorProto::BOOL);
  *body->add_input() = value_info("state", {"2"});
  *body->add_initializer() = floats("half", {}, {0.5f});
  auto* cast = body->add_node();
  cast->set_op_type("Cast");
  cast->add_input("i"), cast->add_output("number");
  add_int(cast, "to", TensorProto::FLOAT);
  add_op(body, "Mul", {"x", "number"}, "product");
  add_op(body, "Mul", {"product", "half"}, "halved");
  add_op(body, "Add", {"state", "halved"}, "next");
  add_op(body, "Identity", {"next"}, "listed");
  *body->add_output() = value_info("go", {}, TensorProto::BOOL);
  *body->add_output() = value_info("next", {"2"});
  *body->add_output() = value_info("listed", {"2"});
  return model;
}

TEST(Control, ALoopOfKnownLengthIsUnrolled) {
  auto model = loop_model();
  *model.mutable_graph()->add_initializer() = ints("count", {}, {3});
  const auto y = interpret(load(model), std::vector{x});
  // 1, then 1 + 0.5, then 1 + 0.5 + 1 times x
  EXPECT_EQ(y[0].to_doubles(), (Floats{-2.5, 5}));
  EXPECT_EQ(y[1].to_doubles(), (Floats{-1, 2, -1.5, 3, -2.5, 5}));
}

TEST(Control, LoopsThatCannotBeUnrolled) {
  auto model = loop_model();
  *model.mutable_graph()->add_input() = value_info("count", {}, TensorProto::INT64);
  EXPECT_THAT(error_of(model),
              HasSubstr("Loop 'loop' (domain ai.onnx, opset 17): its number of steps is computed"));
  model = loop_model();
  *model.mutable_graph()->add_initializer() = ints("count", {}, {int64_t{1} << 40});
  EXPECT_THAT(error_of(model), HasSubstr("too many steps"));
  model = loop_model();
  *model.mutable_graph()->add_initializer() = ints("count", {}, {3});
  auto* body = model.mutable_graph()->mutable_node(0)->mutable_attribute(0)->mutable_g();
  body->mutable_output(1)->set_name("nowhere");
  EXPECT_THAT(error_of(model), HasSubstr("'nowhere', which nothing defines"));
  body->mutable_input()->RemoveLast();
  body->mutable_output(1)->set_name("product");
  EXPECT_THAT(error_of(model), HasSubstr("nothing defines"));
  model.mutable_graph()->mutable_node(0)->clear_attribute();
  EXPECT_THAT(error_of(model), HasSubstr("has no subgraph 'body'"));
}

// Running sums of the rows of a matrix, backwards.
TEST(Control, AScanIsUnrolled) {
  auto model = empty_model();
  auto* graph = model.mutable_graph();
  *graph->add_input() = value_info("rows", {"3", "2"});
  *graph->add_initializer() = floats("start", {2}, {0, 0});
  *graph->add_output() = value_info("last", {"2"});
  *graph->add_output() = value_info("all", {"3", "2"});
  auto* node = add_node(model, "Scan", {"start", "rows"}, {"last", "all"}, "scan");
  add_int(node, "num_scan_inputs", 1);
  add_ints(node, "scan_input_directions", {1});
  auto* body = add_graph(node, "body");
  *body->add_input() = value_info("sum", {"2"});
  *body->add_input() = value_info("row", {"2"});
  add_op(body, "Add", {"sum", "row"}, "next");
  add_op(body, "Identity", {"next"}, "listed");
  *body->add_output() = value_info("next", {"2"});
  *body->add_output() = value_info("listed", {"2"});
  const Tensor rows = Tensor::from(Dims{3, 2}, std::vector<float>{1, 2, 10, 20, 100, 200});
  const auto y = interpret(load(model), std::vector{rows});
  EXPECT_EQ(y[0].to_doubles(), (Floats{111, 222}));
  EXPECT_EQ(y[1].to_doubles(), (Floats{100, 200, 110, 220, 111, 222}));
  *graph->mutable_input(0) = value_info("rows", {"N", "2"});
  EXPECT_THAT(error_of(model), HasSubstr("a number of steps that is not known"));
}

}  // namespace
}  // namespace octavo
