// Collects the nodes and initializers of one ONNX model.
#pragma once
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "onnx.pb.h"
#include "ops/onnx_rules.h"

namespace octavo::onnx_export {

class Writer final : public OnnxNodeWriter {
 public:
  Writer(const Graph& graph, int64_t opset);

  // All nodes, inputs and outputs. UserError if nodes have no ONNX form.
  void write_graph();

  int64_t opset() const override { return opset_; }
  std::string value_name(const Value* value) override;
  std::string initializer(const std::string& hint, const Tensor& tensor) override;
  std::string four_bit_initializer(const std::string& hint, const Tensor& tensor) override;
  std::string temporary(const std::string& hint) override;
  void node(std::string_view op_type, std::vector<std::string> inputs,
            std::vector<std::string> outputs, const Attributes& attributes = {},
            std::string_view domain = "") override;

  ::onnx::ModelProto& model() { return model_; }
  // The initializers' data, in their order; not yet in model().
  const std::vector<Tensor>& tensors() const { return tensors_; }

 private:
  void check_rules() const;
  void write_node(const Node& node);
  void write_outputs();
  std::string add_initializer(std::string name, const Tensor& tensor);
  const Graph& graph_;
  int64_t opset_;
  ::onnx::ModelProto model_;
  std::vector<Tensor> tensors_;
  std::unordered_map<const Value*, std::string> names_;
  std::set<std::string> taken_, node_names_, written_;
  const Node* current_ = nullptr;
};

int32_t onnx_dtype(DType dtype);

}  // namespace octavo::onnx_export
