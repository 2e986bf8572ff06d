#include "codegen/stages.h"

#include <unordered_map>
#include <unordered_set>

#include "graph/op_def.h"
#include "support/error.h"

namespace octavo {
namespace {

bool is_static(const Node& node) {
  for (const Value* output : node.outputs())
    if (!output->shape().is_static()) return false;
  return true;
}

// Copies of values from one graph to another; constants come along when they are first asked for.
class Copier {
 public:
  explicit Copier(Graph& to) : to_(to) {}
  bool has(const Value* value) const { return value->is_constant() || map_.contains(value); }
  void set(const Value* from, Value* to) { map_[from] = to; }
  Value* operator()(const Value* value) {
    if (!value) return nullptr;
    auto it = map_.find(value);
    if (it == map_.end()) {
      OCTAVO_CHECK(value->is_constant());
      it = map_.emplace(value, to_.add_constant(value->name(), value->constant())).first;
    }
    return it->second;
  }
  void add(const Node& node) {
    std::vector<Value*> inputs;
    for (const Value* input : node.inputs()) inputs.push_back((*this)(input));
    const Node* twin = to_.add(node.op_name(), std::move(inputs), node.attributes(), node.name());
    for (size_t i = 0; i < node.outputs().size(); ++i) {
      to_.rename(twin->output(i), node.output(i)->name());
      map_[node.output(i)] = twin->output(i);
    }
  }

 private:
  Graph& to_;
  std::unordered_map<const Value*, Value*> map_;
};

class Cutter {
 public:
  explicit Cutter(const Graph& graph) : graph_(graph) {}

  Cut run() {
    Cut result;
    for (Graph* part : {&result.first, &result.rest, &result.between}) {
      part->name = graph_.name;
      part->stage = graph_.stage;
    }
    Copier first(result.first), rest(result.rest), between(result.between);
    for (const Value* input : graph_.inputs())
      first.set(input, result.first.add_input(input->name(), input->type()));
    classify();
    for (const Node* node : early_) first.add(*node);
    // Everything early that is read later crosses over.
    std::vector<const Value*> crossing;
    std::unordered_set<const Value*> seen;
    const auto cross = [&](const Value* value) {
      if (value && !value->is_constant() && first.has(value) && seen.insert(value).second)
        crossing.push_back(value);
    };
    for (const auto* nodes : {&data_dependent_, &late_})
      for (const Node* node : *nodes)
        for (const Value* input : node->inputs()) cross(input);
    for (const Value* output : graph_.outputs()) cross(output);
    for (size_t i = 0; i < crossing.size(); ++i) {
      const Value* value = crossing[i];
      result.first.add_output(first(value));
      rest.set(value, result.rest.add_input(value->name(), value->type()));
      if (values_needed_.contains(value)) result.value_inputs.push_back(i);
    }
    for (const Node* node : data_dependent_) {
      for (const Value* input : node->inputs()) {
        if (!input || between.has(input)) continue;
        const auto at = std::find(crossing.begin(), crossing.end(), input);
        OCTAVO_CHECK(at != crossing.end());
        result.between_inputs.push_back(static_cast<size_t>(at - crossing.begin()));
        between.set(input, result.between.add_input(input->name(), input->type()));
      }
      between.add(*node);
      for (const Value* output : node->outputs()) {
        result.between.add_output(between(output));
        rest.set(output, result.rest.add_input(output->name(), output->type()));
      }
    }
    for (const Node* node : late_) rest.add(*node);
    for (const Value* output : graph_.outputs()) result.rest.add_output(rest(output));
    return result;
  }

 private:
  void classify() {
    std::unordered_set<const Value*> unknown;
    for (const Node* node = graph_.first(); node; node = node->next()) {
      bool waits = false;
      for (const Value* input : node->inputs()) waits = waits || unknown.contains(input);
      if (!waits && is_static(*node)) {
        early_.push_back(node);
        continue;
      }
      for (const Value* output : node->outputs()) unknown.insert(output);
      if (waits) {
        late_.push_back(node);
        continue;
      }
      bool parameters = false;
      for (const ParameterSpec& spec : node->op().impl->parameters)
        if (const Value* input = node->input(spec.input)) {
          values_needed_.insert(input);
          parameters = true;
        }
      (parameters ? late_ : data_dependent_).push_back(node);
    }
  }

  const Graph& graph_;
  std::vector<const Node*> early_, data_dependent_, late_;
  std::unordered_set<const Value*> values_needed_;
};

}  // namespace

bool all_static(const Graph& graph) {
  for (const Node* node = graph.first(); node; node = node->next())
    if (!is_static(*node)) return false;
  return true;
}

Cut cut(const Graph& graph) { return Cutter(graph).run(); }

}  // namespace octavo
