// One mistake each in a node: odd attributes, wrong types and shapes, numbers out of range.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "frontends/onnx/import.h"
#include "frontends/onnx/models.h"

namespace octavo {
namespace {

using namespace octavo::testing;
using ::onnx::TensorProto;
using ::testing::HasSubstr;

// A model of one node; inputs are graph inputs unless an initializer takes their name.
struct OneNode {
  ::onnx::ModelProto model;
  ::onnx::NodeProto* node;

  OneNode(const std::string& op, const std::vector<std::string>& inputs, int64_t opset = 17,
          const std::string& domain = "")
      : model(empty_model(opset)), node(add_node(model, op, inputs, {"y"}, "node")) {
    node->set_domain(domain);
    if (!domain.empty()) {
      auto* import = model.add_opset_import();
      import->set_domain(domain);
      import->set_version(1);
    }
    model.mutable_graph()->add_output()->set_name("y");
  }
  OneNode& input(const std::string& name, const std::vector<std::string>& dims,
                 int type = TensorProto::FLOAT) {
    *model.mutable_graph()->add_input() = value_info(name, dims, type);
    return *this;
  }
  OneNode& constant(const TensorProto& tensor) {
    *model.mutable_graph()->add_initializer() = tensor;
    return *this;
  }
  OneNode& with(const std::string& name, int64_t value) {
    add_int(node, name, value);
    return *this;
  }
  OneNode& with(const std::string& name, const std::vector<int64_t>& values) {
    add_ints(node, name, values);
    return *this;
  }
  OneNode& with(const std::string& name, const std::string& value) {
    auto* attribute = node->add_attribute();
    attribute->set_name(name);
    attribute->set_type(::onnx::AttributeProto::STRING);
    attribute->set_s(value);
    return *this;
  }
  std::string error() const { return error_of(model); }
};

const std::vector<std::string> image{"1", "4", "6", "6"};

TEST(OnnxOpErrors, NameTheNode) {
  EXPECT_THAT(OneNode("Pad", {"x", "p"}).input("x", {"4"}).constant(ints("p", {1}, {1})).error(),
              HasSubstr("Pad 'node' (domain ai.onnx, opset 17)"));
}

TEST(OnnxOpErrors, Attributes) {
  const auto pad = [](const std::string& mode) {
    return OneNode("Pad", {"x", "p"})
        .input("x", {"4"})
        .constant(ints("p", {2}, {1, 1}))
        .with("mode", mode);
  };
  EXPECT_EQ(pad("reflect").error(), "no error");
  EXPECT_THAT(pad("mirror").error(), HasSubstr("mode must be constant, reflect, edge or wrap"));
  EXPECT_THAT(OneNode("Resize", {"x", "", "s"})
                  .input("x", {"4"})
                  .constant(floats("s", {1}, {2}))
                  .with("coordinate_transformation_mode", "diagonal")
                  .error(),
              HasSubstr("coordinates must be one of half_pixel"));
  EXPECT_THAT(OneNode("DepthToSpace", {"x"}).input("x", image).with("blocksize", 0).error(),
              HasSubstr("block is out of range"));
  EXPECT_THAT(OneNode("DepthToSpace", {"x"})
                  .input("x", image)
                  .with("blocksize", 2)
                  .with("mode", "CDR")
                  .error(),
              HasSubstr("mode must be DCR or CRD"));
  EXPECT_THAT(OneNode("BitShift", {"x", "x"}).input("x", {"2"}, TensorProto::UINT8).error(),
              HasSubstr("direction must be LEFT or RIGHT"));
  EXPECT_THAT(OneNode("Cast", {"x"}).input("x", {"2"}).with("to", 99).error(),
              HasSubstr("99 is not an element type"));
  EXPECT_THAT(OneNode("Cast", {"x"}).input("x", {"2"}).with("to", TensorProto::FLOAT8E5M2).error(),
              HasSubstr("elements of type FLOAT8E5M2 are not supported"));
  EXPECT_THAT(OneNode("LRN", {"x"}).input("x", image).with("size", -1).error(),
              HasSubstr("size must be positive"));
  EXPECT_THAT(OneNode("Softmax", {"x"}).input("x", image).with("axis", 4).error(),
              HasSubstr("axis 4 is outside a rank of 4"));
  EXPECT_THAT(OneNode("Gelu", {"x"}, 20).input("x", image).with("approximate", "sigmoid").error(),
              HasSubstr("approximate must be none or tanh"));
  EXPECT_THAT(OneNode("GroupNormalization", {"x", "s", "s"}, 21)
                  .input("x", image)
                  .input("s", {"4"})
                  .with("num_groups", 3)
                  .error(),
              HasSubstr("groups must divide the channels"));
}

TEST(OnnxOpErrors, ShapesAndTypes) {
  EXPECT_THAT(OneNode("ConvTranspose", {"x", "w"})
                  .input("x", image)
                  .constant(floats("w", {2, 1, 1, 1}, {1, 2}))
                  .error(),
              HasSubstr("input has 4 channels, the weights want 2"));
  EXPECT_THAT(OneNode("Where", {"c", "x", "x"}).input("c", {"2"}).input("x", {"2"}).error(),
              HasSubstr("the condition must be bool"));
  EXPECT_THAT(OneNode("And", {"x", "x"}).input("x", {"2"}).error(), HasSubstr("must be bool"));
  EXPECT_THAT(OneNode("Gather", {"x", "i"}).input("x", {"2"}).input("i", {"1"}).error(),
              HasSubstr("indices must be i64 or i32"));
  EXPECT_THAT(OneNode("Einsum", {"x"}).input("x", {"2", "3"}).with("equation", "i->i").error(),
              HasSubstr("does not fit the rank"));
  EXPECT_THAT(OneNode("GRU", {"x", "w", "r"})
                  .input("x", {"5", "1", "3"})
                  .input("w", {"1", "6", "4"})
                  .input("r", {"1", "6", "2"})
                  .with("hidden_size", 2)
                  .error(),
              HasSubstr("input 1 is [1, 6, 4] instead of [1, 6, 3]"));
  EXPECT_THAT(
      OneNode("LayerNormalization", {"x", "s"}).input("x", {"2", "3"}).input("s", {"4"}).error(),
      HasSubstr("do not broadcast"));
}

TEST(OnnxOpErrors, NumbersOutOfRange) {
  EXPECT_THAT(OneNode("TopK", {"x", "k"}).input("x", {"3"}).constant(ints("k", {1}, {4})).error(),
              HasSubstr("k must be within the axis"));
  EXPECT_THAT(OneNode("Expand", {"x", "s"})
                  .input("x", {"1"})
                  .constant(ints("s", {2}, {int64_t{1} << 30, int64_t{1} << 30}))
                  .error(),
              HasSubstr("more than 2^40 elements"));
  EXPECT_THAT(OneNode("Tile", {"x", "r"})
                  .input("x", {"1000"})
                  .constant(ints("r", {1}, {int64_t{1} << 39}))
                  .error(),
              HasSubstr("more than 2^40 elements"));
  EXPECT_THAT(OneNode("Pad", {"x", "p"})
                  .input("x", {"4"})
                  .constant(ints("p", {2}, {int64_t{1} << 60, 0}))
                  .error(),
              HasSubstr("a pad is out of range"));
  EXPECT_THAT(OneNode("ConstantOfShape", {"s"}).constant(ints("s", {1}, {-1})).error(),
              HasSubstr("a dimension is negative"));
  EXPECT_THAT(OneNode("Resize", {"x", "", "s"})
                  .input("x", {"4"})
                  .constant(floats("s", {1}, {INFINITY}))
                  .error(),
              HasSubstr("a scale is not positive"));
  EXPECT_THAT(OneNode("Range", {"a", "b", "c"})
                  .constant(floats("a", {}, {0}))
                  .constant(floats("b", {}, {1}))
                  .constant(floats("c", {}, {0}))
                  .error(),
              HasSubstr("the range is endless or too long"));
  EXPECT_THAT(OneNode("Slice", {"x", "a", "b", "c", "d"})
                  .input("x", {"4"})
                  .constant(ints("a", {1}, {0}))
                  .constant(ints("b", {1}, {4}))
                  .constant(ints("c", {1}, {0}))
                  .constant(ints("d", {1}, {0}))
                  .error(),
              HasSubstr("a step is 0"));
}

TEST(OnnxOpErrors, ContribOps) {
  const std::string ms = "com.microsoft";
  EXPECT_THAT(OneNode("MatMulNBits", {"x", "w", "s"}, 17, ms)
                  .input("x", {"1", "8"})
                  .input("w", {"1"}, TensorProto::UINT8)
                  .input("s", {"1"})
                  .with("bits", 5)
                  .with("K", 8)
                  .with("N", 1)
                  .with("block_size", 16)
                  .error(),
              HasSubstr("MatMulNBits 'node' (domain com.microsoft, opset 1): 5 bits"));
  EXPECT_THAT(OneNode("MatMulNBits", {"x", "w", "s"}, 17, ms)
                  .input("x", {"1", "8"})
                  .input("w", {"1"})
                  .input("s", {"1"})
                  .error(),
              HasSubstr("N, K or block_size is out of range"));
  EXPECT_THAT(OneNode("MultiHeadAttention", {"x", "x", "x"}, 17, ms)
                  .input("x", {"1", "2", "8"})
                  .with("num_heads", 0)
                  .error(),
              HasSubstr("the number of heads must be given"));
  EXPECT_THAT(OneNode("QLinearAdd", {"x", "s", "z"}, 17, ms)
                  .input("x", {"2"}, TensorProto::UINT8)
                  .input("s", {})
                  .input("z", {}, TensorProto::UINT8)
                  .error(),
              HasSubstr("is missing"));
  EXPECT_THAT(OneNode("RotaryEmbedding", {"x", "p", "c", "c"}, 17, ms)
                  .input("x", {"1", "2", "8"})
                  .input("p", {"1", "2"}, TensorProto::INT64)
                  .input("c", {"4", "2"})
                  .with("rotary_embedding_dim", 3)
                  .error(),
              HasSubstr("rotary_embedding_dim does not fit"));
}

}  // namespace
}  // namespace octavo
