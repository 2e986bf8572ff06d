#include "quantize/algorithms/segments.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "graph/op_def.h"
#include "support/error.h"

namespace octavo {

const Value* held(const Value* value) {
  const Node* node = value->producer();
  const bool of_tensor =
      node && node->is("dequantize") && node->input(0) && !node->input(0)->is_constant();
  return of_tensor ? held(node->input(0)) : value;
}

std::vector<std::vector<std::string>> cuts(const Graph& graph, const std::vector<Demand>& demands) {
  std::unordered_map<const Node*, size_t> position;
  std::unordered_set<const Value*> fixed;  // what constants alone make: weights, computed anew
  graph.for_each([&](Node& node) {
    position.emplace(&node, position.size());
    for (const Value* input : node.inputs())
      if (input && !input->is_constant() && !fixed.contains(input)) return;
    fixed.insert(node.outputs().begin(), node.outputs().end());
  });
  std::vector<std::vector<std::string>> result(demands.size());
  std::vector<const Value*> next;  // held at the following cut
  for (size_t i = demands.size(); i-- > 0;) {
    const size_t here = position.at(demands[i].product);
    std::vector<const Value*> now, open(next.rbegin(), next.rend());
    std::unordered_set<const Value*> seen;
    for (auto v = demands[i].values.rbegin(); v != demands[i].values.rend(); ++v)
      open.push_back(held(*v));
    while (!open.empty()) {
      const Value* value = open.back();
      open.pop_back();
      if (value->is_constant() || fixed.contains(value) || !seen.insert(value).second) continue;
      if (!value->producer() || position.at(value->producer()) < here) {
        if (held(value) == value)
          now.push_back(value);
        else
          open.push_back(held(value));
        continue;
      }
      for (const Value* input : value->producer()->inputs())
        if (input) open.push_back(input);
    }
    for (const Value* value : now) result[i].push_back(value->name());
    next = std::move(now);
  }
  return result;
}

Graph extract(const Graph& graph, const std::vector<std::string>& inputs,
              const std::vector<std::string>& outputs) {
  Graph part;
  part.name = graph.name;
  part.stage = Stage::quantized;
  std::unordered_set<const Value*> given, reached;
  for (const std::string& name : inputs) given.insert(graph.find_value(name));
  std::unordered_set<const Node*> needed;
  std::vector<const Value*> open;
  for (const std::string& name : outputs) {
    open.push_back(graph.find_value(name));
    OCTAVO_CHECK(open.back());
  }
  while (!open.empty()) {
    const Value* value = open.back();
    open.pop_back();
    const Node* node = value->producer();
    if (given.contains(value)) reached.insert(value);
    if (!node || given.contains(value) || !needed.insert(node).second) continue;
    for (const Value* input : node->inputs())
      if (input) open.push_back(input);
  }
  std::unordered_map<const Value*, Value*> twins;
  for (const std::string& name : inputs)
    if (const Value* value = graph.find_value(name); reached.contains(value))
      twins[value] = part.add_input(name, value->type());
  const auto twin = [&](const Value* value) -> Value* {
    if (!value) return nullptr;
    const auto it = twins.find(value);
    if (it != twins.end()) return it->second;
    OCTAVO_CHECK(value->is_constant());
    return twins[value] = part.add_constant(value->name(), value->constant());
  };
  graph.for_each([&](Node& node) {
    if (!needed.contains(&node)) return;
    std::vector<Value*> arguments;
    for (const Value* input : node.inputs()) arguments.push_back(twin(input));
    const Node* copy =
        part.add(node.op_name(), std::move(arguments), node.attributes(), node.name());
    for (size_t i = 0; i < node.outputs().size(); ++i) {
      if (twins.contains(node.output(i))) continue;
      part.rename(copy->output(i), node.output(i)->name());
      twins[node.output(i)] = copy->output(i);
    }
  });
  for (const std::string& name : outputs) part.add_output(twin(graph.find_value(name)));
  return part;
}

}  // namespace octavo
