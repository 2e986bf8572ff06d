#include "backends/reference/interpreter.h"
#include "graph/op_def.h"
#include "ops/parameters.h"
#include "ops/shape.h"
#include "passes/passes.h"

namespace octavo {
namespace {

constexpr size_t most_bytes = 64u << 20;  // an expanded constant costs more than computing it again
constexpr size_t small_bytes = 1u << 16;  // done for every binding of shapes

// quantize and dequantize of weights say how they are stored: they are not arithmetic to fold.
bool foldable(const Node& node) {
  return node.op().kind != OpKind::quantization && node.op().impl->reference;
}

// The outputs, if they are known without running the graph and take at most `most_bytes`.
std::optional<std::vector<Tensor>> known_outputs(const Node& node, size_t most) {
  if (node.op().kind == OpKind::shape) {
    Ints dims;
    for (const int64_t axis : ops::shape_axes(node)) {
      const Dim& dim = node.input(0)->shape()[static_cast<size_t>(axis)];
      if (!dim.is_static()) return std::nullopt;
      dims.push_back(dim.value());
    }
    return std::vector<Tensor>{Tensor::from(Dims{static_cast<int64_t>(dims.size())}, dims)};
  }
  if (!foldable(node)) return std::nullopt;
  std::vector<const Tensor*> inputs;
  for (const Value* input : node.inputs()) {
    if (input && !input->is_constant()) return std::nullopt;
    inputs.push_back(input ? &input->constant() : nullptr);
  }
  for (const Value* output : node.outputs())
    if (output->shape().is_static() &&
        static_cast<size_t>(element_count(output->shape().dims())) * dtype_size(output->dtype()) >
            most)
      return std::nullopt;
  return fold_node(node, inputs, static_cast<int64_t>(most));
}

void replace_by_constants(Graph& graph, Node& node, const std::vector<Tensor>& results) {
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
}

// Types are inferred again on the way: what became known may decide a shape.
void fold(Graph& graph, size_t most) {
  graph.for_each([&](Node& node) {
    absorb_parameters(node);
    const auto types = node.op().impl->infer(node);
    for (size_t i = 0; i < types.size(); ++i) node.output(i)->set_type(types[i]);
    if (const auto results = known_outputs(node, most)) replace_by_constants(graph, node, *results);
  });
}

}  // namespace

void fold_constants(Graph& graph) { fold(graph, most_bytes); }
void specialize(Graph& graph) { fold(graph, small_bytes); }

}  // namespace octavo
