// x / 2 * (1 + erf(x / sqrt 2)) as one op, see passes.h.
#include <cmath>
#include <numbers>

#include "graph/op_def.h"
#include "passes/layout.h"
#include "passes/match.h"
#include "passes/passes.h"

namespace octavo {
namespace {

// Equal as far as a file's float32 constants can say.
bool is_about(double value, double wanted) { return std::abs(value / wanted - 1) < 1e-6; }

// mul or div by a scalar constant: what is scaled, and by how much.
struct Scaled {
  Value* value;
  double factor;
};
std::optional<Scaled> scaled(const Node* node) {
  if (!node || !(node->is("mul") || node->is("div"))) return std::nullopt;
  if (const auto factor = scalar_constant(node->input(1)))
    return Scaled{node->input(0), node->is("mul") ? *factor : 1 / *factor};
  const auto factor = node->is("mul") ? scalar_constant(node->input(0)) : std::nullopt;
  if (factor) return Scaled{node->input(1), *factor};
  return std::nullopt;
}

void fuse(Graph& graph, Node& erf) {
  const auto argument = scaled(erf.input(0)->producer());
  if (!argument || !is_about(argument->factor, std::numbers::sqrt2 / 2)) return;
  const Value* x = argument->value;
  Node* at = only_user(graph, erf.output());
  if (!at || !at->is("add")) return;
  const auto one = scalar_constant(at->input(at->input(0) == erf.output() ? 1 : 0));
  if (!one || !is_about(*one, 1)) return;
  // Times x and a half, in any order.
  double factor = 1;
  bool times_x = false;
  while (!times_x || !is_about(factor, 0.5)) {
    Node* next = only_user(graph, at->output());
    if (!next) return;
    if (const auto by = scaled(next); by && by->value == at->output()) {
      factor *= by->factor;
    } else {
      if (times_x || !next->is("mul")) return;
      const Value* other = next->input(next->input(0) == at->output() ? 1 : 0);
      if (other != x) {
        const auto half = scaled(other->producer());
        if (!half || half->value != x) return;
        factor *= half->factor;
      }
      times_x = true;
    }
    at = next;
  }
  // Single elements of no more axes leave the shape as it is, known or not.
  const Value* y = at->output();
  if (y->dtype() != x->dtype() || y->shape().size() != x->shape().size()) return;
  take_over(graph, at, graph.apply("gelu", {argument->value}, {}, at->name(), at));
}

}  // namespace

void fuse_gelu(Graph& graph) {
  std::vector<Node*> found;  // fusing erases nodes that come later
  graph.for_each([&](Node& node) {
    if (node.is("erf")) found.push_back(&node);
  });
  for (Node* node : found) fuse(graph, *node);
}

}  // namespace octavo
