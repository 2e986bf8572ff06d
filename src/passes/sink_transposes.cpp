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

// Of ops whose attributes name axes: nothing else does but pad's value, which is one number.
bool axes_are_known(const Node& node) {
  for (size_t i = 1; i < node.inputs().size(); ++i)
    if (node.input(i) && !(node.is("pad") && i == 1)) return false;
  return true;
}

constexpr int64_t nhwc_place[] = {0, 3, 1, 2};  // where each NCHW axis stands in NHWC

// The attributes for channels last of a node that agnostic() lets through.
Attributes channels_last_attributes(const Node& node) {
  Attributes attributes = node.attributes();
  const auto place = [&](int64_t axis) {
    return nhwc_place[normalize_axis(axis, 4, node.where())];
  };
  if (node.is("concat")) attributes["axis"] = place(node.integer("axis"));
  if (node.is("resize") || node.is("slice") || node.is("pad")) {
    Ints axes = node.integers("axes");
    if (axes.empty()) {  // the first ones
      const size_t count = node.is("slice") ? node.integers("starts").size() : 4;
      for (size_t i = 0; i < count; ++i) axes.push_back(static_cast<int64_t>(i));
    }
    for (int64_t& axis : axes) axis = place(axis);
    attributes["axes"] = axes;
  }
  return attributes;
}

// depth_to_space of [n, h, w, channels].
Value* depth_to_space_nhwc(Graph& graph, const Node& node, Value* x) {
  const Dims d = x->shape().dims();
  const int64_t b = node.integer("block"), c = d[3] / (b * b);
  const bool crd = node.text("mode") == "crd";
  Node* before = const_cast<Node*>(&node);
  Value* cut = graph.apply(
      "reshape", {x},
      {{"shape", crd ? Ints{d[0], d[1], d[2], c, b, b} : Ints{d[0], d[1], d[2], b, b, c}}}, "",
      before);
  Value* moved =
      transposed(graph, cut, crd ? Ints{0, 1, 4, 2, 5, 3} : Ints{0, 1, 3, 2, 4, 5}, before);
  return graph.apply("reshape", {moved}, {{"shape", Ints{d[0], d[1] * b, d[2] * b, c}}},
                     node.name(), before);
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
  if (node.is("resize") || node.is("slice") || node.is("pad")) return axes_are_known(node);
  return node.is("quantized_add") || node.is("quantized_mul") || node.is("lookup") ||
         node.is("concat") || node.is("depth_to_space");
}

// Inputs 1… of these are parameters, not tensors that the layout touches.
bool is_parameter(const Node& node, size_t i) {
  return i > 0 && (node.op().kind == OpKind::quantization || node.is("lookup") || node.is("pad"));
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
  Value* y =
      node.is("depth_to_space")
          ? depth_to_space_nhwc(graph, node, inputs[0])
          : graph.apply(node.op_name(), inputs, channels_last_attributes(node), node.name(), &node);
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

// reshape(transpose(x)) where each axis is cut on its own: transpose(reshape(x)), so that it meets
// the next transpose.
void sink_through_reshape(Graph& graph, Node& node) {
  Node* inner = node.is("reshape") && !node.input(1) ? node.input(0)->producer() : nullptr;
  if (!inner || !inner->is("transpose") || !only_user(graph, node.input(0)) ||
      !node.output()->shape().is_static() || !node.input(0)->shape().is_static())
    return;
  const Node* next = only_user(graph, node.output());
  if (!next || !next->is("transpose")) return;
  const Dims from = node.input(0)->shape().dims(), to = node.output()->shape().dims();
  std::vector<Ints> parts(from.size());  // the axes of `to` that each axis becomes
  size_t j = 0;
  for (size_t i = 0; i < from.size(); ++i) {
    int64_t size = 1;
    while (j < to.size() &&
           (size < from[i] || (i + 1 == from.size()) || (parts[i].empty() && to[j] == from[i]))) {
      size *= to[j];
      parts[i].push_back(static_cast<int64_t>(j++));
    }
    if (size != from[i] || parts[i].empty()) return;
  }
  if (j != to.size()) return;
  const Ints& perm = inner->integers("perm");
  Ints shape, back(to.size());  // of the reshaped x; where each axis of `to` is in it
  std::vector<Ints> by_source(perm.size());
  for (size_t i = 0; i < perm.size(); ++i) by_source[static_cast<size_t>(perm[i])] = parts[i];
  for (const Ints& axes : by_source)
    for (const int64_t axis : axes) {
      back[static_cast<size_t>(axis)] = static_cast<int64_t>(shape.size());
      shape.push_back(to[static_cast<size_t>(axis)]);
    }
  Value* cut = graph.apply("reshape", {inner->input(0)}, {{"shape", shape}}, "", &node);
  take_over(graph, &node, transposed(graph, cut, back, &node));
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
    else if (node.is("reshape"))
      sink_through_reshape(graph, node);
    else
      cancel(graph, node);
  });
  // Sinking leaves inverse pairs behind; then reshapes of reshapes.
  graph.for_each([&](Node& node) { cancel(graph, node); });
  share(graph);
  simplify(graph);
}

}  // namespace octavo
