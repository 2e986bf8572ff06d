// Small ONNX models for tests, built in place so that each can be spoilt in one way.
#pragma once
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "frontends/onnx/import.h"
#include "onnx.pb.h"
#include "support/error.h"

namespace octavo::testing {

inline ::onnx::ValueInfoProto value_info(const std::string& name,
                                         const std::vector<std::string>& dims,
                                         int type = ::onnx::TensorProto::FLOAT) {
  ::onnx::ValueInfoProto info;
  info.set_name(name);
  auto* tensor = info.mutable_type()->mutable_tensor_type();
  tensor->set_elem_type(type);
  tensor->mutable_shape();
  for (const std::string& dim : dims) {
    auto* out = tensor->mutable_shape()->add_dim();
    if (dim.find_first_not_of("-0123456789") == std::string::npos && !dim.empty()) {
      out->set_dim_value(std::stoll(dim));
    } else if (!dim.empty()) {
      out->set_dim_param(dim);
    }
  }
  return info;
}

inline ::onnx::TensorProto floats(const std::string& name, const std::vector<int64_t>& dims,
                                  const std::vector<float>& values) {
  ::onnx::TensorProto tensor;
  tensor.set_name(name);
  tensor.set_data_type(::onnx::TensorProto::FLOAT);
  for (const int64_t dim : dims) tensor.add_dims(dim);
  tensor.set_raw_data(values.data(), values.size() * sizeof(float));
  return tensor;
}

inline ::onnx::TensorProto ints(const std::string& name, const std::vector<int64_t>& dims,
                                const std::vector<int64_t>& values) {
  ::onnx::TensorProto tensor;
  tensor.set_name(name);
  tensor.set_data_type(::onnx::TensorProto::INT64);
  for (const int64_t dim : dims) tensor.add_dims(dim);
  for (const int64_t value : values) tensor.add_int64_data(value);
  return tensor;
}

inline ::onnx::NodeProto* add_node(::onnx::ModelProto& model, const std::string& op,
                                   const std::vector<std::string>& inputs,
                                   const std::vector<std::string>& outputs,
                                   const std::string& name = "") {
  auto* node = model.mutable_graph()->add_node();
  node->set_op_type(op);
  node->set_name(name);
  for (const auto& input : inputs) node->add_input(input);
  for (const auto& output : outputs) node->add_output(output);
  return node;
}

inline ::onnx::AttributeProto* add_ints(::onnx::NodeProto* node, const std::string& name,
                                        const std::vector<int64_t>& values) {
  auto* attribute = node->add_attribute();
  attribute->set_name(name);
  attribute->set_type(::onnx::AttributeProto::INTS);
  for (const int64_t value : values) attribute->add_ints(value);
  return attribute;
}

inline void add_int(::onnx::NodeProto* node, const std::string& name, int64_t value) {
  auto* attribute = node->add_attribute();
  attribute->set_name(name);
  attribute->set_type(::onnx::AttributeProto::INT);
  attribute->set_i(value);
}

inline ::onnx::ModelProto empty_model(int64_t opset = 17) {
  ::onnx::ModelProto model;
  model.set_ir_version(8);
  model.add_opset_import()->set_version(opset);
  model.mutable_graph()->set_name("net");
  return model;
}

// x [N, 1, 3, 3] → Conv(w, b) → Relu → Add(x) → y
inline ::onnx::ModelProto conv_relu_add(int64_t opset = 17) {
  ::onnx::ModelProto model = empty_model(opset);
  auto* graph = model.mutable_graph();
  *graph->add_input() = value_info("x", {"N", "1", "3", "3"});
  *graph->add_output() = value_info("y", {"N", "1", "3", "3"});
  *graph->add_initializer() = floats("w", {1, 1, 3, 3}, {1, 2, 3, 4, 5, 6, 7, 8, 9});
  *graph->add_initializer() = floats("b", {1}, {0.5f});
  add_ints(add_node(model, "Conv", {"x", "w", "b"}, {"c"}, "conv0"), "pads", {1, 1, 1, 1});
  add_node(model, "Relu", {"c"}, {"r"}, "relu0");
  add_node(model, "Add", {"r", "x"}, {"y"}, "add0");
  return model;
}

inline Graph load(const std::string& bytes, const std::string& folder = "") {
  return load_onnx_bytes(std::as_bytes(std::span(bytes)), folder);
}
inline Graph load(const ::onnx::ModelProto& model, const std::string& folder = "") {
  return load(model.SerializeAsString(), folder);
}

// The message of the UserError that `f` throws; a failure's text if it throws none.
inline std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const UserError& e) {
    return e.what();
  }
  return "no error";
}
// Of an import, which always says what to do.
inline std::string error_of(const ::onnx::ModelProto& model, const std::string& folder = "",
                            bool with_hint = true) {
  try {
    load(model, folder);
  } catch (const UserError& e) {
    EXPECT_NE(e.hint(), "") << e.what();
    return with_hint ? e.what() : UserError(e.kind(), e.where(), e.message()).what();
  }
  return "no error";
}
inline std::string message_of(const ::onnx::ModelProto& model, const std::string& folder = "") {
  return error_of(model, folder, false);
}

}  // namespace octavo::testing
