// One mistake each: what an unsound or unsupported model says, and that nothing crashes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "frontends/onnx/import.h"
#include "frontends/onnx/models.h"
#include "graph/verify.h"

namespace octavo {
namespace {

namespace fs = std::filesystem;
using namespace octavo::testing;
using ::onnx::TensorProto;
using ::testing::HasSubstr;

// A folder that goes when the test ends.
class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "octavo_XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~Folder() { fs::remove_all(path_); }
  std::string file(const std::string& name, const std::string& bytes) const {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << bytes;
    return (path_ / name).string();
  }
  std::string str() const { return path_.string(); }

 private:
  fs::path path_;
};

std::string load_error(const std::string& path) {
  return error_of([&] { load_onnx(path); });
}

TEST(OnnxErrors, Files) {
  const Folder folder;
  EXPECT_THAT(load_error(folder.str() + "/none.onnx"),
              HasSubstr("none.onnx: cannot open: No such file"));
  EXPECT_THAT(load_error(folder.str()), HasSubstr("cannot open: Is a directory"));
  EXPECT_THAT(load_error(folder.file("a.onnx", "")), HasSubstr("a.onnx: the file is empty"));
  EXPECT_THAT(load_error(folder.file("b.onnx", "PK\3\4 a zip, say")),
              HasSubstr("not an ONNX model"));
  EXPECT_THAT(load_error(folder.file("c.onnx", std::string(4096, '\0'))),
              HasSubstr("not an ONNX model"));
  const std::string pipe = folder.str() + "/pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(load_error(pipe), HasSubstr("cannot open"));
}

TEST(OnnxErrors, Versions) {
  EXPECT_THAT(error_of(conv_relu_add(6)), HasSubstr("opset 6 is not supported, only 7 to"));
  EXPECT_THAT(error_of(conv_relu_add(999)), HasSubstr("opset 999 is not supported"));
  auto model = conv_relu_add();
  model.set_ir_version(2);
  EXPECT_THAT(error_of(model), HasSubstr("ONNX IR version 2 is not supported, only 3 to"));
  model.set_ir_version(99);
  EXPECT_THAT(error_of(model), HasSubstr("ONNX IR version 99"));
  model = conv_relu_add();
  model.clear_opset_import();
  EXPECT_THAT(error_of(model), HasSubstr("imports no opset"));
  model = conv_relu_add();
  auto* second = model.add_opset_import();
  second->set_domain("ai.onnx");  // the same domain by its other name
  second->set_version(13);
  EXPECT_THAT(error_of(model), HasSubstr("domain ai.onnx is imported at two versions"));
  model = conv_relu_add();
  model.mutable_graph()->mutable_node(1)->set_domain("com.example");
  EXPECT_THAT(
      error_of(model),
      HasSubstr("node 'relu0' (Relu) is of domain com.example, which the model does not import"));
}

TEST(OnnxErrors, AllUnsupportedOpsAtOnce) {
  auto model = conv_relu_add();
  auto* import = model.add_opset_import();
  import->set_domain("com.example");
  import->set_version(3);
  model.mutable_graph()->mutable_node(1)->set_op_type("Frobnicate");
  model.mutable_graph()->mutable_node(1)->set_domain("com.example");
  model.mutable_graph()->mutable_node(2)->set_op_type("Mystery");
  model.mutable_graph()->mutable_node(2)->set_output(0, "z");
  add_node(model, "Mystery", {"z"}, {"y"}, "again");
  EXPECT_EQ(
      message_of(model),
      "these ops are not supported: Frobnicate (domain com.example, opset 3) at node 'relu0'; "
      "Mystery (domain ai.onnx, opset 17) at node 'add0' and 1 more");
  model = conv_relu_add();
  auto* branch = model.mutable_graph()->mutable_node(1)->add_attribute();
  branch->set_name("then_branch");
  branch->set_type(::onnx::AttributeProto::GRAPH);
  branch->mutable_g()->set_name("then");
  EXPECT_THAT(error_of(model),
              HasSubstr("Relu (domain ai.onnx, opset 17) at node 'relu0' (it holds a subgraph)"));
  model = conv_relu_add();
  auto* function = model.add_functions();
  function->set_name("Relu");
  EXPECT_THAT(error_of(model), HasSubstr("at node 'relu0' (a function of the model"));
}

TEST(OnnxErrors, Names) {
  auto model = conv_relu_add();
  model.mutable_graph()->mutable_node(1)->set_input(0, "gone");
  EXPECT_EQ(message_of(model), "node 'relu0' reads 'gone', which nothing defines");
  model = conv_relu_add();
  model.mutable_graph()->mutable_initializer()->DeleteSubrange(0, 1);
  EXPECT_EQ(message_of(model), "node 'conv0' reads 'w', which nothing defines");
  model = conv_relu_add();
  model.mutable_graph()->mutable_output(0)->set_name("gone");
  EXPECT_EQ(message_of(model), "the graph outputs 'gone', which nothing defines");
  model = conv_relu_add();
  model.mutable_graph()->mutable_node(1)->set_output(0, "c");
  EXPECT_EQ(message_of(model), "value 'c' is defined twice, by node 'relu0' and elsewhere");
  model = conv_relu_add();
  *model.mutable_graph()->add_initializer() = model.graph().initializer(0);
  EXPECT_EQ(message_of(model), "initializer 'w' is defined twice");
  model = conv_relu_add();
  *model.mutable_graph()->add_input() = model.graph().input(0);
  EXPECT_EQ(message_of(model), "graph input 'x' is defined twice");
  model = conv_relu_add();
  *model.mutable_graph()->add_output() = model.graph().output(0);
  EXPECT_EQ(message_of(model), "graph output 'y' is listed twice");
  model = conv_relu_add();
  model.mutable_graph()->clear_output();
  EXPECT_EQ(message_of(model), "the model has no outputs");
}

TEST(OnnxErrors, Cycle) {
  auto model = conv_relu_add();
  model.mutable_graph()->mutable_node(0)->set_input(0, "r");
  EXPECT_EQ(message_of(model), "the graph has a cycle: 'conv0' → 'relu0' → 'conv0'");
  model.mutable_graph()->mutable_node(0)->set_input(0, "c");
  EXPECT_EQ(message_of(model), "the graph has a cycle: 'conv0' → 'conv0'");
}

TEST(OnnxErrors, Attributes) {
  auto model = conv_relu_add();
  auto* attribute = model.mutable_graph()->mutable_node(0)->mutable_attribute(0);
  *model.mutable_graph()->mutable_node(0)->add_attribute() = *attribute;
  EXPECT_EQ(message_of(model),
            "Conv 'conv0' (domain ai.onnx, opset 17): attribute 'pads' is given twice");
  model = conv_relu_add();
  attribute = model.mutable_graph()->mutable_node(0)->mutable_attribute(0);
  attribute->set_type(::onnx::AttributeProto::STRING);
  EXPECT_EQ(
      message_of(model),
      "Conv 'conv0' (domain ai.onnx, opset 17): attribute 'pads' is of type STRING, not INTS");
  attribute->set_type(::onnx::AttributeProto::INTS);
  attribute->set_ref_attr_name("outer");
  EXPECT_THAT(error_of(model), HasSubstr("refers to a function's attribute"));
  attribute->clear_ref_attr_name();
  attribute->set_ints(0, -1);
  EXPECT_THAT(error_of(model), HasSubstr("Conv 'conv0' (domain ai.onnx, opset 17): pads must be"));
  attribute->add_ints(1);
  EXPECT_THAT(error_of(model), HasSubstr("Conv 'conv0' (domain ai.onnx, opset 17)"));
}

TEST(OnnxErrors, Inputs) {
  auto model = conv_relu_add();
  *model.mutable_graph()->mutable_input(0) = value_info("x", {"N", "-2", "3", "3"});
  EXPECT_EQ(message_of(model), "graph input 'x': dimension -2 is negative");
  model.mutable_graph()->mutable_input(0)->mutable_type()->mutable_tensor_type()->clear_shape();
  EXPECT_THAT(error_of(model), HasSubstr("graph input 'x': a shape of unknown rank"));
  *model.mutable_graph()->mutable_input(0) =
      value_info("x", {"1", "1", "3", "3"}, TensorProto::STRING);
  EXPECT_EQ(message_of(model), "graph input 'x': elements of type STRING are not supported");
  *model.mutable_graph()->mutable_input(0) = value_info("x", {"1", "1", "3", "3"}, 1234);
  EXPECT_EQ(message_of(model), "graph input 'x': 1234 is not an element type");
  model.mutable_graph()->mutable_input(0)->mutable_type()->mutable_sequence_type();
  EXPECT_EQ(message_of(model), "graph input 'x': only tensors are supported");
  model = conv_relu_add();
  *model.mutable_graph()->mutable_input(0) = value_info("x", {"N", "2", "3", "3"});
  EXPECT_THAT(error_of(model),
              HasSubstr("Conv 'conv0' (domain ai.onnx, opset 17): input has 2 channels"));
  *model.mutable_graph()->mutable_input(0) = value_info("x", {"2000000", "1", "3000", "3000"});
  EXPECT_EQ(message_of(model), "graph input 'x': more than 2^40 elements");
  model = conv_relu_add();
  *model.mutable_graph()->mutable_output(0) = value_info("y", {}, TensorProto::INT64);
  EXPECT_EQ(message_of(model), "graph output 'y': is declared as i64 but computed as f32");
}

// conv_relu_add() whose weight is spoilt by `f`.
std::string weight_error(const std::function<void(TensorProto&)>& f,
                         const std::string& folder = "") {
  auto model = conv_relu_add();
  f(*model.mutable_graph()->mutable_initializer(0));
  return message_of(model, folder);
}

TEST(OnnxErrors, Tensors) {
  EXPECT_EQ(weight_error([](auto& t) { t.set_raw_data("1234"); }),
            "initializer 'w': holds 4 bytes, its shape wants 36");
  EXPECT_EQ(weight_error([](auto& t) { t.clear_raw_data(); }),
            "initializer 'w': holds 0 values, its shape wants 9");
  EXPECT_EQ(weight_error([](auto& t) { t.set_dims(0, -1); }),
            "initializer 'w': shape [-1, 1, 3, 3]: a dimension is negative");
  EXPECT_THAT(weight_error([](auto& t) { t.set_dims(0, int64_t{1} << 62); }),
              HasSubstr("more than 2^40 elements"));
  EXPECT_THAT(weight_error([](auto& t) { t.set_dims(0, int64_t{1} << 36); }),
              HasSubstr("holds 36 bytes, its shape wants 2473901162496"));
  EXPECT_EQ(weight_error([](auto& t) { t.set_data_type(TensorProto::FLOAT8E5M2); }),
            "initializer 'w': elements of type FLOAT8E5M2 are not supported");
  EXPECT_EQ(weight_error([](auto& t) { t.set_data_type(TensorProto::INT4); }),
            "initializer 'w': holds 36 values, its shape wants 5");
  EXPECT_EQ(weight_error([](auto& t) { t.set_data_type(TensorProto::STRING); }),
            "initializer 'w': elements of type STRING are not supported");
  EXPECT_EQ(weight_error([](auto& t) { t.set_data_type(0); }),
            "initializer 'w': 0 is not an element type");
  EXPECT_EQ(weight_error([](auto& t) { t.mutable_segment(); }),
            "initializer 'w': segmented tensors are not supported");
  EXPECT_EQ(weight_error([](auto& t) {
              t.set_data_type(TensorProto::INT8);
              t.clear_raw_data();
              for (int i = 0; i < 9; ++i) t.add_int32_data(i * 20);
            }),
            "initializer 'w': value 140 does not fit its element type");
  EXPECT_EQ(weight_error([](auto& t) {
              t.set_data_type(TensorProto::BOOL);
              t.set_raw_data(std::string("\0\1\0\1\0\1\0\1\2", 9));
            }),
            "initializer 'w': a bool is neither 0 nor 1");
  EXPECT_THAT(weight_error([](auto& t) {
                t.set_data_type(TensorProto::DOUBLE);
                t.clear_raw_data();
                for (int i = 0; i < 9; ++i) t.add_double_data(i);
              }),
              HasSubstr("Conv 'conv0' (domain ai.onnx, opset 17): input and weights differ"));
}

std::string external_error(const std::string& folder, const std::string& location,
                           const std::string& offset = "0", const std::string& length = "36") {
  return weight_error(
      [&](auto& t) {
        t.clear_raw_data();
        t.set_data_location(TensorProto::EXTERNAL);
        for (const auto& [key, value] :
             {std::pair{"location", location}, {"offset", offset}, {"length", length}}) {
          auto* entry = t.add_external_data();
          entry->set_key(key);
          entry->set_value(value);
        }
      },
      folder);
}

TEST(OnnxErrors, ExternalData) {
  const Folder folder;
  folder.file("outside.bin", std::string(64, '\0'));
  folder.file("m/w.bin", std::string(64, '\0'));
  const std::string m = folder.str() + "/m";
  fs::create_symlink(folder.str() + "/outside.bin", m + "/link.bin");
  EXPECT_EQ(external_error(m, "w.bin"), "no error");
  EXPECT_EQ(external_error(m, "w.bin", "27"), "no error");  // unaligned: copied
  EXPECT_EQ(external_error(m, "./w.bin", "28"), "no error");
  EXPECT_THAT(external_error(m, "w.bin", "29"),
              HasSubstr("bytes 29 to 65 lie outside 'w.bin', which has 64"));
  EXPECT_THAT(external_error(m, "w.bin", "9223372036854775807"), HasSubstr("lie outside"));
  EXPECT_THAT(external_error(m, "w.bin", "-1"), HasSubstr("'-1' is not an offset or length"));
  EXPECT_THAT(external_error(m, "w.bin", "1e3"), HasSubstr("'1e3' is not an offset or length"));
  EXPECT_THAT(external_error(m, "w.bin", "0", "35"),
              HasSubstr("holds 35 bytes, its shape wants 36"));
  EXPECT_THAT(external_error(m, "none.bin"),
              HasSubstr("external data file 'none.bin': No such file"));
  for (const char* path : {"../outside.bin", "link.bin", "", "../m/w.bin", "/etc/passwd"})
    EXPECT_THAT(external_error(m, path), HasSubstr("is outside the model's folder")) << path;
  EXPECT_THAT(external_error(m, "."), HasSubstr("is not a file"));
  EXPECT_THAT(external_error("", "w.bin"), HasSubstr("not loaded from a file"));
}

// Either a sound graph or a UserError; anything else ends the test.
void try_load(const std::string& bytes) {
  try {
    const Graph g = load(bytes);
    EXPECT_THAT(violations(g, g.stage), ::testing::IsEmpty());
  } catch (const UserError& e) {
    EXPECT_FALSE(e.message().empty());
  }
}

TEST(OnnxErrors, TruncatedAnywhere) {
  auto model = conv_relu_add();
  model.set_producer_name("test");
  const std::string bytes = model.SerializeAsString();
  int loaded = 0;
  for (size_t size = 0; size < bytes.size(); ++size) {
    try {
      load(bytes.substr(0, size));
      ++loaded;
    } catch (const UserError& e) {
      EXPECT_EQ(e.kind(), ErrorKind::file) << size;
    }
  }
  EXPECT_EQ(loaded, 0);
}

// One of everything: windows, shape arithmetic, attributes, typed and raw tensors, Q/DQ.
::onnx::ModelProto many_ops() {
  auto model = conv_relu_add();
  auto* graph = model.mutable_graph();
  graph->mutable_output(0)->set_name("out");
  for (const auto& [name, values] : std::vector<std::pair<std::string, std::vector<int64_t>>>{
           {"zero", {0}}, {"two", {2}}, {"minus", {-1}}, {"three", {3}}, {"half", {1, 2}}})
    *graph->add_initializer() = ints(name, {static_cast<int64_t>(values.size())}, values);
  *graph->add_initializer() = floats("scale", {}, {0.1f});
  *graph->add_initializer() = floats("matrix", {9, 4}, std::vector<float>(36, 0.25f));
  auto* zero_point = graph->add_initializer();
  zero_point->set_name("zp");
  zero_point->set_data_type(TensorProto::INT8);
  zero_point->add_int32_data(3);
  auto* pool = add_node(model, "MaxPool", {"y"}, {"p"});
  add_ints(pool, "kernel_shape", {2, 2});
  add_ints(pool, "strides", {1, 1});
  add_ints(pool, "pads", {0, 0, 1, 1});
  add_node(model, "QuantizeLinear", {"p", "scale", "zp"}, {"q"});
  add_node(model, "DequantizeLinear", {"q", "scale", "zp"}, {"d"});
  add_node(model, "Shape", {"y"}, {"shape"});
  add_node(model, "Gather", {"shape", "zero"}, {"n"});
  add_node(model, "Mul", {"three", "three"}, {"nine"});
  add_node(model, "Div", {"nine", "minus"}, {"negative"});
  add_node(model, "Sub", {"zero", "negative"}, {"positive"});
  add_int(add_node(model, "Concat", {"n", "positive"}, {"target"}), "axis", 0);
  add_node(model, "Reshape", {"d", "target"}, {"flat"});
  add_node(model, "MatMul", {"flat", "matrix"}, {"m"});
  add_node(model, "Slice", {"m", "zero", "three", "minus"}, {"s"});
  add_int(add_node(model, "Softmax", {"s"}, {"soft"}), "axis", 1);
  add_int(add_node(model, "Unsqueeze", {"soft", "two"}, {"u"}), "unused", 1);
  add_node(model, "Squeeze", {"u", "minus"}, {"v"});
  add_ints(add_node(model, "Transpose", {"v"}, {"t"}), "perm", {1, 0});
  auto* split = add_node(model, "Split", {"t", "half"}, {"s0", "s1"});
  add_int(split, "axis", 0);
  add_ints(add_node(model, "ReduceMean", {"s1"}, {"r0"}), "axes", {0});
  add_int(add_node(model, "ReduceProd", {"half"}, {"product"}), "keepdims", 1);
  add_int(add_node(model, "Cast", {"product"}, {"cast"}), "to", TensorProto::FLOAT);
  add_node(model, "Add", {"r0", "cast"}, {"sum"});
  add_node(model, "Clip", {"sum", "scale"}, {"out"});
  graph->mutable_output(0)->mutable_type()->mutable_tensor_type()->clear_shape();
  return model;
}

TEST(OnnxErrors, Scales) {
  const auto error = [](auto spoil) {
    auto model = many_ops();
    spoil(*model.mutable_graph());
    return error_of(model);
  };
  const auto scale = [](auto& graph) -> auto& {
    for (auto& tensor : *graph.mutable_initializer())
      if (tensor.name() == "scale") return tensor;
    throw std::logic_error("no scale");
  };
  for (const float bad : {0.0f, -1.0f, INFINITY, NAN})
    EXPECT_THAT(error([&](auto& g) { scale(g).set_raw_data(&bad, sizeof bad); }),
                HasSubstr("QuantizeLinear 'q' (domain ai.onnx, opset 17): the scale"));
}

// Random bytes at random places, of the seed's choice.
void corrupt(const std::string& bytes, int rounds, uint32_t seed) {
  std::mt19937 random(seed);
  for (int round = 0; round < rounds; ++round) {
    std::string spoilt = bytes;
    for (auto flips = 1 + random() % 4; flips > 0; --flips)
      spoilt[random() % spoilt.size()] = static_cast<char>(random());
    try_load(spoilt);
  }
}

TEST(OnnxErrors, CorruptedBytes) {
  corrupt(conv_relu_add().SerializeAsString(), 10000, 1);
  load(many_ops());
  corrupt(many_ops().SerializeAsString(), 20000, 2);
}

// Every number of the model at its extremes: what byte flips reach too rarely.
TEST(OnnxErrors, ExtremeNumbers) {
  constexpr int64_t extremes[] = {
      0,         1,         -1,           2, 1 << 20, int64_t{1} << 31, int64_t{1} << 40,
      INT64_MAX, INT64_MIN, INT64_MIN / 2};
  const auto model = many_ops();
  int numbers = 0;
  const auto each = [&](auto visit) {
    auto spoilt = model;
    auto* graph = spoilt.mutable_graph();
    const auto set = [&](auto apply) {
      ++numbers;
      for (const int64_t value : extremes) {
        apply(value);
        try_load(spoilt.SerializeAsString());
      }
      spoilt = model;
      graph = spoilt.mutable_graph();
    };
    visit(graph, set);
  };
  for (int n = 0; n < model.graph().node_size(); ++n)
    for (int a = 0; a < model.graph().node(n).attribute_size(); ++a) {
      const auto& attribute = model.graph().node(n).attribute(a);
      for (int i = 0; i < attribute.ints_size(); ++i)
        each([&](auto*& graph, auto set) {
          set([&, n, a, i](int64_t v) {
            graph->mutable_node(n)->mutable_attribute(a)->set_ints(i, v);
          });
        });
      if (attribute.has_i())
        each([&](auto*& graph, auto set) {
          set([&, n, a](int64_t v) { graph->mutable_node(n)->mutable_attribute(a)->set_i(v); });
        });
    }
  for (int t = 0; t < model.graph().initializer_size(); ++t) {
    for (int i = 0; i < model.graph().initializer(t).int64_data_size(); ++i)
      each([&](auto*& graph, auto set) {
        set([&, t, i](int64_t v) { graph->mutable_initializer(t)->set_int64_data(i, v); });
      });
    for (int i = 0; i < model.graph().initializer(t).dims_size(); ++i)
      each([&](auto*& graph, auto set) {
        set([&, t, i](int64_t v) { graph->mutable_initializer(t)->set_dims(i, v); });
      });
  }
  for (int d = 0; d < 4; ++d)
    each([&](auto*& graph, auto set) {
      set([&, d](int64_t v) {
        graph->mutable_input(0)
            ->mutable_type()
            ->mutable_tensor_type()
            ->mutable_shape()
            ->mutable_dim(d)
            ->set_dim_value(v);
      });
    });
  EXPECT_GT(numbers, 40);
}

TEST(OnnxErrors, DeepNesting) {
  ::onnx::ModelProto model = conv_relu_add();
  auto* graph = model.mutable_graph();
  for (int depth = 0; depth < 1000; ++depth) {
    auto* node = graph->add_node();
    node->set_op_type("If");
    auto* attribute = node->add_attribute();
    attribute->set_type(::onnx::AttributeProto::GRAPH);
    graph = attribute->mutable_g();
  }
  EXPECT_THAT(error_of(model), HasSubstr("not an ONNX model, or truncated or corrupted"));
}

}  // namespace
}  // namespace octavo
