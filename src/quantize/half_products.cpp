#include "quantize/half_products.h"

#include <cmath>
#include <unordered_map>
#include <unordered_set>

#include "graph/op_def.h"
#include "graph/rewrite.h"
#include "passes/passes.h"
#include "support/error.h"

namespace octavo {
namespace {

// The dequantize whose elements these are, moved or selected; null if there is none. All operands
// of a concat must have one.
const Node* dequantize_before(const Value* value) {
  const Node* node = value->producer();
  if (!node || node->is("dequantize")) return node;
  const bool concat = node->is("concat");
  if (!concat && node->op().quant != QuantTrait::same_scale) return nullptr;
  const Node* found = nullptr;
  for (const Value* input : node->inputs().first(concat ? node->inputs().size() : 1))
    if (!(found = dequantize_before(input))) return nullptr;
  return found;
}

bool is_constant(const Value* integers) {
  const Node* node = integers->producer();
  return integers->is_constant() || (node && node->is("quantize") && is_constant(node->input(0)));
}

bool multiplies_integers(const Node& node) {
  const Node *x = dequantize_before(node.input(0)), *w = dequantize_before(node.input(1));
  return w && (x || is_constant(w->input(0)));
}

class Halver {
 public:
  Halver(Graph& graph, DType half) : graph_(graph), half_(half) {
    graph_.for_each([&](Node& node) {
      if (node.op().quant != QuantTrait::weighted || node.output()->dtype() != DType::f32) return;
      if (multiplies_integers(node)) return;
      products_.push_back(&node);
      chosen_.insert(&node);
    });
  }

  void run() {
    for (const Node* node : products_) {
      for (const Value* input : node->inputs())
        if (input && input->is_constant() && !constants_.contains(input))
          constants_.emplace(input, halved(*node, input->constant()));
    }
    for (Node* node : products_) rewrite(*node);
    graph_.remove_dead();
  }

 private:
  Tensor halved(const Node& node, const Tensor& tensor) const {
    Tensor half = convert(tensor, half_);
    if (half_ != DType::f16) return half;
    const Tensor back = convert(half, DType::f32);
    const auto before = tensor.values<float>(), after = back.values<float>();
    for (size_t i = 0; i < before.size(); ++i)
      if (std::isinf(after[i]) && !std::isinf(before[i]))
        throw UserError(ErrorKind::value, node.where(),
                        fmt::format("a constant is {}, float16 ends at 65504", before[i]),
                        "use bfloat16 or float32");
    return half;
  }

  Value* in_half(Value* value, Node* before) {
    Value*& known = halves_[value];
    if (known) return known;
    const Node* producer = value->producer();
    if (producer && producer->is("cast") && producer->input(0)->dtype() == half_)
      return known = producer->input(0);  // of a product before
    const std::string name = value->name() + "/" + dtype_name(half_);
    // A constant that others read as well would be stored twice: its half is computed.
    const bool stored = value->is_constant() && !graph_.is_output(value) &&
                        std::all_of(value->uses().begin(), value->uses().end(),
                                    [&](const Use& use) { return chosen_.contains(use.node); });
    known =
        stored ? graph_.add_constant(name, constants_.at(value)) : cast(value, half_, name, before);
    return known;
  }

  Value* cast(Value* value, DType to, const std::string& name, Node* before) {
    return graph_.apply("cast", {value}, {{"to", std::string(dtype_name(to))}}, name, before);
  }

  void rewrite(Node& node) {
    std::vector<Value*> inputs;
    for (Value* input : node.inputs()) inputs.push_back(input ? in_half(input, &node) : nullptr);
    const std::string name = node.output()->name();
    Value* half = graph_.apply(node.op_name(), std::move(inputs), node.attributes(),
                               name + "/" + dtype_name(half_), &node);
    half->producer()->set_name(node.name());
    replace(graph_, &node, cast(half, DType::f32, name + "/f32", &node));
  }

  Graph& graph_;
  const DType half_;
  std::vector<Node*> products_;
  std::unordered_set<const Node*> chosen_;
  std::unordered_map<const Value*, Tensor> constants_;
  std::unordered_map<const Value*, Value*> halves_;
};

}  // namespace

void use_float_products(Graph& graph, const std::string& type) {
  if (type == "float32") return;
  if (type != "float16" && type != "bfloat16")
    throw UserError(ErrorKind::value, "float_products", fmt::format("'{}' is not known", type),
                    "use one of: float32, float16, bfloat16");
  Graph changed = graph.clone();
  fold_batch_norm_into_products(changed);
  changed.remove_dead();
  Halver(changed, type == "float16" ? DType::f16 : DType::bf16).run();
  graph = std::move(changed);
}

}  // namespace octavo
