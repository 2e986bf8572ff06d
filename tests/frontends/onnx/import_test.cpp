#include "frontends/onnx/import.h"

#include <gmock/gmock.h>
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

TEST(OnnxImport, ReadsEveryFormOfTensor) {
  using ::onnx::TensorProto;
  const std::vector<std::pair<int, const char*>> types{
      {TensorProto::FLOAT, "f32"},     {TensorProto::DOUBLE, "f64"}, {TensorProto::FLOAT16, "f16"},
      {TensorProto::BFLOAT16, "bf16"}, {TensorProto::INT8, "i8"},    {TensorProto::UINT8, "u8"},
      {TensorProto::INT16, "i16"},     {TensorProto::UINT16, "u16"}, {TensorProto::INT32, "i32"},
      {TensorProto::UINT32, "u32"},    {TensorProto::INT64, "i64"},  {TensorProto::UINT64, "u64"},
      {TensorProto::BOOL, "bool"}};
  for (const auto& [type, name] : types) {
    auto model = empty_model();
    auto* typed = model.mutable_graph()->add_initializer();
    typed->set_name("typed");
    typed->set_data_type(type);
    typed->add_dims(2);
    const auto fill = [&](auto add) { add(0), add(1); };
    switch (type) {
      case TensorProto::FLOAT:
        fill([&](int v) { typed->add_float_data(static_cast<float>(v)); });
        break;
      case TensorProto::DOUBLE:
        fill([&](int v) { typed->add_double_data(v); });
        break;
      case TensorProto::INT64:
        fill([&](int v) { typed->add_int64_data(v); });
        break;
      case TensorProto::UINT32:
      case TensorProto::UINT64:
        fill([&](int v) { typed->add_uint64_data(static_cast<uint64_t>(v)); });
        break;
      default:
        fill([&](int v) { typed->add_int32_data(v); });
    }
    *model.mutable_graph()->add_output() = value_info("typed", {"2"}, type);
    *model.mutable_graph()->add_output() = value_info("raw", {"2"}, type);
    auto* raw = model.mutable_graph()->add_initializer();
    raw->set_name("raw");
    raw->set_data_type(type);
    raw->add_dims(2);
    const Tensor numbers = Tensor::from(Dims{2}, std::vector<int64_t>{0, 1});
    Tensor wanted = convert(numbers, parse_dtype(name));
    if (wanted.dtype() == DType::f16 ||
        wanted.dtype() == DType::bf16)  // typed fields hold the bits
      wanted = Tensor(wanted.dtype(), {2}, convert(numbers, DType::u16).buffer());
    raw->set_raw_data(wanted.data(), wanted.bytes());
    const Graph g = load(model);
    EXPECT_TRUE(g.outputs()[0]->constant() == wanted) << name;
    EXPECT_TRUE(g.outputs()[1]->constant() == wanted) << name;
  }
}

// y = x + float(gathered size of x), the size computed by Shape, Gather and Add.
::onnx::ModelProto sizes(const std::vector<std::string>& dims, int64_t index) {
  auto model = empty_model();
  auto* graph = model.mutable_graph();
  *graph->add_input() = value_info("x", dims);
  *graph->add_output() = value_info("y", dims);
  *graph->add_initializer() = ints("index", {}, {index});
  add_node(model, "Shape", {"x"}, {"shape"});
  add_node(model, "Gather", {"shape", "index"}, {"dim"});
  add_node(model, "Add", {"dim", "dim"}, {"twice"});
  add_int(add_node(model, "Cast", {"twice"}, {"real"}), "to", ::onnx::TensorProto::FLOAT);
  add_node(model, "Identity", {"real"}, {"same"});
  add_node(model, "Add", {"x", "same"}, {"y"}, "use");
  return model;
}

TEST(OnnxImport, ComputesSizes) {
  const Graph g = load(sizes({"2", "7"}, -1));
  ASSERT_EQ(g.node_count(), 1u);
  EXPECT_EQ(g.first()->input(1)->constant().to_doubles(), Floats{14});
  EXPECT_EQ(load(sizes({"N", "7"}, 1)).first()->input(1)->constant().to_doubles(), Floats{14});
  // A dynamic size is computed when the program runs.
  const Graph dynamic = load(sizes({"N", "7"}, 0));
  const std::vector<float> x(35, 1);
  EXPECT_EQ(interpret(dynamic, std::vector{Tensor::from(Dims{5, 7}, x)})[0].to_doubles(),
            interpret(load(sizes({"5", "7"}, 0)), std::vector{Tensor::from(Dims{5, 7}, x)})[0]
                .to_doubles());
  EXPECT_THAT(error_of(sizes({"N", "7"}, 2)),
              ::testing::HasSubstr("index 2 is outside an axis of 2"));
}

TEST(OnnxImport, IdentityKeepsTheNamesOfOutputs) {
  auto model = conv_relu_add();
  model.mutable_graph()->mutable_node(2)->set_output(0, "sum");
  add_node(model, "Identity", {"sum"}, {"y"});
  add_node(model, "Dropout", {"c"}, {"z"});
  *model.mutable_graph()->add_output() = value_info("z", {"N", "1", "3", "3"});
  const Graph g = load(model);
  EXPECT_EQ(g.node_count(), 3u);
  EXPECT_EQ(g.outputs()[0]->name(), "y");
  EXPECT_EQ(g.outputs()[1]->name(), "z");
  EXPECT_EQ(g.first()->name(), "conv0");
}

TEST(OnnxImport, SymbolsAreIdentifiers) {
  auto model = conv_relu_add();
  *model.mutable_graph()->mutable_input(0) = value_info("x", {"batch size", "1", "h", ""});
  EXPECT_EQ(load(model).inputs()[0]->type().str(), "f32[batch_size, 1, h, ?]");
}

}  // namespace
}  // namespace octavo
