#include "export/onnx.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "backends/reference/interpreter.h"
#include "frontends/onnx/models.h"
#include "graph/same_graph.h"
#include "graph/text.h"

namespace octavo {
namespace {

namespace fs = std::filesystem;
using namespace octavo::testing;
using ::testing::HasSubstr;

void expect_equal(const Graph& a, const Graph& b) {
  std::string difference;
  EXPECT_TRUE(same_graph(a, b, &difference)) << difference;
  EXPECT_EQ(a.stage, b.stage);
}

class OnnxExport : public ::testing::Test {
 protected:
  OnnxExport() {
    std::string name = (fs::temp_directory_path() / "octavo_XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~OnnxExport() override { fs::remove_all(folder_); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  size_t files() const {
    return static_cast<size_t>(
        std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }
  fs::path folder_;
};

TEST_F(OnnxExport, RoundTrip) {
  const Graph g = load(conv_relu_add());
  for (int64_t opset = 13; opset <= 22; ++opset) {
    export_onnx(g, path("m.onnx"), {.opset = opset});
    expect_equal(g, load_onnx(path("m.onnx")));
  }
  EXPECT_EQ(files(), 1u);
  EXPECT_EQ(onnx_bytes(g), onnx_bytes(load(onnx_bytes(g))));
}

// Weights are stored as integers: quantize of a constant is computed on the way out.
TEST_F(OnnxExport, StoresQuantizedConstants) {
  Graph g;
  Value* x = g.add_input("x", {DType::f32, {2, 3}});
  Value* w = g.add_constant("w", Tensor::from(Dims{3, 1}, std::vector<float>{-1, 0.5f, 2}));
  Value* scale = g.add_constant("s", Tensor::scalar(0.5f));
  Value* zero = g.add_constant("z", Tensor::scalar(int8_t{0}));
  Value* q = g.apply("quantize", {w, scale, zero}, {}, "q");
  Value* dq = g.apply("dequantize", {q, scale, zero}, {}, "dq");
  g.add_output(g.apply("matmul", {x, dq}, {}, "y"));
  g.stage = Stage::quantized;
  const Graph back = load(onnx_bytes(g));
  EXPECT_EQ(back.stage, Stage::quantized);
  EXPECT_EQ(back.node_count(), 2u);
  ASSERT_TRUE(back.find_value("q"));
  EXPECT_TRUE(back.find_value("q")->constant() ==
              Tensor::from(Dims{3, 1}, std::vector<int8_t>{-2, 1, 4}));
  EXPECT_EQ(back.find_value("w"), nullptr);
  expect_equal(back, load(onnx_bytes(back)));
}

TEST_F(OnnxExport, WritesHeader) {
  ::onnx::ModelProto model;
  ASSERT_TRUE(model.ParseFromString(onnx_bytes(load(conv_relu_add()))));
  EXPECT_EQ(model.ir_version(), 8);
  EXPECT_EQ(model.producer_name(), "octavo");
  ASSERT_EQ(model.opset_import_size(), 1);
  EXPECT_EQ(model.opset_import(0).version(), 17);
  EXPECT_EQ(model.graph().input(0).type().tensor_type().shape().dim(0).dim_param(), "N");
}

TEST_F(OnnxExport, ExternalData) {
  auto model = conv_relu_add();
  model.mutable_graph()->mutable_initializer(0)->CopyFrom(
      floats("w", {1, 1, 21, 21}, std::vector<float>(441, 0.5f)));
  model.mutable_graph()->mutable_node(0)->mutable_attribute(0)->clear_ints();
  for (int i = 0; i < 4; ++i)
    model.mutable_graph()->mutable_node(0)->mutable_attribute(0)->add_ints(10);
  const Graph g = load(model);
  export_onnx(g, path("m.onnx"), {.external_data = ExternalData::always});
  EXPECT_EQ(files(), 2u);
  EXPECT_EQ(fs::file_size(path("m.onnx.data")), 441u * 4);
  const Graph back = load_onnx(path("m.onnx"));
  expect_equal(g, back);
  // Over the file that its own weights are mapped from.
  export_onnx(back, path("m.onnx"), {.external_data = ExternalData::always});
  expect_equal(g, load_onnx(path("m.onnx")));
}

TEST_F(OnnxExport, OutputsThatNoNodeMakes) {
  Graph g;
  Value* x = g.add_input("x", {DType::f32, {2}});
  Value* c = g.add_constant("c", Tensor::from(Dims{2}, std::vector<float>{1, 2}));
  Value* y = g.apply("add", {x, c}, {}, "y");
  for (Value* output : {x, c, y, y}) g.add_output(output);
  ::onnx::ModelProto model;
  ASSERT_TRUE(model.ParseFromString(onnx_bytes(g)));
  std::set<std::string> names;
  for (const auto& output : model.graph().output()) names.insert(output.name());
  EXPECT_EQ(names.size(), 4u);
  EXPECT_TRUE(names.contains("c") && names.contains("y") && !names.contains("x"));
}

int64_t opset_of(const std::string& text) {
  ::onnx::ModelProto model;
  EXPECT_TRUE(model.ParseFromString(onnx_bytes(parse_graph(text))));
  return model.opset_import(0).version();
}

// 17 unless a node wants more; a lower one that is asked for is refused, and nothing is written.
TEST_F(OnnxExport, GivesNodesOfOneNameDifferentOnes) {
  Graph g = parse_graph(R"(graph "g" canonical {
    input %x : f32[4]
    %same_1 = relu(%x)
    %a = neg(%same_1)
    %b = abs(%a)
    %c = neg(%b)
    return %c
  })");
  g.for_each([](Node& node) {
    if (!node.is("relu")) node.set_name("same");
  });
  ::onnx::ModelProto model;
  ASSERT_TRUE(model.ParseFromString(onnx_bytes(g)));
  std::vector<std::string> names;
  for (const auto& node : model.graph().node()) names.push_back(node.name());
  EXPECT_THAT(names, ::testing::ElementsAre("same_1", "same", "same_2", "same_3"));
}

TEST_F(OnnxExport, TakesTheLeastOpsetThatSuffices) {
  const auto graph = [](const char* body) {
    return fmt::format(R"(graph "g" quantized {{
      input %x : f32[1, 4, 8, 8]
      const %s : f32[] = 0.5
      const %h : f16[] = 0.5
      const %wide : i16[] = 3
      const %blocks : f32[1, 2, 8, 8] = random(1, 1, 2)
      const %w : i8[1, 4, 8, 8] = random(2, -9, 9)
      {}
      return %y
    }})",
                       body);
  };
  EXPECT_EQ(opset_of(graph("%y = relu(%x)")), 17);
  EXPECT_EQ(opset_of(graph("%q = quantize(%x, %s) %y = dequantize(%q, %s)")), 17);
  EXPECT_EQ(opset_of(graph("%y = pad(%x) {pads = [0, 0, 0, 0, 0, 0, 1, 1], axes = [0, 1, 2, 3]}")),
            17);
  EXPECT_EQ(opset_of(graph("%y = avg_pool(%x) {kernel = [2, 2], dilations = [2, 2]}")), 19);
  EXPECT_EQ(opset_of(graph("%y = dequantize(%w, %h)")), 19);
  const std::string wide = graph("%q = quantize(%x, %s, %wide) %y = dequantize(%q, %s, %wide)"),
                    groups = graph("%y = dequantize(%w, %blocks) {axis = 1, group_size = 2}");
  EXPECT_EQ(opset_of(wide), 21);
  EXPECT_EQ(opset_of(groups), 21);
  for (const std::string& text : {wide, groups})
    EXPECT_THAT(error_of([&] { export_onnx(parse_graph(text), path("m.onnx"), {.opset = 20}); }),
                HasSubstr("has no ONNX form before opset 21; export with opset 21 or later"));
  const auto brief = [](const char* body) {
    return fmt::format(R"(graph "g" canonical {{
      input %x : bf16[1, 4, 8, 8]
      const %v : bf16[3, 4, 1, 1] = [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]
      {}
      return %y
    }})",
                       body);
  };
  EXPECT_EQ(opset_of(brief("%y = relu(%x)")), 17);
  for (const char* body :
       {"%y = conv(%x, %v)", "%y = round(%x)", "%y = max_pool(%x) {kernel = [2, 2]}"}) {
    EXPECT_EQ(opset_of(brief(body)), 22) << body;
    EXPECT_THAT(
        error_of([&] { export_onnx(parse_graph(brief(body)), path("m.onnx"), {.opset = 21}); }),
        HasSubstr("has no ONNX form before opset 22; export with opset 22 or later"));
  }
  EXPECT_EQ(files(), 0u);
}

TEST_F(OnnxExport, Errors) {
  const Graph g = load(conv_relu_add());
  EXPECT_EQ(error_of([&] { export_onnx(g, path("m.onnx"), {.opset = 12}); }),
            "opset: 12 is outside 13 to 22; leave it out for the least that suffices");
  EXPECT_EQ(error_of([&] { export_onnx(g, path("m.onnx"), {.opset = 23}); }),
            "opset: 23 is outside 13 to 22; leave it out for the least that suffices");
  EXPECT_THAT(error_of([&] { export_onnx(g, path("m.onnx"), {.opset = 21, .ir_version = 8}); }),
              HasSubstr("opset 21 needs at least IR version 10"));
  EXPECT_THAT(error_of([&] { export_onnx(g, path("no/such/folder/m.onnx")); }),
              HasSubstr("cannot write"));
  Graph lowered = g.clone();
  lowered.stage = Stage::lowered;
  EXPECT_THAT(error_of([&] { export_onnx(lowered, path("m.onnx")); }),
              HasSubstr("has no ONNX form"));
  EXPECT_EQ(files(), 0u);
  // A folder stands where the file should go.
  fs::create_directories(path("m.onnx"));
  EXPECT_THAT(error_of([&] { export_onnx(g, path("m.onnx")); }), HasSubstr("cannot write"));
  EXPECT_EQ(files(), 1u);
}

}  // namespace
}  // namespace octavo
