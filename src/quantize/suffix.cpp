#include "quantize/suffix.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "graph/op_def.h"
#include "support/error.h"

namespace octavo {
namespace {

bool same_tensor(const Tensor& a, const Tensor& b) { return a.buffer() == b.buffer() || a == b; }

class Comparer {
 public:
  Comparer(const Graph& base, const Graph& variant) : base_(base), variant_(variant) {
    for (const Value* input : variant.inputs())
      if (const Value* twin = base.find_value(input->name()); twin && twin->is_input())
        twins_[input] = twin;
    variant.for_each([&](Node& node) { visit(node); });
  }

  // The base's value that `value` equals; null if there is none.
  const Value* twin(const Value* value) {
    if (value->is_constant()) {
      const Value* other = base_.find_value(value->name());
      return other && other->is_constant() && same_tensor(value->constant(), other->constant())
                 ? other
                 : nullptr;
    }
    const auto it = twins_.find(value);
    return it == twins_.end() ? nullptr : it->second;
  }

  // Made of constants alone: computed again at no cost, never held.
  bool fixed(const Value* value) const { return value->is_constant() || fixed_.contains(value); }

 private:
  void visit(const Node& node) {
    bool constant = true;
    for (const Value* input : node.inputs()) constant = constant && (!input || fixed(input));
    if (constant) fixed_.insert(node.outputs().begin(), node.outputs().end());
    if (node.outputs().empty()) return;
    const Value* first = base_.find_value(node.output()->name());
    const Node* other = first ? first->producer() : nullptr;
    if (!other || other->op_name() != node.op_name() ||
        other->inputs().size() != node.inputs().size() ||
        other->outputs().size() != node.outputs().size() ||
        other->attributes() != node.attributes())
      return;
    for (size_t i = 0; i < node.inputs().size(); ++i) {
      const Value* input = node.input(i);
      if (input ? twin(input) != other->input(i) : other->input(i) != nullptr) return;
    }
    for (size_t i = 0; i < node.outputs().size(); ++i)
      if (other->output(i)->name() != node.output(i)->name()) return;
    for (size_t i = 0; i < node.outputs().size(); ++i) twins_[node.output(i)] = other->output(i);
  }

  const Graph &base_, &variant_;
  std::unordered_map<const Value*, const Value*> twins_;
  std::unordered_set<const Value*> fixed_;
};

// Whether compilation keeps `value` as it is: nothing is fused across it.
bool stands_alone(const Graph& graph, const Value* value, const Comparer& comparer) {
  const Node* producer = value->producer();
  if (!producer || producer->is("quantize")) return true;
  if (producer->is("dequantize")) return false;        // the integers are held
  if (producer->is("dynamic_quantize")) return false;  // its input is held
  if (graph.is_output(value)) return true;
  // Readers of its shape alone go when the shape is known.
  std::vector<Use> readers;
  for (const Use& use : value->uses())
    if (use.node->op().kind != OpKind::shape) readers.push_back(use);
  if (readers.size() != 1) return true;
  const auto [node, index] = readers[0];
  if (node->is("quantize") || node->is("dynamic_quantize")) return true;
  return index == 0 && node->op().quant == QuantTrait::weighted && comparer.fixed(node->input(1));
}

}  // namespace

Suffix suffix_of(const Graph& base, const std::vector<std::string>& like, const Graph& variant,
                 const std::vector<std::string>& wanted) {
  OCTAVO_CHECK(like.size() == wanted.size());
  Comparer comparer(base, variant);
  Suffix suffix;
  std::vector<const Value*> open;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const Value* value = variant.find_value(wanted[i]);
    OCTAVO_CHECK(value);
    const Value* twin = comparer.twin(value);
    if (twin && twin->name() == like[i]) continue;
    suffix.changed.push_back(i);
    open.push_back(value);
  }
  std::unordered_set<const Value*> seen;
  while (!open.empty()) {
    const Value* value = open.back();
    open.pop_back();
    if (comparer.fixed(value) || !seen.insert(value).second) continue;
    const Value* twin = comparer.twin(value);
    if (twin && stands_alone(variant, value, comparer)) {
      suffix.cut.push_back(value->name());
      continue;
    }
    if (!value->producer())  // an input that the base lacks
      throw InternalError(fmt::format("input '{}' is not the base's", value->name()));
    for (const Value* input : value->producer()->inputs())
      if (input) open.push_back(input);
  }
  std::sort(suffix.cut.begin(), suffix.cut.end());
  return suffix;
}

std::vector<std::string> output_names(const Graph& graph) {
  std::vector<std::string> names;
  for (const Value* output : graph.outputs()) names.push_back(output->name());
  return names;
}

}  // namespace octavo
