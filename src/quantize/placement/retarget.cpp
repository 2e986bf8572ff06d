#include "quantize/placement/retarget.h"

#include <algorithm>
#include <vector>

#include "graph/op_def.h"
#include "passes/match.h"
#include "quantize/integer_bias.h"
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

// Float biases of a gemm with no quantize behind them, in steps of the accumulator.
void quantize_biases(Graph& graph, const TargetFacts& facts) {
  graph.for_each([&](Node& node) {
    const OpFact* fact = facts.find(node.op_name());
    const Value* bias = node.input(2);
    if (!fact || !fact->float_bias_wants_output || !bias || !bias->is_constant() ||
        bias->dtype() != DType::f32 || bias->shape().rank() != 1 ||
        only_byte_quantize(graph, node.output()))
      return;
    const Node *x = byte_dequantize(node.input(0)), *w = node.input(1)->producer();
    const auto weights = w && w->is("dequantize") ? quant_info(*w) : std::nullopt;
    if (!x || !weights || node.real("alpha") != 1 || node.real("beta") != 1) return;
    const int64_t axis = node.integer("trans_b") ? 0 : 1;
    const Tensor& values = bias->constant();
    const auto count = static_cast<size_t>(values.size());
    if (!weights->per_tensor() && (weights->axis != axis || weights->scales.size() != count))
      return;
    std::vector<float> scales = weights->scales;
    scales.resize(count, scales[0]);
    const auto [integers, steps] =
        integer_bias(values.values<float>(), quant_info(*x)->scale(), scales);
    if (std::any_of(integers.begin(), integers.end(),
                    [](int32_t i) { return std::abs(int64_t{i}) == INT32_MAX; }))
      return;  // does not fit
    const Dims dims = values.dims();
    const std::string& name = bias->name();
    const auto constant = [&](const char* what, auto numbers) {
      return graph.add_constant(name + what, Tensor::from(dims, numbers));
    };
    node.set_input(2, graph.apply("dequantize",
                                  {constant("/quantized", integers), constant("/scale", steps),
                                   constant("/zero_point", std::vector<int32_t>(count))},
                                  {{"axis", int64_t{0}}}, name + "/dequantized", &node));
  });
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
  quantize_biases(graph, facts);
  quantize_behind_copies(graph, facts);
}

}  // namespace octavo
