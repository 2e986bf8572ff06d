#include "graph/op_def.h"
#include "passes/layout.h"
#include "passes/match.h"
#include "passes/passes.h"

namespace octavo {
namespace {

// A constant operand of a pointwise op in channels-last order; null if it does not matter or
// cannot be moved.
Value* channels_last_constant(Graph& graph, Value* value, bool& possible) {
  const Tensor& t = value->constant();
  if (t.size() == 1) return value;
  Dims dims = t.dims();
  while (dims.size() < 4) dims.insert(dims.begin(), 1);
  if (dims.size() == 4 && dims[0] == 1 && dims[2] == 1 && dims[3] == 1)
    return graph.add_constant(value->name() + "/nhwc", t.reshaped({dims[1]}));
  possible = false;
  return nullptr;
}

// Ops that treat each element alike, or know their channel axis.
bool agnostic(const Node& node) {
  if (node.outputs().size() != 1 || node.output()->shape().rank() != 4) return false;
  const OpKind kind = node.op().kind;
  if (kind == OpKind::pointwise) return true;
  if (node.is("quantize") || node.is("dequantize")) {
    const auto info = quant_info(node);
    return info && info->per_tensor();
  }
  return node.is("quantized_add") || node.is("quantized_mul") || node.is("lookup") ||
         node.is("concat");
}

// Inputs 1… of these are parameters, not tensors that the layout touches.
bool is_parameter(const Node& node, size_t i) {
  return i > 0 && (node.op().kind == OpKind::quantization || node.is("lookup"));
}

void sink(Graph& graph, Node& node) {
  bool any = false, possible = true;
  for (size_t i = 0; i < node.inputs().size(); ++i) {
    const Value* input = node.input(i);
    if (!input || is_parameter(node, i) || input->is_constant()) continue;
    if (input->shape().rank() != 4) return;
    any = any || is_transpose(input->producer(), to_nchw);
  }
  if (!any) return;
  std::vector<Value*> inputs;
  for (size_t i = 0; i < node.inputs().size() && possible; ++i) {
    Value* input = node.input(i);
    if (!input || is_parameter(node, i)) {
      inputs.push_back(input);
    } else if (input->is_constant()) {
      inputs.push_back(channels_last_constant(graph, input, possible));
    } else if (is_transpose(input->producer(), to_nchw)) {
      inputs.push_back(input->producer()->input(0));
    } else {
      inputs.push_back(transposed(graph, input, to_nhwc, &node));
    }
  }
  if (!possible) return;
  Attributes attributes = node.attributes();
  if (node.is("concat")) {
    constexpr int64_t place[] = {0, 3, 1, 2};  // where each NCHW axis stands in NHWC
    attributes["axis"] = place[normalize_axis(node.integer("axis"), 4, node.where())];
  }
  Value* y = graph.apply(node.op_name(), inputs, std::move(attributes), node.name(), &node);
  take_over(graph, &node, transposed(graph, y, to_nchw, &node));
}

// transpose(transpose(x)) to x or one transpose; a transpose that only moves ones to a reshape.
void cancel(Graph& graph, Node& node) {
  if (!node.is("transpose")) return;
  const Ints perm = node.integers("perm");
  Node* inner = node.input(0)->producer();
  if (inner && inner->is("transpose")) {
    const Ints& first = inner->integers("perm");
    Ints both(perm.size());
    bool identity = true;
    for (size_t i = 0; i < perm.size(); ++i) {
      both[i] = first[static_cast<size_t>(perm[i])];
      identity = identity && both[i] == static_cast<int64_t>(i);
    }
    Value* source = inner->input(0);
    take_over(graph, &node, identity ? source : transposed(graph, source, both, &node));
    return;
  }
  const Shape& shape = node.input(0)->shape();
  if (!shape.is_static()) return;
  int64_t last = -1;
  for (int64_t axis : perm) {
    if (shape[static_cast<size_t>(axis)] == Dim(1)) continue;
    if (axis < last) return;
    last = axis;
  }
  take_over(graph, &node,
            graph.apply("reshape", {node.input(0)}, {{"shape", node.output()->shape().dims()}}, "",
                        &node));
}

// One transpose serves all readers of a value (a residual block reads its input twice).
void share(Graph& graph) {
  std::map<std::pair<const Value*, Ints>, Value*> known;
  graph.for_each([&](Node& node) {
    if (!node.is("transpose") || graph.is_output(node.output())) return;
    const auto [it, fresh] =
        known.try_emplace({node.input(0), node.integers("perm")}, node.output());
    if (fresh) return;
    graph.replace_all_uses(node.output(), it->second);
    graph.erase(&node);
  });
}

}  // namespace

void sink_transposes(Graph& graph) {
  simplify(graph);  // reshapes between transposes, from line to image and back
  graph.for_each([&](Node& node) {
    if (agnostic(node))
      sink(graph, node);
    else
      cancel(graph, node);
  });
  // Sinking leaves inverse pairs behind; then reshapes of reshapes.
  graph.for_each([&](Node& node) { cancel(graph, node); });
  share(graph);
  simplify(graph);
}

}  // namespace octavo
