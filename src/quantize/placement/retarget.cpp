#include "quantize/placement/retarget.h"

#include <algorithm>
#include <vector>

#include "graph/op_def.h"
#include "passes/match.h"
#include "quantize/placement/facts.h"
#include "quantize/placement/placement.h"

namespace octavo {
namespace {

// Quantizes an activation to i8 with one scale, for dequantizes of the same parameters alone.
bool movable(const Graph& graph, const Node& node) {
  if (!node.is("quantize") || node.input(0)->is_constant() || graph.is_output(node.output()))
    return false;
  const auto info = quant_info(node);
  if (!info || info->dtype != DType::i8 || !info->per_tensor()) return false;
  const auto& uses = node.output()->uses();
  return std::all_of(uses.begin(), uses.end(), [&](const Use& use) {
    return use.index == 0 && use.node->is("dequantize") && quant_info(*use.node) == info;
  });
}

void use_u8(Graph& graph) {
  std::vector<Node*> quantizes;
  graph.for_each([&](Node& node) {
    if (movable(graph, node)) quantizes.push_back(&node);
  });
  for (Node* node : quantizes) {
    const Tensor& old = node->input(2)->constant();
    Tensor moved(DType::u8, old.dims());
    moved.mutable_values<uint8_t>()[0] = static_cast<uint8_t>(old.values<int8_t>()[0] + 128);
    Value* zero_point = graph.add_constant(node->input(2)->name(), std::move(moved));
    std::vector<Node*> nodes{node};
    for (const Use& use : node->output()->uses()) nodes.push_back(use.node);
    for (Node* each : nodes) each->set_input(2, zero_point);
  }
  graph.infer_types();
}

// Q/DQ of the input's parameters behind what renames its elements: the integers come back as they
// were, since scale and quotient round by less than half a step.
void quantize_behind_copies(Graph& graph, const TargetFacts& facts) {
  graph.for_each([&](Node& node) {
    if (!node.is("reshape") && !node.is("squeeze") && !node.is("unsqueeze")) return;
    const OpFact* fact = facts.find(node.op_name());
    Value* out = node.output();
    const Value* from = node.input(0);
    while (const Node* before = from->producer()) {
      const OpFact* copy = facts.find(before->op_name());
      if (!copy || !copy->carries_dequantize || copy->form != IntegerForm::copy ||
          before->inputs().size() != 1)
        break;
      from = before->input(0);
    }
    const Node* dq = byte_dequantize(from);
    if (!fact || !fact->quantized_output || !dq || graph.is_output(out) ||
        only_byte_quantize(graph, out))
      return;
    const std::vector<Use> readers(out->uses().begin(), out->uses().end());
    Value *scale = dq->input(1), *zero_point = dq->input(2);
    Node* next = node.next();
    Value* q =
        graph.apply("quantize", {out, scale, zero_point}, {}, node.name() + "/quantize", next);
    Value* x =
        graph.apply("dequantize", {q, scale, zero_point}, {}, node.name() + "/dequantize", next);
    for (const Use& use : readers) use.node->set_input(use.index, x);
  });
}

}  // namespace

void retarget(Graph& graph, const std::string& target) {
  const TargetFacts& facts = find_placement_target(target).facts();
  if (facts.i8_needs_single_reader) use_u8(graph);
  quantize_behind_copies(graph, facts);
}

}  // namespace octavo
