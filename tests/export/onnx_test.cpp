#include "export/onnx.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "backends/reference/interpreter.h"
#include "frontends/onnx/models.h"

namespace octavo {
namespace {

namespace fs = std::filesystem;
using namespace octavo::testing;
using ::testing::HasSubstr;

// A line for each input, node and output, with everything in it but the constants' bytes.
std::string structure(const Graph& g) {
  std::string text = fmt::format("{} {}\n", g.name, stage_name(g.stage));
  for (const Value* input : g.inputs())
    text += fmt::format("in {} {}\n", input->name(), input->type().str());
  g.for_each([&](Node& node) {
    text += fmt::format("{} (", node.where());
    for (const Value* input : node.inputs())
      text += !input ? "_ "
                     : fmt::format("{}{} ", input->name(),
                                   input->is_constant() ? input->type().str() : "");
    text += ")";
    for (const auto& [name, value] : node.attributes()) {
      text += fmt::format(" {}", name);
      if (const auto* i = std::get_if<int64_t>(&value)) text += fmt::format("={}", *i);
      if (const auto* r = std::get_if<double>(&value)) text += fmt::format("={}", *r);
      if (const auto* s = std::get_if<std::string>(&value)) text += fmt::format("={}", *s);
      if (const auto* v = std::get_if<Ints>(&value))
        text += fmt::format("=[{}]", fmt::join(*v, ","));
      if (const auto* v = std::get_if<Floats>(&value))
        text += fmt::format("=[{}]", fmt::join(*v, ","));
    }
    for (const Value* output : node.outputs())
      text += fmt::format(" -> {} {}", output->name(), output->type().str());
    text += "\n";
  });
  for (const Value* output : g.outputs()) text += fmt::format("out {}\n", output->name());
  return text;
}

void expect_equal(const Graph& a, const Graph& b) {
  EXPECT_EQ(structure(a), structure(b));
  for (const Value* constant : a.constants()) {
    const Value* other = b.find_value(constant->name());
    ASSERT_TRUE(other) << constant->name();
    EXPECT_TRUE(constant->constant() == other->constant()) << constant->name();
  }
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
  for (int64_t opset = 13; opset <= 21; ++opset) {
    export_onnx(g, path("m.onnx"), {.opset = opset});
    expect_equal(g, load_onnx(path("m.onnx")));
  }
  EXPECT_EQ(files(), 1u);
  EXPECT_EQ(onnx_bytes(g), onnx_bytes(load(onnx_bytes(g))));
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

TEST_F(OnnxExport, Errors) {
  const Graph g = load(conv_relu_add());
  EXPECT_EQ(error_of([&] { export_onnx(g, path("m.onnx"), {.opset = 12}); }),
            "opset: 12 is outside 13 to 21");
  EXPECT_EQ(error_of([&] { export_onnx(g, path("m.onnx"), {.opset = 22}); }),
            "opset: 22 is outside 13 to 21");
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
