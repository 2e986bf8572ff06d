#include "backends/reference/interpreter.h"
#include "graph/op_def.h"
#include "passes/passes.h"

namespace octavo {
namespace {

constexpr size_t most_bytes = 64u << 20;  // an expanded constant costs more than computing it again

bool foldable(const Node& node) {
  // quantize and dequantize of weights say how they are stored: they are not arithmetic to fold.
  if (node.op().kind == OpKind::quantization || !node.op().impl->reference) return false;
  if (node.inputs().empty()) return true;
  size_t constant = 0;
  for (const Value* input : node.inputs()) {
    if (!input) continue;
    if (!input->is_constant()) return false;
    ++constant;
  }
  if (constant == 0) return false;
  for (const Value* output : node.outputs()) {
    if (!output->shape().is_static()) return false;
    if (static_cast<size_t>(element_count(output->shape().dims())) * dtype_size(output->dtype()) >
        most_bytes)
      return false;
  }
  return true;
}

}  // namespace

void fold_constants(Graph& graph) {
  graph.for_each([&](Node& node) {
    if (!foldable(node)) return;
    std::vector<const Tensor*> inputs;
    for (const Value* input : node.inputs()) inputs.push_back(input ? &input->constant() : nullptr);
    const std::vector<Tensor> results = interpret_node(node, inputs);
    std::vector<std::pair<Value*, std::string>> renames;
    for (size_t i = 0; i < results.size(); ++i) {
      Value* old = node.output(i);
      const std::string name = old->name();
      Value* constant = graph.add_constant("", results[i]);
      graph.replace_all_uses(old, constant);
      renames.emplace_back(constant, name);
    }
    graph.erase(&node);
    for (auto& [value, name] : renames) graph.rename(value, name);
  });
}

}  // namespace octavo
