// A parsed model with its names resolved: who defines what, in which order nodes run, which rule
// reads each node.
#pragma once
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "frontends/onnx/builtin.h"
#include "onnx.pb.h"
#include "ops/onnx_rules.h"

namespace octavo::onnx_import {

struct Step {
  ::onnx::NodeProto* node;
  int64_t opset;    // of the node's domain
  Builtin builtin;  // tried first; either may be null
  const OnnxImportRule* rule;
  bool control = false;  // If, Loop or Scan: it holds subgraphs
};

// What a subgraph reads from outside it.
std::set<std::string> free_names(const ::onnx::GraphProto& graph);

class Model {
 public:
  // UserError if the model is unsound or has ops without rules.
  explicit Model(::onnx::ModelProto& proto);
  // A subgraph, which may read what `outer` knows besides.
  Model(::onnx::GraphProto& subgraph, const Model& parent,
        std::function<bool(const std::string&)> outer);
  ::onnx::GraphProto& graph() { return graph_; }
  ::onnx::TensorProto* initializer(std::string_view name) const;
  // Inputs of the graph that are not initializers.
  const std::vector<const ::onnx::ValueInfoProto*>& inputs() const { return inputs_; }
  // The nodes that the outputs need, definitions before uses, else in the file's order.
  const std::vector<Step>& steps() const { return steps_; }

 private:
  void check_versions(const ::onnx::ModelProto& proto);
  void define_names();
  void resolve();
  std::vector<std::string> reads(int node) const;
  std::vector<int> needed_nodes() const;
  std::vector<int> sorted(const std::vector<int>& needed) const;
  void find_rules(const std::vector<int>& order);
  void check_attributes(const ::onnx::NodeProto& node, int64_t opset) const;
  int64_t opset_of(const ::onnx::NodeProto& node) const;

  ::onnx::GraphProto& graph_;
  const ::onnx::ModelProto& proto_;
  std::function<bool(const std::string&)> outer_;
  std::map<std::string, int64_t, std::less<>> opsets_;
  std::unordered_map<std::string_view, ::onnx::TensorProto*> initializers_;
  std::unordered_map<std::string_view, int> producers_;  // value name to node
  std::vector<const ::onnx::ValueInfoProto*> inputs_;
  std::unordered_map<std::string_view, const ::onnx::ValueInfoProto*> input_names_;
  std::vector<Step> steps_;
};

}  // namespace octavo::onnx_import
