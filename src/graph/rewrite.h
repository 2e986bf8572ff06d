// Patterns over nodes, and a driver that applies rules until none fits.
//
//   namespace p = pattern;
//   const RewriteRule silu{"silu", p::op("mul", {p::any("x"), p::op("sigmoid",
//   {p::any("x")}).once()}).either_order(),
//                   [](Graph& graph, const Match& m) {
//                     replace(graph, m.root(), graph.apply("silu", {m.value("x")}, {}, "",
//                     m.root())); return true;
//                   }};
//   rewrite(graph, std::span(&silu, 1));
#pragma once
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace octavo {

// What a pattern found. Asking for a name that it did not capture is an InternalError.
class Match {
 public:
  Node* root() const { return nodes_.front(); }
  Node* node(std::string_view name) const;
  Value* value(std::string_view name) const;
  const std::vector<Node*>& nodes() const { return nodes_; }  // every node matched, the root first

 private:
  friend class Pattern;
  std::vector<Node*> nodes_;
  std::vector<std::pair<std::string, Node*>> named_nodes_;
  std::vector<std::pair<std::string, Value*>> named_values_;
};

// Describes a value by what computes it. Build once, match often; cheap to copy.
class Pattern {
 public:
  // The node's output is read by nothing else in the graph and is no graph output.
  Pattern once() const;
  // Inputs 0 and 1 may be swapped.
  Pattern either_order() const;
  // A further condition on the node.
  Pattern where(std::function<bool(const Node&)> condition) const;
  // Under this name Match::node() has the node.
  Pattern as(std::string name) const;

  // With `node` as the root.
  std::optional<Match> match(const Graph& graph, Node& node) const;

 private:
  friend struct PatternFactory;
  struct Spec;
  static bool matches(const Spec& spec, const Graph& graph, Value* value, Match& match);
  static bool matches_node(const Spec& spec, const Graph& graph, Node& node, Match& match);
  static bool matches_inputs(const Spec& spec, const Graph& graph, Node& node, bool swapped,
                             Match& match);
  std::shared_ptr<const Spec> spec_;
};

namespace pattern {
// Any value (not a left-out input). A name that comes twice must be the same value both times.
Pattern any(std::string name = "");
// A constant.
Pattern constant(std::string name = "");
// An input that is left out.
Pattern absent();
// The first output of a node with one of these ops ("conv|gemm"); further inputs are not looked at.
Pattern op(std::string_view ops, std::vector<Pattern> inputs = {});
}  // namespace pattern

// `first` and the nodes after it, each the only reader of the output before, if their ops are
// these; else empty.
std::vector<Node*> chain(const Graph& graph, Node& first,
                         std::initializer_list<std::string_view> ops);

// The one node that reads `value`, if it is read once and is no graph output; else null.
Node* only_reader(const Graph& graph, const Value* value);

// Every use of `from` becomes `to`; a graph output keeps its name if `to` is computed and was none.
void replace(Graph& graph, Value* from, Value* to);
void replace(Graph& graph, Node* node, Value* to);  // of one output

struct RewriteRule {
  const char* name;
  Pattern pattern;
  // Adds nodes before the root and replaces uses, or changes matched nodes in place; erases and
  // moves nothing. False: nothing was done.
  std::function<bool(Graph& graph, const Match& match)> apply;
};

// Tries the rules in order on every node in order, again until none applies; erases what that left
// without a reader. How often a rule applied; InternalError if they never end.
size_t rewrite(Graph& graph, std::span<const RewriteRule> rules);

}  // namespace octavo
