#include "frontends/onnx/import.h"

#include <gtest/gtest.h>

#include "backends/reference/interpreter.h"
#include "frontends/onnx/models.h"

namespace octavo {
namespace {

using namespace octavo::testing;

TEST(OnnxImport, KeepsNamesTypesAndOrder) {
  const Graph g = load(conv_relu_add());
  EXPECT_EQ(g.name, "net");
  EXPECT_EQ(g.stage, Stage::canonical);
  ASSERT_EQ(g.inputs().size(), 1u);
  EXPECT_EQ(g.inputs()[0]->name(), "x");
  EXPECT_EQ(g.outputs()[0]->name(), "y");
  EXPECT_EQ(g.outputs()[0]->type().str(), "f32[N, 1, 3, 3]");
  std::string nodes;
  g.for_each([&](Node& node) { nodes += node.where() + " " + node.output()->name() + "; "; });
  EXPECT_EQ(nodes, "conv 'conv0' c; relu 'relu0' r; add 'add0' y; ");
  EXPECT_EQ(g.constants().size(), 2u);
  const Tensor x = Tensor::from(Dims{1, 1, 3, 3}, std::vector<float>{0, 0, 0, 0, 1, 0, 0, 0, 0});
  const auto results = interpret(g, std::vector<Tensor>{x});
  const auto y = results[0].values<float>();
  EXPECT_EQ(std::vector<float>(y.begin(), y.end()),
            (std::vector<float>{9.5, 8.5, 7.5, 6.5, 6.5, 4.5, 3.5, 2.5, 1.5}));
}

TEST(OnnxImport, SortsAndLeavesOutWhatNoOutputNeeds) {
  auto model = conv_relu_add();
  model.mutable_graph()->mutable_node()->SwapElements(0, 2);
  add_node(model, "Mystery", {"r"}, {"unused"});
  *model.mutable_graph()->add_initializer() = floats("spare", {1}, {1});
  model.mutable_graph()->mutable_initializer(2)->set_data_type(::onnx::TensorProto::FLOAT8E5M2);
  const Graph g = load(model);
  EXPECT_EQ(g.node_count(), 3u);
  EXPECT_TRUE(g.first()->is("conv"));
  EXPECT_EQ(g.find_value("spare"), nullptr);
}

TEST(OnnxImport, OldFilesListInitializersAsInputs) {
  auto model = conv_relu_add();
  model.set_ir_version(3);
  *model.mutable_graph()->add_input() = value_info("w", {"1", "1", "3", "3"});
  EXPECT_EQ(load(model).inputs().size(), 1u);
}

}  // namespace
}  // namespace octavo
