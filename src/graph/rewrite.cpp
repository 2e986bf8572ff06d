#include "graph/rewrite.h"

#include <unordered_set>

#include "graph/op_def.h"
#include "support/error.h"

namespace octavo {

struct Pattern::Spec {
  enum class Kind { any, constant, absent, op } kind = Kind::any;
  std::string name = {};
  std::vector<const OpDef*> ops = {};
  std::vector<Pattern> inputs = {};
  std::vector<std::function<bool(const Node&)>> conditions = {};
  bool once = false, either_order = false;
};

struct PatternFactory {
  static Pattern make(Pattern::Spec spec) {
    Pattern pattern;
    pattern.spec_ = std::make_shared<const Pattern::Spec>(std::move(spec));
    return pattern;
  }
  template <class F>
  static Pattern changed(const Pattern& pattern, F change) {
    Pattern::Spec spec = *pattern.spec_;
    change(spec);
    return make(std::move(spec));
  }
  using Spec = Pattern::Spec;
};

namespace pattern {

using Spec = PatternFactory::Spec;

Pattern any(std::string name) {
  return PatternFactory::make({.kind = Spec::Kind::any, .name = std::move(name)});
}

Pattern constant(std::string name) {
  return PatternFactory::make({.kind = Spec::Kind::constant, .name = std::move(name)});
}

Pattern absent() { return PatternFactory::make({.kind = Spec::Kind::absent}); }

Pattern op(std::string_view ops, std::vector<Pattern> inputs) {
  Spec spec{.kind = Spec::Kind::op, .inputs = std::move(inputs)};
  while (!ops.empty()) {
    const size_t bar = std::min(ops.find('|'), ops.size());
    const OpDef* def = find_op(ops.substr(0, bar));
    if (!def)
      throw InternalError(
          fmt::format("a pattern names the op '{}', which does not exist", ops.substr(0, bar)));
    spec.ops.push_back(def);
    ops.remove_prefix(std::min(bar + 1, ops.size()));
  }
  return PatternFactory::make(std::move(spec));
}

}  // namespace pattern

Pattern Pattern::once() const {
  return PatternFactory::changed(*this, [](Spec& s) { s.once = true; });
}

Pattern Pattern::either_order() const {
  OCTAVO_CHECK(spec_->inputs.size() == 2);
  return PatternFactory::changed(*this, [](Spec& s) { s.either_order = true; });
}

Pattern Pattern::where(std::function<bool(const Node&)> condition) const {
  return PatternFactory::changed(*this,
                                 [&](Spec& s) { s.conditions.push_back(std::move(condition)); });
}

Pattern Pattern::as(std::string name) const {
  return PatternFactory::changed(*this, [&](Spec& s) { s.name = std::move(name); });
}

std::optional<Match> Pattern::match(const Graph& graph, Node& node) const {
  Match match;
  if (spec_->kind != Spec::Kind::op || !matches_node(*spec_, graph, node, match))
    return std::nullopt;
  return match;
}

bool Pattern::matches(const Spec& spec, const Graph& graph, Value* value, Match& match) {
  if (spec.kind == Spec::Kind::absent) return !value;
  if (!value) return false;
  if (spec.kind == Spec::Kind::op)
    return value->producer() && value->output_index() == 0 &&
           matches_node(spec, graph, *value->producer(), match);
  if (spec.kind == Spec::Kind::constant && !value->is_constant()) return false;
  if (spec.name.empty()) return true;
  for (const auto& [name, known] : match.named_values_)
    if (name == spec.name) return known == value;
  match.named_values_.emplace_back(spec.name, value);
  return true;
}

bool Pattern::matches_node(const Spec& spec, const Graph& graph, Node& node, Match& match) {
  if (std::find(spec.ops.begin(), spec.ops.end(), &node.op()) == spec.ops.end()) return false;
  if (spec.once && !only_reader(graph, node.output())) return false;
  for (const auto& condition : spec.conditions)
    if (!condition(node)) return false;
  const Match before = match;
  match.nodes_.push_back(&node);
  if (!spec.name.empty()) match.named_nodes_.emplace_back(spec.name, &node);
  const Match here = match;
  if (matches_inputs(spec, graph, node, false, match)) return true;
  match = here;
  if (spec.either_order && matches_inputs(spec, graph, node, true, match)) return true;
  match = before;
  return false;
}

bool Pattern::matches_inputs(const Spec& spec, const Graph& graph, Node& node, bool swapped,
                             Match& match) {
  for (size_t i = 0; i < spec.inputs.size(); ++i)
    if (!matches(*spec.inputs[i].spec_, graph, node.input(swapped ? 1 - i : i), match))
      return false;
  return true;
}

namespace {
template <class T>
T* captured(const std::vector<std::pair<std::string, T*>>& named, std::string_view name) {
  for (const auto& [key, found] : named)
    if (key == name) return found;
  throw InternalError(fmt::format("the pattern captures no '{}'", name));
}

// Erases these nodes and, back from them, whatever nothing reads any more.
void erase_unread(Graph& graph, std::vector<Node*> pending) {
  std::unordered_set<const Node*> erased;
  while (!pending.empty()) {
    Node* node = pending.back();
    pending.pop_back();
    if (erased.contains(node)) continue;
    const auto outputs = node->outputs();
    if (!std::all_of(outputs.begin(), outputs.end(),
                     [&](const Value* v) { return v->uses().empty() && !graph.is_output(v); }))
      continue;
    for (const Value* input : node->inputs())
      if (input && input->producer()) pending.push_back(input->producer());
    erased.insert(node);
    graph.erase(node);
  }
}
}  // namespace

Node* Match::node(std::string_view name) const { return captured(named_nodes_, name); }
Value* Match::value(std::string_view name) const { return captured(named_values_, name); }

Node* only_reader(const Graph& graph, const Value* value) {
  return value->has_one_use() && !graph.is_output(value) ? value->uses()[0].node : nullptr;
}

std::vector<Node*> chain(const Graph& graph, Node& first,
                         std::initializer_list<std::string_view> ops) {
  std::vector<Node*> nodes;
  Node* node = &first;
  for (const std::string_view op : ops) {
    if (!nodes.empty()) node = only_reader(graph, node->output());
    if (!node || !node->is(op)) return {};
    nodes.push_back(node);
  }
  return nodes;
}

void replace(Graph& graph, Value* from, Value* to) {
  if (from == to) return;
  const bool takes_name = graph.is_output(from) && to->producer() && !graph.is_output(to);
  graph.replace_all_uses(from, to);
  if (!takes_name) return;
  std::string name = from->name();
  graph.rename(from, "");  // names are unique
  graph.rename(to, std::move(name));
}

void replace(Graph& graph, Node* node, Value* to) {
  OCTAVO_CHECK(node->outputs().size() == 1);
  replace(graph, node->output(), to);
}

size_t rewrite(Graph& graph, std::span<const RewriteRule> rules) {
  const size_t most = 100 + 20 * graph.node_count();
  size_t applied = 0;
  for (bool again = true; again;) {
    again = false;
    for (Node* node = graph.first(); node;) {
      Node* next = node->next();  // stays: only the root and what stands before it may go
      for (const RewriteRule& rule : rules) {
        const auto match = rule.pattern.match(graph, *node);
        if (!match || !rule.apply(graph, *match)) continue;
        if (++applied > most)
          throw InternalError(
              fmt::format("the rewriting rules do not end; the last was '{}'", rule.name));
        erase_unread(graph, match->nodes());
        again = true;
        break;
      }
      node = next;
    }
  }
  return applied;
}

}  // namespace octavo
