// Placement for runtimes that read Q/DQ files, from their facts (facts.h):
//  1. products with constant weights are integer, and products of two activations;
//  2. so are additions, pooling, copies …, as the facts say, if an integer op reads their result;
//  3. what an integer op reads is quantized, and what it writes where the runtime wants that; a
//     clamp in between belongs to the op before it;
//  4. copies share the scale of their input, and so do all sides of a concat where that is wanted.
#include <numeric>
#include <unordered_map>
#include <unordered_set>

#include "graph/op_def.h"
#include "passes/match.h"
#include "quantize/placement/facts.h"
#include "quantize/placement/placement.h"
#include "quantize/placement/products.h"

namespace octavo {
namespace {

bool is_activation(const Value* value) {
  return value && value->dtype() == DType::f32 && !value->is_constant();
}

class Placer {
 public:
  Placer(const Graph& graph, const Rules& rules, const TargetFacts& facts)
      : graph_(graph), rules_(rules), facts_(facts) {}

  Placement run() {
    // Backwards: whether an op is integer depends on who reads it.
    for (const Node* node = graph_.last(); node; node = node->previous()) mark(*node);
    graph_.for_each([&](Node& node) { want(node); });
    share_scales();
    placement_.integer_bias = facts_.integer_bias;
    graph_.for_each([&](Node& node) {
      std::string why;
      if (!integer_.contains(&node)) return;
      if (facts_.form(node.op_name()) != IntegerForm::product) return;
      if (const auto axis = product_weight_axis(node, why))
        placement_.weights.push_back({&node, *axis});
      else
        placement_.activation_products.push_back(&node);
    });
    for (const Value* input : graph_.inputs()) place(input);
    graph_.for_each([&](Node& node) {
      for (const Value* output : node.outputs()) place(output);
    });
    std::reverse(placement_.skipped.begin(), placement_.skipped.end());
    return std::move(placement_);
  }

 private:
  bool integer(const Node* node) const { return node && integer_.contains(node); }

  void skip(const Node& node, std::string reason) {
    placement_.skipped.push_back({node.name(), std::string(node.op_name()), std::move(reason)});
  }

  // The output behind the clamp that goes with the op.
  const Value* result(const Node& node) const {
    const Value* out = node.output();
    const Node* user = only_user(graph_, out);
    return facts_.clamp_vanishes && user && clamp_bounds(*user) ? user->output() : out;
  }

  bool read_by_integers(const Value* value) const {
    for (const Use& use : value->uses())
      if (integer(use.node)) return true;
    return false;
  }

  void mark(const Node& node) {
    const OpFact* fact = facts_.find(node.op_name());
    if (!fact || fact->form == IntegerForm::none || node.outputs().empty()) return;
    if (!is_activation(node.output()) || !is_activation(node.input(0))) return;
    // Those of other precisions are no matter of this placement (precisions.h).
    const Precision precision = rules_.precision_of(node);
    if (precision != Precision::int8 && precision != Precision::float32) return;
    std::string why;
    if (fact->form == IntegerForm::product) {
      if (!gains(node, why) || (!two_activations(node) && !product_weight_axis(node, why)))
        return skip(node, why);
    } else if (!read_by_integers(result(node)) || !has_form(node)) {
      return;
    }
    if (precision == Precision::float32) return skip(node, "a rule keeps it in float");
    integer_.insert(&node);
  }

  static bool two_activations(const Node& node) {
    return node.is("matmul") && is_activation(node.input(1));
  }

  bool gains(const Node& node, std::string& why) const {
    const Value* w = node.input(1);
    if (!w || !w->shape().is_static()) return true;
    const Dims dims = w->shape().dims();
    if (node.is("conv") || node.is("conv_transpose")) {
      const int64_t group = node.integer("group");
      const int64_t out = node.is("conv") ? dims[0] : dims[1] * group;
      const int64_t in = node.is("conv") ? dims[1] * group : dims[0];
      if (std::min(in, out) >= facts_.least_channels) return true;
      why = fmt::format("fewer than {} channels gain nothing", facts_.least_channels);
      return false;
    }
    if (dims.size() < 2 ||
        std::min(dims[dims.size() - 1], dims[dims.size() - 2]) >= facts_.least_matrix)
      return true;
    why = fmt::format("K or N below {} gain nothing", facts_.least_matrix);
    return false;
  }

  // Shapes and operands for which the op has its integer form.
  bool has_form(const Node& node) const {
    if (node.is("add") || node.is("mul"))
      return is_activation(node.input(1)) && node.input(0)->shape() == node.input(1)->shape() &&
             node.input(0) != node.input(1);
    if (node.is("concat"))
      return std::all_of(node.inputs().begin(), node.inputs().end(), is_activation);
    if (node.is("max_pool") || node.is("avg_pool")) return node.input(0)->shape().rank() == 4;
    if (node.is("reduce_mean")) {
      if (facts_.averages_keep_axes && node.integer("keepdims") == 0) return false;
      Ints axes = node.integers("axes");
      for (int64_t& axis : axes) axis = axis < 0 ? axis + 4 : axis;
      return node.input(0)->shape().rank() == 4 && (axes == Ints{2, 3} || axes == Ints{3, 2});
    }
    if (node.is("resize")) return node.text("mode") == "nearest";
    return true;
  }

  // Of an addition: the operand that a product computes and that the product's kernel adds to.
  const Value* taken_operand(const Node& add) const {
    const Value* taken = nullptr;
    for (const Value* operand : {add.input(0), add.input(1)}) {
      const Node* product = operand->producer();
      if (!integer(product) || facts_.form(product->op_name()) != IntegerForm::product) continue;
      if (only_user(graph_, operand) != &add) continue;
      // Of two products the later one.
      if (!taken || comes_before(*taken->producer(), *product)) taken = operand;
    }
    return taken;
  }

  static bool comes_before(const Node& a, const Node& b) {
    for (const Node* node = a.next(); node; node = node->next())
      if (node == &b) return true;
    return false;
  }

  void want(const Node& node) {
    if (!integer(&node)) return;
    const OpFact& fact = *facts_.find(node.op_name());
    const Value* taken =
        facts_.products_take_additions && node.is("add") ? taken_operand(node) : nullptr;
    for (size_t i = 0; i < node.inputs().size(); ++i) {
      const Value* input = node.input(i);
      const bool parameter = fact.form == IntegerForm::product && i > 0 && !two_activations(node);
      if (is_activation(input) && !parameter && input != taken) wanted_.insert(input);
    }
    if (fact.quantized_output) wanted_.insert(result(node));
  }

  // ---- scales: union-find over the values

  const Value* root(const Value* value) {
    auto it = parent_.find(value);
    if (it == parent_.end() || it->second == value) return value;
    return it->second = root(it->second);
  }
  void unite(const Value* a, const Value* b) {
    if (wanted_.contains(a) && wanted_.contains(b)) parent_[root(b)] = root(a);
  }
  void share_scales() {
    graph_.for_each([&](Node& node) {
      if (!integer(&node) || facts_.form(node.op_name()) != IntegerForm::copy) return;
      if (node.is("concat")) {
        if (facts_.shared_concat)
          for (const Value* input : node.inputs()) unite(node.output(), input);
      } else if (!node.is("avg_pool")) {
        unite(node.input(0), node.output());
      }
    });
  }

  void place(const Value* value) {
    if (!wanted_.contains(value)) return;
    const Value* leader = root(value);
    const auto [it, fresh] = group_of_.try_emplace(leader, placement_.groups);
    if (fresh) ++placement_.groups;
    PlacedActivation placed{value, it->second};
    if (facts_.activation == DType::i8) placed.scheme = Scheme{};
    placement_.activations.push_back(placed);
  }

  const Graph& graph_;
  const Rules& rules_;
  const TargetFacts& facts_;
  Placement placement_;
  std::unordered_set<const Node*> integer_;
  std::unordered_set<const Value*> wanted_;
  std::unordered_map<const Value*, const Value*> parent_;
  std::unordered_map<const Value*, int> group_of_;
};

}  // namespace

Placement place_by_facts(const Graph& graph, const Rules& rules, const TargetFacts& facts) {
  return Placer(graph, rules, facts).run();
}

}  // namespace octavo
