// Placement for Octavo's own kernels. It mirrors what passes/fuse_compute.cpp and fuse_integer.cpp
// can run on integers:
//  1. products (conv, gemm, matmul) with constant weights are integer, a matmul's bias with it;
//  2. downstream of integers, so are additions, products of tensors, pooling, functions of one
//     element and copies, as long as an integer op reads their result;
//  3. each value that an integer op reads is quantized, but for those inside a fused chain:
//     product -> residual addition -> clamp, addition -> clamp, function -> function;
//  4. copies and maxima share the scale of their input;
//  5. attention reads and writes integers, what is between its two products stays inside it;
//  6. what a float op makes is quantized for its integer readers alone: the others (a residual
//     stream) read the float value.
#include <unordered_map>
#include <unordered_set>

#include "graph/op_def.h"
#include "passes/attention.h"
#include "passes/match.h"
#include "quantize/placement/facts.h"
#include "quantize/placement/placement.h"
#include "quantize/placement/products.h"

namespace octavo {
namespace {

bool is_float_tensor(const Value* value) { return value && value->dtype() == DType::f32; }

// The axis of the output channels in the weights of a product that has an integer kernel.
std::optional<int64_t> weight_axis(const Node& node, std::string& why) {
  if (!node.is("conv_transpose")) return product_weight_axis(node, why);
  if (!node.input(1)->is_constant() || (node.input(2) && !node.input(2)->is_constant())) {
    why = "its weights or bias are not constant";
    return std::nullopt;
  }
  const Ints& strides = node.integers("strides");
  if (node.input(1)->shape().rank() == 4 && node.integer("group") == 1 &&
      (strides.empty() || strides[0] == strides[1]))
    return 1;
  why = "only 2-D ones of one group and one stride have integer kernels";
  return std::nullopt;
}

class Placer {
 public:
  Placer(const Graph& graph, const Rules& rules) : graph_(graph), rules_(rules) {}

  Placement run() {
    graph_.for_each([&](Node& node) { mark_attention(node); });
    graph_.for_each([&](Node& node) { mark(node); });
    for (const Node* node = graph_.last(); node; node = node->previous()) prune(*node);
    graph_.for_each([&](Node& node) {
      std::string why;
      if (is_product(&node))
        placement_.weights.push_back({&node, *weight_axis(node, why)});
      else if (attention_.contains(&node))
        placement_.activation_products.push_back(&node);
    });
    for (const Value* input : graph_.inputs()) place(input);
    graph_.for_each([&](Node& node) {
      for (const Value* output : node.outputs()) place(output);
    });
    return std::move(placement_);
  }

 private:
  bool integer(const Node* node) const { return node && integer_.contains(node); }

  // An integer product with constant weights.
  bool is_product(const Node* node) const {
    return integer(node) && node->op().quant == QuantTrait::weighted && !attention_.contains(node);
  }

  // The constant behind a matmul that its kernel adds as a bias.
  bool adds_bias(const Node& node) const {
    if (!node.is("add")) return false;
    for (size_t side : {0u, 1u}) {
      const Value *sum = node.input(side), *bias = node.input(1 - side);
      const Node* producer = sum->producer();
      if (is_product(producer) && producer->is("matmul") && only_user(graph_, sum) &&
          bias->is_constant() && bias->shape() == Shape{producer->input(1)->shape()[1]})
        return true;
    }
    return false;
  }

  // Whether `use` reads integers.
  bool reads_integers(const Use& use) const {
    if (!integer(use.node)) return false;
    if (attention_.contains(use.node)) return use.node->input(use.index) != weights_of(*use.node);
    return use.node->op().quant != QuantTrait::weighted || use.index == 0;
  }

  // The softmax that an attention's second product reads.
  static const Value* weights_of(const Node& node) {
    const Node* producer = node.input(0)->producer();
    return producer && producer->is("softmax") ? node.input(0) : nullptr;
  }

  void mark_attention(Node& node) {
    const auto attention = attention_of(graph_, node);
    if (!attention || !rules_.allows_integer(*attention->scores) || !rules_.allows_integer(node))
      return;
    for (const Value* value : {attention->q, attention->k, attention->v})
      if (value->is_constant()) return;
    for (const Node* part : {attention->scores, attention->values}) {
      integer_.insert(part);
      attention_.insert(part);
    }
  }

  void skip(const Node& node, std::string reason) {
    placement_.skipped.push_back({node.name(), std::string(node.op_name()), std::move(reason)});
  }

  // Products of other precisions are no matter of this placement (precisions.h).
  void skip_by_rule(const Node& node) {
    if (rules_.precision_of(node) == Precision::float32) skip(node, "a rule keeps it in float");
  }

  void mark(const Node& node) {
    if (integer(&node)) return;
    const QuantTrait trait = node.op().quant;
    if (trait == QuantTrait::float_only || trait == QuantTrait::none || node.outputs().empty())
      return;
    if (!is_float_tensor(node.output())) return;
    if (!rules_.allows_integer(node)) return skip_by_rule(node);
    if (trait == QuantTrait::weighted) {
      std::string why;
      if (weight_axis(node, why))
        integer_.insert(&node);
      else
        skip(node, why);
      return;
    }
    if (adds_bias(node) || (from_integers(node) && has_integer_form(node))) integer_.insert(&node);
  }

  bool from_integers(const Node& node) const {
    bool any = false;
    for (const Value* input : node.inputs()) {
      if (!is_float_tensor(input) || input->is_constant()) continue;
      if (!integer(input->producer())) return false;
      any = true;
    }
    return any;
  }

  static bool is_function(const Node& node) {
    if (node.op().kind != OpKind::pointwise) return false;
    size_t data = 0;
    for (const Value* input : node.inputs()) {
      if (!input) continue;
      if (!input->is_constant())
        ++data;
      else if (input->constant().size() != 1)
        return false;
    }
    return data == 1;
  }

  static bool has_integer_form(const Node& node) {
    if (is_function(node)) return true;
    if (node.is("add") || node.is("mul"))
      return !node.input(0)->is_constant() && !node.input(1)->is_constant() &&
             node.input(0)->shape() == node.input(1)->shape();
    if (node.is("max_pool") || node.is("avg_pool")) return node.input(0)->shape().rank() == 4;
    if (node.is("reduce_mean")) {
      Ints axes = node.integers("axes");
      for (int64_t& axis : axes) axis = axis < 0 ? axis + 4 : axis;
      return node.input(0)->shape().rank() == 4 && (axes == Ints{2, 3} || axes == Ints{3, 2}) &&
             node.input(0)->shape()[2].is_static() && node.input(0)->shape()[3].is_static();
    }
    if (node.is("resize"))  // neighbours are mixed, within their range
      return node.text("mode") != "cubic" && node.text("coordinates") != "tf_crop_and_resize";
    if (node.is("pad")) {  // 0 lies within every range
      const Value* value = node.input(1);
      return node.text("mode") != "constant" || !value ||
             (value->is_constant() && value->constant().to_doubles() == std::vector<double>{0});
    }
    return node.op().kind == OpKind::movement;
  }

  // An op that is no product earns its place only if an integer op reads it.
  void prune(const Node& node) {
    if (!integer(&node) || node.op().quant == QuantTrait::weighted) return;
    for (const Value* output : node.outputs())
      for (const Use& use : output->uses())
        if (integer(use.node)) return;
    integer_.erase(&node);
  }

  // Whether `value`, made by `node`, is read by exactly one integer node that fuses with it.
  bool inside_chain(const Value* value) const {
    const Node* node = value->producer();
    const Node* user = only_user(graph_, value);
    if (!integer(node) || !integer(user)) return false;
    const bool clamp = clamp_bounds(*user).has_value();
    if (attention_.contains(node)) return false;
    if (node->is("conv_transpose")) return clamp;
    if (is_product(node) && fusible_slope(*node, *user)) return true;
    if (is_product(node)) return clamp || adds_bias(*user) || takes_addition(*node, *user);
    if (adds_bias(*node)) return clamp || takes_addition(*node, *user);
    if (node->is("add") || node->is("mul"))
      return clamp || (is_function(*node) && is_function(*user));
    return is_function(*node) && is_function(*user) && !absorbed_clamp(*node);
  }

  // A clamp or leaky_relu that its producer takes over is no function of its own any more.
  bool absorbed_clamp(const Node& node) const {
    const Node* producer = node.input(0)->producer();
    if (integer(producer) && is_product(producer) && only_user(graph_, node.input(0)) &&
        fusible_slope(*producer, node))
      return true;
    if (!clamp_bounds(node)) return false;
    return integer(producer) && only_user(graph_, node.input(0)) &&
           (is_product(producer) || producer->is("add") || producer->is("mul"));
  }

  // Of two products that are added, the later one takes the addition.
  bool takes_addition(const Node& product, const Node& add) const {
    if (!add.is("add") || add.input(0) == add.input(1)) return false;
    const size_t side = add.input(0) == product.output() ? 0 : 1;
    const Value* other = add.input(1 - side);
    if (other->is_constant() || !(other->shape() == product.output()->shape())) return false;
    const Node* rival = other->producer();
    if (!integer(rival) || !(is_product(rival) || adds_bias(*rival)) || !only_user(graph_, other))
      return true;
    for (const Node* node = rival->next(); node; node = node->next())
      if (node == &product) return true;
    return false;
  }

  void place(const Value* value) {
    if (!is_float_tensor(value) || value->is_constant()) return;
    bool read = false;
    for (const Use& use : value->uses()) read = read || reads_integers(use);
    if (!read || inside_chain(value)) return;
    const Node* node = value->producer();
    PlacedActivation placed{.value = value, .group = 0};
    if (!integer(node))
      for (const Use& use : value->uses())
        if (!reads_integers(use)) placed.float_readers.push_back(use);
    int group = -1;
    if (node && integer(node) && node->op().quant == QuantTrait::same_scale)
      if (const auto it = group_of_.find(node->input(0)); it != group_of_.end()) group = it->second;
    if (group < 0) group = placement_.groups++;
    group_of_[value] = placed.group = group;
    placement_.activations.push_back(std::move(placed));
  }

  const Graph& graph_;
  const Rules& rules_;
  Placement placement_;
  std::unordered_set<const Node*> integer_;
  std::unordered_set<const Node*> attention_;  // both products
  std::unordered_map<const Value*, int> group_of_;
};

}  // namespace

const TargetFacts& octavo_facts() {
  static constexpr OpFact ops[] = {
      {"conv", IntegerForm::product},
      {"gemm", IntegerForm::product},
      {"matmul", IntegerForm::product},
      {"add", IntegerForm::arithmetic, true},
      {"mul", IntegerForm::arithmetic, true},
      {"avg_pool", IntegerForm::arithmetic, true},
      {"reduce_mean", IntegerForm::arithmetic, true},
      {"concat", IntegerForm::arithmetic, true},
      {"max_pool", IntegerForm::arithmetic, true},
      {"reshape", IntegerForm::copy, false, true},
      {"squeeze", IntegerForm::copy, false, true},
      {"unsqueeze", IntegerForm::copy, false, true},
      {"transpose", IntegerForm::copy, false, true},
      {"slice", IntegerForm::copy, false, true},
  };
  static constexpr TargetFacts facts{
      .name = "octavo",
      .ops = ops,
      .activation = DType::u8,
      .affine_activations = true,
      .u8_weights = true,
      .affine_weights = false,
      .integer_bias = true,
      .clamp_vanishes = true,
      .fuses_functions = false,
      .fuses_leaky_relu = true,
      .function_tables = true,
      .products_take_additions = true,
      .shared_concat = false,
      .averages_keep_axes = false,
      .i8_needs_single_reader = false,
      .weight_only = {.int8 = true,
                      .conv = true,
                      .symmetric = false,
                      .trans_b = true,
                      .tables = true,
                      .four_bit_tables = true,
                      .gathers_integers = false,
                      .group = 32,
                      .least_group = 0,
                      .input_scales = false},
      .no_dynamic = nullptr,
      .dynamic_rows = true,
      .dynamic_matrix_tail = true,
      .dynamic_conv_tail = true,
      .least_channels = 1,
      .least_matrix = 1,
  };
  return facts;
}

Placement place_octavo(const Graph& graph, const Rules& rules) {
  return Placer(graph, rules).run();
}

}  // namespace octavo
