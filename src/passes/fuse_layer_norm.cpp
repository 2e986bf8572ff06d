// Layer normalization with its quantize, see passes.h.
#include <cmath>

#include "graph/op_def.h"
#include "passes/layout.h"
#include "passes/match.h"
#include "passes/passes.h"

namespace octavo {
namespace {

bool is_vector(const Value* value, const Dim& count) {
  return value->dtype() == DType::f32 && value->shape().rank() == 1 && value->shape()[0] == count;
}

// The one quantize to bytes among the readers, or null.
Node* byte_quantize(const Value* value) {
  Node* found = nullptr;
  for (const Use& use : value->uses()) {
    if (!use.node->is("quantize") || use.index != 0) continue;
    const auto info = quant_info(*use.node);
    if (found || !info || !info->per_tensor() ||
        (info->dtype != DType::u8 && info->dtype != DType::i8))
      return nullptr;
    found = use.node;
  }
  return found;
}

void fuse(Graph& graph, Node& node) {
  Value *x = node.input(0), *scale = node.input(1), *bias = node.input(2), *y = node.output();
  const int64_t rank = x->shape().rank();
  if (x->dtype() != DType::f32 ||
      normalize_axis(node.integer("axis"), rank, node.where()) != rank - 1)
    return;
  for (size_t i = 1; i < node.outputs().size(); ++i)
    if (!node.output(i)->uses().empty() || graph.is_output(node.output(i))) return;
  const Dim& count = x->shape().back();
  if ((scale && !is_vector(scale, count)) || (bias && !is_vector(bias, count))) return;
  if (!scale) {
    if (!count.is_static()) return;
    scale =
        graph.add_constant(node.name() + "/scale",
                           Tensor::from(Dims{count.value()},
                                        std::vector<float>(static_cast<size_t>(count.value()), 1)));
  }
  Attributes a{{"epsilon", node.real("epsilon")}};
  Node* quantize = byte_quantize(y);
  if (!quantize) {
    take_over(graph, &node,
              graph.apply("fused_layer_norm", {x, scale, bias}, std::move(a), node.name(), &node));
    return;
  }
  const QuantInfo q = *quant_info(*quantize);
  const double least = q.dtype == DType::u8 ? 0 : -128;
  a["multiplier"] = static_cast<double>(static_cast<float>(1 / static_cast<double>(q.scale())));
  a["clamp_lo"] = least - q.zero_point();
  a["clamp_hi"] = least + 255 - q.zero_point();
  a["y_zero_point"] = int64_t{q.zero_point()};
  a["output"] = std::string(dtype_name(q.dtype));
  const bool keep = y->uses().size() > 1 || graph.is_output(y);
  a["keep_float"] = int64_t{keep};
  const Node* fused = graph.add("fused_layer_norm", {x, scale, bias}, std::move(a), "", &node);
  take_over(graph, quantize, fused->output(0));
  if (keep)
    take_over(graph, &node, fused->output(1));
  else
    graph.erase(&node);
}

}  // namespace

void fuse_layer_norm(Graph& graph) {
  std::vector<Node*> found;  // fusing erases nodes that come later
  graph.for_each([&](Node& node) {
    if (node.is("layer_norm")) found.push_back(&node);
  });
  for (Node* node : found) fuse(graph, *node);
}

}  // namespace octavo
