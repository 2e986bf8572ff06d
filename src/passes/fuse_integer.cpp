// What stands between dequantize and quantize and is no product runs on the integers, see passes.h.
#include <algorithm>
#include <cmath>

#include "backends/reference/interpreter.h"
#include "graph/op_def.h"
#include "passes/layout.h"
#include "passes/match.h"
#include "passes/passes.h"

namespace octavo {
namespace {

struct Range {
  double least, most;
};
Range range_of(DType dtype) { return dtype == DType::u8 ? Range{0, 255} : Range{-128, 127}; }

// The epilogue's attributes for integers `y`; float bounds lo and hi of the clamp that came before.
void set_epilogue(Attributes& a, const QuantInfo& y, const Bounds& bounds) {
  const Range r = range_of(y.dtype);
  a["clamp_lo"] = std::max(bounds.lo / y.scale(), r.least - y.zero_point());
  a["clamp_hi"] = std::min(bounds.hi / y.scale(), r.most - y.zero_point());
  a["y_zero_point"] = int64_t{y.zero_point()};
  a["output"] = std::string(dtype_name(y.dtype));
}

// Every 8-bit value through dequantize, `nodes` and quantize by their plain definitions.
Tensor make_table(const QuantInfo& from, std::span<const Node* const> nodes, const Node& quantize) {
  Tensor x(DType::f32, {256});
  auto values = x.mutable_values<float>();
  for (int i = 0; i < 256; ++i) {
    const int q = from.dtype == DType::u8 ? i : static_cast<int8_t>(i);
    values[static_cast<size_t>(i)] = static_cast<float>(q - from.zero_point()) * from.scale();
  }
  const auto apply = [&](const Node& node, size_t data_input) {
    std::vector<const Tensor*> inputs;
    for (size_t i = 0; i < node.inputs().size(); ++i)
      inputs.push_back(i == data_input ? &x : node.input(i) ? &node.input(i)->constant() : nullptr);
    x = interpret_node(node, inputs)[0].reshaped({256});
  };
  for (const Node* node : nodes) {
    size_t data = 0;
    while (node->input(data)->is_constant()) ++data;
    apply(*node, data);
  }
  apply(quantize, 0);
  return x;
}

// A function of one tensor element: pointwise, its other inputs scalar constants.
bool is_unary(const Node& node) {
  if (node.op().kind != OpKind::pointwise || node.outputs().size() != 1) return false;
  size_t data = 0;
  for (const Value* input : node.inputs()) {
    if (!input) continue;
    if (!input->is_constant())
      ++data;
    else if (input->constant().size() != 1)
      return false;
  }
  return data == 1 && node.output()->dtype() == DType::f32;
}

const Value* data_input(const Node& node) {
  for (const Value* input : node.inputs())
    if (input && !input->is_constant()) return input;
  return nullptr;
}

// A chain of functions of one element that ends in this quantize, or none but a change of scale.
bool make_lookup(Graph& graph, Node& quantize) {
  std::vector<const Node*> chain;
  const Value* at = quantize.input(0);
  while (!byte_dequantize(at)) {
    const Node* node = at->producer();
    if (!node || !is_unary(*node) || !only_user(graph, at)) return false;
    chain.insert(chain.begin(), node);
    at = data_input(*node);
  }
  const Node* dequantize = byte_dequantize(at);
  const QuantInfo from = *quant_info(*dequantize), to = *quant_info(quantize);
  if (chain.empty() && from == to) {
    take_over(graph, &quantize, dequantize->input(0));
    return true;
  }
  Value* table = graph.add_constant(quantize.name() + "/table", make_table(from, chain, quantize));
  const std::string name = chain.empty() ? quantize.name() : chain.back()->name();
  take_over(graph, &quantize,
            graph.apply("lookup", {dequantize->input(0), table}, {}, name, &quantize));
  return true;
}

// add or mul of two dequantized tensors of one shape, a clamp behind it or not.
bool make_binary(Graph& graph, Node& quantize) {
  Bounds bounds{-std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
  const Node* node = quantize.input(0)->producer();
  if (node && clamp_bounds(*node) && only_user(graph, node->output())) {
    bounds = *clamp_bounds(*node);
    if (!only_user(graph, node->input(0))) return false;
    node = node->input(0)->producer();
  }
  if (!node || !(node->is("add") || node->is("mul")) || !only_user(graph, node->output()))
    return false;
  const Node *a = byte_dequantize(node->input(0)), *b = byte_dequantize(node->input(1));
  if (!a || !b || !(node->input(0)->shape() == node->input(1)->shape())) return false;
  const QuantInfo ia = *quant_info(*a), ib = *quant_info(*b), y = *quant_info(quantize);
  Attributes attributes{{"a_zero_point", int64_t{ia.zero_point()}},
                        {"b_zero_point", int64_t{ib.zero_point()}}};
  const double y_scale = y.scale();
  const auto rounded = [](double m) { return static_cast<double>(static_cast<float>(m)); };
  if (node->is("add")) {
    attributes["a_multiplier"] = rounded(ia.scale() / y_scale);
    attributes["b_multiplier"] = rounded(ib.scale() / y_scale);
  } else {
    attributes["multiplier"] = rounded(static_cast<double>(ia.scale()) * ib.scale() / y_scale);
  }
  set_epilogue(attributes, y, bounds);
  take_over(
      graph, &quantize,
      graph.apply(node->is("add") ? "quantized_add" : "quantized_mul", {a->input(0), b->input(0)},
                  std::move(attributes), node->name(), &quantize));
  return true;
}

// Integers of `from` in the scale of `to`.
Value* rescaled(Graph& graph, Value* x, const QuantInfo& from, const Node& quantize) {
  if (from == *quant_info(quantize)) return x;
  Value* table = graph.add_constant(quantize.name() + "/table", make_table(from, {}, quantize));
  return graph.apply("lookup", {x, table}, {}, "", const_cast<Node*>(&quantize));
}

// What only copies elements, mixes neighbours without leaving their range, or adds a constant.
bool moves_bytes(const Node& node) {
  if (node.is("resize"))
    return node.text("mode") != "cubic" && node.text("coordinates") != "tf_crop_and_resize";
  if (node.is("pad")) return !node.input(1) || node.input(1)->is_constant();
  return node.op().kind == OpKind::movement && node.op().quant != QuantTrait::float_only;
}

// The value that pad adds, as the quantize behind it makes it.
Value* padding(Graph& graph, const Node& pad, const Node& quantize) {
  const Tensor value = pad.input(1) ? pad.input(1)->constant().reshaped({}) : Tensor::scalar(0.0f);
  std::vector<const Tensor*> inputs{&value};
  for (size_t i = 1; i < quantize.inputs().size(); ++i)
    inputs.push_back(quantize.input(i) ? &quantize.input(i)->constant() : nullptr);
  return graph.add_constant(pad.name() + "/value", interpret_node(quantize, inputs)[0]);
}

// Each dequantized input takes the output's scale, then bytes are moved.
bool make_movement(Graph& graph, Node& quantize) {
  Node* node = quantize.input(0)->producer();
  if (!node || !moves_bytes(*node) || !only_user(graph, node->output())) return false;
  std::vector<Value*> inputs;
  for (size_t i = 0; i < node->inputs().size(); ++i) {
    Value* input = node->input(i);
    if (i == 1 && node->is("pad")) {
      inputs.push_back(nullptr);
    } else if (!input) {
      inputs.push_back(nullptr);
    } else if (const Node* dequantize = byte_dequantize(input)) {
      inputs.push_back(rescaled(graph, dequantize->input(0), *quant_info(*dequantize), quantize));
    } else if (!is_float(input->dtype())) {
      inputs.push_back(input);  // indices
    } else {
      return false;
    }
  }
  if (node->is("pad") && node->text("mode") == "constant") {
    inputs.resize(std::max<size_t>(inputs.size(), 2));
    inputs[1] = padding(graph, *node, quantize);
  }
  take_over(graph, &quantize,
            graph.apply(node->op_name(), inputs, node->attributes(), node->name(), &quantize));
  return true;
}

// Pooling over the spatial dims of [N, C, H, W] or [N, C, L]: kernel and window of `pool`; none for
// other nodes.
std::optional<Attributes> pool_attributes(const Node& node) {
  const int64_t rank = node.input(0)->shape().rank();
  if ((node.is("max_pool") || node.is("avg_pool")) && (rank == 3 || rank == 4)) {
    if (node.outputs().size() > 1 && !node.output(1)->uses().empty()) return std::nullopt;
    Attributes a{{"mode", std::string(node.is("max_pool") ? "max" : "average")},
                 {"kernel", node.integers("kernel")}};
    for (const char* name : {"strides", "pads", "dilations"}) a[name] = node.integers(name);
    a["ceil_mode"] = node.integer("ceil_mode");
    if (node.is("avg_pool")) a["count_include_pad"] = node.integer("count_include_pad");
    widen_window(a);
    return a;
  }
  if (node.is("reduce_mean") && rank == 4) {
    Ints axes = node.integers("axes");
    for (int64_t& axis : axes) axis = axis < 0 ? axis + 4 : axis;
    std::sort(axes.begin(), axes.end());
    if (axes != Ints{2, 3} || !node.input(0)->shape().is_static()) return std::nullopt;
    const Dims dims = node.input(0)->shape().dims();
    if (dims[2] * dims[3] == 0) return std::nullopt;
    return Attributes{{"mode", std::string("average")}, {"kernel", Ints{dims[2], dims[3]}}};
  }
  return std::nullopt;
}

// The pool of `x` under `attributes`, back in the layout and rank of `node`'s output.
Value* apply_pool(Graph& graph, const Node& node, Value* x, Attributes attributes, Node* before) {
  Value* image = transposed(graph, as_image(graph, x, before), to_nhwc, before);
  Value* y = graph.apply("pool", {image}, std::move(attributes), node.name(), before);
  y = transposed(graph, y, to_nchw, before);
  if (node.output()->shape().rank() != 4)
    y = graph.apply("reshape", {y}, {{"shape", node.output()->shape().dims()}}, "", before);
  return y;
}

bool make_pool(Graph& graph, Node& quantize) {
  const Node* node = quantize.input(0)->producer();
  if (!node || !only_user(graph, quantize.input(0))) return false;
  const auto attributes = node->inputs().empty() ? std::nullopt : pool_attributes(*node);
  const Node* dequantize = attributes ? byte_dequantize(node->input(0)) : nullptr;
  if (!dequantize) return false;
  const QuantInfo x = *quant_info(*dequantize), y = *quant_info(quantize);
  Attributes a = *attributes;
  if (std::get<std::string>(a["mode"]) == "max") {
    a["output"] = std::string(dtype_name(x.dtype));
    Value* pooled = apply_pool(graph, *node, dequantize->input(0), std::move(a), &quantize);
    take_over(graph, &quantize, rescaled(graph, pooled, x, quantize));
    return true;
  }
  a["x_zero_point"] = int64_t{x.zero_point()};
  a["multiplier"] =
      static_cast<double>(static_cast<float>(static_cast<double>(x.scale()) / y.scale()));
  set_epilogue(a, y,
               {-std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()});
  take_over(graph, &quantize,
            apply_pool(graph, *node, dequantize->input(0), std::move(a), &quantize));
  return true;
}

}  // namespace

void fuse_integer(Graph& graph) {
  graph.for_each([&](Node& node) {
    if (!node.is("quantize")) return;
    const auto info = quant_info(node);
    if (!info || !info->per_tensor() || (info->dtype != DType::u8 && info->dtype != DType::i8))
      return;
    if (make_pool(graph, node) || make_binary(graph, node) || make_movement(graph, node)) return;
    make_lookup(graph, node);
  });
}

void lower_pooling(Graph& graph) {
  graph.for_each([&](Node& node) {
    if (node.inputs().empty() || !node.input(0) || node.input(0)->dtype() != DType::f32) return;
    const auto attributes = pool_attributes(node);
    if (!attributes) return;
    Value* y = apply_pool(graph, node, node.input(0), *attributes, &node);
    const std::string name = node.output()->name();
    graph.replace_all_uses(node.output(), y);
    graph.erase(&node);
    graph.rename(y, name);
  });
}

}  // namespace octavo
