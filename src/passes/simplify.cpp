#include <cmath>

#include "graph/op_def.h"
#include "passes/match.h"
#include "passes/passes.h"

namespace octavo {
namespace {

// Replaces the node's only output and keeps its name on the replacement where that is free to take.
void replace(Graph& graph, Node& node, Value* by) {
  Value* old = node.output();
  const bool was_output = graph.is_output(old);
  graph.replace_all_uses(old, by);
  const std::string name = old->name();
  graph.erase(&node);
  if (was_output && by->producer()) graph.rename(by, name);
}

bool is_identity(const Node& node) {
  const Value *x = node.input(0), *y = node.output();
  if (node.is("reshape") || node.is("expand")) return x->shape() == y->shape();
  if (node.is("transpose")) {
    const Ints& perm = node.integers("perm");
    for (size_t i = 0; i < perm.size(); ++i)
      if (perm[i] != static_cast<int64_t>(i)) return false;
    return true;
  }
  if (node.is("clip")) return std::isinf(node.real("min")) && std::isinf(node.real("max"));
  if (node.is("cast")) return x->dtype() == y->dtype();
  return false;
}

// reshape(reshape(x)): the outer one decides, if it does not copy a dim of the inner by 0.
bool merge_reshapes(Graph& graph, Node& node) {
  if (!node.is("reshape") || node.input(1)) return false;
  Node* inner = node.input(0)->producer();
  if (!inner || !inner->is("reshape")) return false;
  for (int64_t dim : node.integers("shape"))
    if (dim == 0) return false;
  node.set_input(0, inner->input(0));
  if (inner->output()->uses().empty() && !graph.is_output(inner->output())) graph.erase(inner);
  return true;
}

// x * sigmoid(x)
bool make_silu(Graph& graph, Node& node) {
  if (!node.is("mul")) return false;
  for (size_t side : {0u, 1u}) {
    Node* sigmoid = node.input(side)->producer();
    if (!sigmoid || !sigmoid->is("sigmoid") || sigmoid->input(0) != node.input(1 - side)) continue;
    if (!only_user(graph, sigmoid->output())) continue;
    Value* y = graph.apply("silu", {node.input(1 - side)}, {}, node.name(), &node);
    const std::string name = node.output()->name();
    graph.replace_all_uses(node.output(), y);
    graph.erase(&node);
    graph.erase(sigmoid);
    graph.rename(y, name);
    return true;
  }
  return false;
}

// conv(x) + constant per channel, where the conv has no bias yet. (matmul keeps its add: lowering
// takes it.)
bool make_bias(Graph& graph, Node& node) {
  if (!node.is("add")) return false;
  for (size_t side : {0u, 1u}) {
    Node* conv = node.input(side)->producer();
    Value* addend = node.input(1 - side);
    if (!conv || !conv->is("conv") || conv->input(2) || !addend->is_constant() ||
        !only_user(graph, conv->output()))
      continue;
    const Dims& dims = addend->constant().dims();
    const int64_t channels = conv->input(1)->shape()[0].value(),
                  rank = conv->output()->shape().rank();
    // [C, 1, 1] or [1, C, 1, 1]: C channels followed by ones, and at most a one before.
    const size_t spatial = static_cast<size_t>(rank - 2);
    if (addend->constant().size() != channels || dims.size() < spatial + 1 ||
        dims[dims.size() - spatial - 1] != channels || addend->dtype() != conv->output()->dtype())
      continue;
    conv->set_input(2, graph.add_constant(addend->name(), addend->constant().reshaped({channels})));
    replace(graph, node, conv->output());
    return true;
  }
  return false;
}

}  // namespace

void simplify(Graph& graph) {
  graph.for_each([&](Node& node) {
    if (is_identity(node)) {
      replace(graph, node, node.input(0));
      return;
    }
    if (make_silu(graph, node) || make_bias(graph, node)) return;
    if (merge_reshapes(graph, node) && is_identity(node)) replace(graph, node, node.input(0));
  });
}

}  // namespace octavo
