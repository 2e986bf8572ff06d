// One ONNX node, as the ops' import rules see it.
#pragma once
#include <map>

#include "frontends/onnx/tags.h"
#include "frontends/onnx/tensor.h"
#include "ops/onnx_rules.h"

namespace octavo::onnx_import {

// "Conv '/blocks.0/Conv' (domain ai.onnx, opset 17)": for messages.
std::string node_where(const ::onnx::NodeProto& node, int64_t opset);
// The node's name, else that of its first output.
const std::string& node_label(const ::onnx::NodeProto& node);
// What helps with a file that is not sound, and with a node that nothing here reads.
inline constexpr const char* unsound_hint =
    "onnx.checker.check_model may tell more; export the model again";
inline constexpr const char* cut_hint =
    "docs/onnx_support.md lists what is read; onnx.utils.extract_model cuts a model before a node";
// ONNX's own domain has two spellings.
std::string_view canonical_domain(std::string_view domain);

class Reader final : public OnnxNodeReader {
 public:
  Reader(Graph& graph, ::onnx::NodeProto& node, int64_t opset, std::vector<Value*> inputs,
         ExternalFiles& files, Tags& tags);

  const std::string& name() const override { return node_label(node_); }
  std::string_view op_type() const override { return node_.op_type(); }
  int64_t opset() const override { return opset_; }
  size_t input_count() const override { return inputs_.size(); }
  size_t output_count() const override { return static_cast<size_t>(node_.output_size()); }
  Value* input(size_t i) const override { return i < inputs_.size() ? inputs_[i] : nullptr; }
  const Tensor* constant(size_t i) const override;
  int narrow_bits(size_t i) const override { return input(i) ? tags_.narrow_bits(input(i)) : 0; }
  std::optional<Ints> constant_ints(size_t i, std::string_view what) const override;
  std::optional<Ints> known_ints(size_t i) const override;
  bool has(std::string_view attribute) const override;
  int64_t integer(std::string_view attribute, int64_t fallback) const override;
  double real(std::string_view attribute, double fallback) const override;
  std::string text(std::string_view attribute, std::string fallback) const override;
  Ints integers(std::string_view attribute, Ints fallback) const override;
  Floats reals(std::string_view attribute, Floats fallback) const override;
  const Tensor* tensor(std::string_view attribute) const override;
  DType element_type(int64_t onnx_type) const override;
  int element_bits(int64_t onnx_type) const override;
  Value* narrow(Value* value, int bits) override;
  Graph& graph() const override { return graph_; }
  // What is computed from small constants only is computed at once.
  Value* apply(std::string_view op, std::vector<Value*> inputs,
               Attributes attributes = {}) override;
  std::vector<Value*> apply_all(std::string_view op, std::vector<Value*> inputs,
                                Attributes attributes = {}) override;
  Value* constant_value(Tensor tensor) override;
  [[noreturn]] void unsupported(const std::string& message) const override;
  [[noreturn]] void invalid(const std::string& message) const override;

  Tags& tags() { return tags_; }
  const std::string& where() const { return where_; }

 private:
  const ::onnx::AttributeProto* find(std::string_view attribute,
                                     ::onnx::AttributeProto_AttributeType type) const;
  Graph& graph_;
  ::onnx::NodeProto& node_;
  int64_t opset_;
  std::vector<Value*> inputs_;
  ExternalFiles& files_;
  Tags& tags_;
  std::string where_;
  mutable std::map<std::string, Tensor, std::less<>> tensors_;  // of attributes
};

}  // namespace octavo::onnx_import
