#include "backends/reference/interpreter.h"

#include <limits>

#include "graph/bind.h"
#include "graph/op_def.h"
#include "support/error.h"

namespace octavo {

std::vector<Tensor> interpret_node(const Node& node, std::span<const Tensor* const> inputs) {
  return std::move(*fold_node(node, inputs, std::numeric_limits<int64_t>::max()));
}

std::optional<std::vector<Tensor>> fold_node(const Node& node,
                                             std::span<const Tensor* const> inputs,
                                             int64_t most_elements) {
  // A graph of one node whose inputs are constants: its shape function then sees numbers only.
  Graph graph;
  std::vector<Value*> values;
  for (const Tensor* input : inputs)
    values.push_back(input ? graph.add_constant("", *input) : nullptr);
  const Node* twin = graph.add(node.op_name(), std::move(values), node.attributes(), node.name());
  if (!node.op().impl->reference)
    throw UserError(ErrorKind::unsupported, node.where(), "has no reference kernel");
  std::vector<Tensor> outputs;
  for (const Value* output : twin->outputs()) {
    if (!output->shape().is_static())
      throw UserError(ErrorKind::unsupported, node.where(), "output shape depends on the data");
    if (element_count(output->shape().dims()) > most_elements) return std::nullopt;
    outputs.emplace_back(output->dtype(), output->shape().dims());
  }
  node.op().impl->reference(*twin, inputs, outputs);
  return outputs;
}

std::vector<Tensor> interpret(const Graph& graph, std::span<const Tensor> inputs,
                              const ValueObserver& observe) {
  check_inputs(graph, inputs);
  std::unordered_map<const Value*, Tensor> known;
  std::unordered_map<const Value*, size_t> uses_left;
  const auto define = [&](const Value* value, Tensor tensor) {
    if (observe) observe(*value, tensor);
    uses_left[value] = value->uses().size();
    known[value] = std::move(tensor);
  };
  for (size_t i = 0; i < inputs.size(); ++i) define(graph.inputs()[i], inputs[i]);
  for (const Node* node = graph.first(); node; node = node->next()) {
    std::vector<const Tensor*> args;
    for (const Value* input : node->inputs())
      args.push_back(!input                 ? nullptr
                     : input->is_constant() ? &input->constant()
                                            : &known.at(input));
    std::vector<Tensor> results = interpret_node(*node, args);
    for (size_t i = 0; i < results.size(); ++i) define(node->outputs()[i], std::move(results[i]));
    for (const Value* input : node->inputs())
      if (input && !input->is_constant() && --uses_left[input] == 0 && !graph.is_output(input))
        known.erase(input);
  }
  std::vector<Tensor> outputs;
  for (const Value* output : graph.outputs())
    outputs.push_back(output->is_constant() ? output->constant() : known.at(output));
  return outputs;
}

}  // namespace octavo
