#include "quantize/placement/lint.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <unordered_set>

#include "graph/op_def.h"
#include "ops/packed.h"
#include "passes/match.h"
#include "passes/pipeline.h"
#include "quantize/placement/facts.h"
#include "quantize/placement/placement.h"

namespace octavo {
namespace {

bool is_float_activation(const Value* value) {
  return value && is_float(value->dtype()) && !value->is_constant();
}

// The dequantize behind which `value` stands, whatever its granularity.
const Node* dequantize_of(const Value* value) {
  const Node* node = value ? value->producer() : nullptr;
  return node && node->is("dequantize") ? node : nullptr;
}

bool is_integer_product(const Node* node) {
  return node && (node->is("matmul_integer") || node->is("conv_integer"));
}

// The integer product that a value comes from by a cast to float, its scales and a constant bias,
// each step read by the next alone.
const Node* dynamic_product(const Graph& graph, const Node& node) {
  const auto before = [&](const Value* value) -> const Node* {
    const Node* at = value && only_user(graph, value) ? value->producer() : nullptr;
    if (!at) return nullptr;
    return is_integer_product(at) ? at : dynamic_product(graph, *at);
  };
  if (node.is("cast"))
    return is_float(node.output()->dtype()) && is_integer_product(node.input(0)->producer())
               ? before(node.input(0))
               : nullptr;
  if (!node.is("mul") && !node.is("add")) return nullptr;
  for (size_t side : {0u, 1u}) {
    const Value *other = node.input(1 - side), *from = node.input(side);
    const Node* step = from->producer();
    if (!step || !(step->is("cast") || step->is("mul"))) continue;
    if (node.is("mul") ? !step->is("cast") : !step->is("mul") || !other->is_constant()) continue;
    if (const Node* product = before(from)) return product;
  }
  return nullptr;
}

bool is_constant_chain(const Value* value) {
  if (value->is_constant()) return true;
  const Node* node = value->producer();
  return node &&
         (node->is("dequantize") || node->is("quantize") || node->is("transpose") ||
          node->is("reshape")) &&
         is_constant_chain(node->input(0));
}

class Linter {
 public:
  Linter(const Graph& graph, const TargetFacts& facts) : graph_(graph), facts_(facts) {}

  LintReport run() {
    graph_.for_each([&](Node& node) { judge(node); });
    return std::move(report_);
  }

 private:
  using Why = std::optional<std::string>;  // none: integers

  void judge(const Node& node) {
    if (node.op().kind == OpKind::quantization) return check_parameters(node);
    if (is_integer_product(&node)) return judge_dynamic(node);
    if (node.outputs().empty() || !is_float(node.output()->dtype())) return;
    if (is_constant_chain_node(node)) return;
    if (node.is("batch_norm"))
      rule(node, "batch normalization is not folded into the convolution before it");
    check_sides(node);
    if (fused(node)) {
      report_.integer.push_back(node.name());
      return;
    }
    const Why why = in_float(node);
    if (!why) return report_.integer.push_back(node.name());
    const auto [kind, reason] =
        weight_only(node, *why).value_or(std::pair(LintKind::in_float, *why));
    report_.findings.push_back({kind, node.name(), std::string(node.op_name()), reason});
  }

  void judge_dynamic(const Node& node) {
    if (facts_.no_dynamic)
      report_.findings.push_back(
          {LintKind::in_float, node.name(), std::string(node.op_name()), facts_.no_dynamic});
    else
      report_.integer.push_back(node.name());
  }

  // What stands behind a dynamic product, and the multiplication of both scales.
  bool in_dynamic_product(const Node& node) const {
    const Node* end = &node;
    if (node.is("mul") && node.input(0)->producer() != nullptr) {
      const Node* user = only_user(graph_, node.output());
      const bool scales = std::any_of(node.inputs().begin(), node.inputs().end(), [](Value* v) {
        return v->producer() && v->producer()->is("dynamic_quantize");
      });
      if (user && user->is("mul") && scales) end = user;
    }
    const Node* product = dynamic_product(graph_, *end);
    if (!product) return false;
    return product->is("matmul_integer") ? facts_.dynamic_matrix_tail : facts_.dynamic_conv_tail;
  }

  // Of a product of a float activation and dequantized constants: whether the target multiplies by
  // their integers, or why not.
  std::optional<std::pair<LintKind, std::string>> weight_only(const Node& node,
                                                              const std::string& in_float) const {
    if (!is_product(node) || dequantize_of(node.input(0))) return std::nullopt;
    const Node* dq = dequantize_of(node.input(1));
    if (!dq) return std::nullopt;
    for (const Value* input : dq->inputs())
      if (input && !input->is_constant()) return std::nullopt;
    const DType type = integer_type(*dq);
    if (type != DType::i8 && type != DType::u8) return std::nullopt;
    const int bits = is_packed(*dq) ? 4 : 8;
    if (const Why why = weights_become_float(node, *dq, bits))
      return std::pair(LintKind::in_float, in_float + "; weights alone are integers: " + *why);
    return std::pair(
        LintKind::weights,
        fmt::format("its activation is float; its weights stay integers of {} bits", bits));
  }

  Why weights_become_float(const Node& node, const Node& dq, int bits) const {
    const TargetFacts::WeightOnly& facts = facts_.weight_only;
    const bool conv = node.is("conv") || node.is("conv_transpose");
    if (bits == 8 && !facts.int8)
      return fmt::format("{} has no products of 8-bit weights and floats", facts_.name);
    if (node.is("conv_transpose") || (conv && !facts.conv))
      return fmt::format("{} dequantizes those of convolutions", facts_.name);
    if (conv && node.integer("group") != 1)
      return fmt::format("{} dequantizes those of convolutions with groups", facts_.name);
    const bool trans_b = node.is("gemm") && node.integer("trans_b") != 0;
    if (trans_b && !facts.trans_b)
      return fmt::format("{} dequantizes transposed ones at each call", facts_.name);
    if (facts.symmetric && dq.input(2))
      for (const double zero : dq.input(2)->constant().to_doubles())
        if (zero != 0) return "a zero point is not 0";
    if (dq.input(1)->constant().size() == 1) return {};
    const int64_t rank = dq.output()->shape().rank(), group = dq.integer("group_size");
    const int64_t axis = normalize_axis(dq.integer("axis"), rank, dq.where());
    const int64_t outputs = conv || trans_b ? 0 : rank - 1;
    if (group == 0)
      return axis == outputs || facts.input_scales ? Why()
                                                   : "their scales are not those of the outputs";
    if (conv || rank != 2 || axis == outputs) return "their groups do not run along the inputs";
    if (!facts.takes_group(group))
      return fmt::format(
          "{} dequantizes them at each call: groups of {} are no power of two from "
          "{} on",
          facts_.name, group, facts.least_group);
    return {};
  }

  bool is_constant_chain_node(const Node& node) const {
    return std::all_of(node.inputs().begin(), node.inputs().end(),
                       [](const Value* v) { return !v || is_constant_chain(v); });
  }

  void rule(const Node& node, std::string reason) {
    report_.findings.push_back(
        {LintKind::rule, node.name(), std::string(node.op_name()), std::move(reason)});
  }

  // ---- rules on Q/DQ themselves

  void check_parameters(const Node& node) {
    const auto info = quant_info(node);
    if (!info) return;
    const bool weights = is_constant_chain(node.input(0));
    const bool zeros = std::all_of(info->zero_points.begin(), info->zero_points.end(),
                                   [](int32_t z) { return z == 0; });
    if (facts_.affine_activations || info->dtype == DType::i32) return;
    if (!zeros) rule(node, "its zero point is not 0");
    if (info->dtype == DType::u8) rule(node, "its integers are unsigned");
    if (!weights && !info->per_tensor()) rule(node, "an activation has more than one scale");
  }

  // Sides of copies and concats that must share a scale; biases.
  void check_sides(const Node& node) {
    if (facts_.affine_activations) return;  // the others' mistakes cost speed, and show as float
    if ((node.is("conv") || node.is("conv_transpose") || node.is("gemm")) && node.input(2) &&
        dequantize_of(node.input(2)))
      rule(node, "its bias is quantized");
    if (facts_.form(node.op_name()) != IntegerForm::copy) return;
    std::vector<QuantInfo> sides;
    for (const Value* input : node.inputs())
      if (const Node* dq = dequantize_of(input))
        if (const auto info = quant_info(*dq)) sides.push_back(*info);
    if (sides.empty()) return;
    if (const Node* q = only_byte_quantize(graph_, node.output())) sides.push_back(*quant_info(*q));
    for (const QuantInfo& side : sides)
      if (!(side.scales == sides[0].scales))
        return rule(node, "its inputs and its output do not share one scale");
  }

  // ---- integer or float

  // What runs inside the op before or the quantize behind it.
  bool fused(const Node& node) {
    if (!facts_.no_dynamic && in_dynamic_product(node)) return true;
    if (facts_.clamp_vanishes && clamp_bounds(node)) {
      const Node* before = node.input(0)->producer();
      if (before && is_integer(*before) && !clamp_stays(node)) return true;
    }
    if (facts_.fuses_leaky_relu && node.is("leaky_relu")) {
      const Node* before = node.input(0)->producer();
      if (before && is_product(*before) && is_integer(*before) &&
          only_user(graph_, node.input(0)) && fusible_slope(*before, node))
        return true;
    }
    if (!facts_.fuses_functions || node.op().kind != OpKind::pointwise) return false;
    // x -> f(x), and x -> x * f(x), right behind a product that runs on integers.
    const Node* before = nullptr;
    bool any = false;
    for (const Value* input : node.inputs()) {
      if (!is_float_activation(input)) continue;
      any = true;
      const Node* producer = input->producer();
      if (!producer) return false;
      if (!is_product(*producer) && fused_.contains(producer)) continue;
      if (before && before != producer) return false;
      before = producer;
    }
    if (before && !(is_product(*before) && is_integer(*before))) return false;
    if (!any) return false;
    if (node.is("add") && before &&
        std::count_if(node.inputs().begin(), node.inputs().end(), is_float_activation) > 1)
      return false;
    fused_.insert(&node);
    return true;
  }

  bool is_product(const Node& node) const {
    return facts_.form(node.op_name()) == IntegerForm::product;
  }
  bool is_integer(const Node& node) const {
    return std::find(report_.integer.begin(), report_.integer.end(), node.name()) !=
           report_.integer.end();
  }

  // Whether a clamp changes anything that the quantize behind it would not do itself.
  bool clamp_stays(const Node& node) const {
    if (!facts_.clamp_must_saturate()) return false;
    const Node* q = only_byte_quantize(graph_, node.output());
    if (!q) return true;
    const Bounds clamp = *clamp_bounds(node);
    const QuantInfo info = *quant_info(*q);
    const double least = info.dtype == DType::u8 ? 0 : -128, scale = info.scale();
    const double lo = (least - info.zero_point()) * scale;
    const double hi = (least + 255 - info.zero_point()) * scale;
    return clamp.lo > lo + 1e-6 * scale || clamp.hi < hi - 1e-3 * scale;
  }

  Why in_float(const Node& node) const {
    const OpFact* fact = facts_.find(node.op_name());
    if (!fact && facts_.function_tables && node.op().kind == OpKind::pointwise)
      return in_table(node);
    if (!fact || fact->form == IntegerForm::none)
      return fmt::format("{} has no kernel for it on integers", facts_.name);
    switch (fact->form) {
      case IntegerForm::product:
        return product(node, *fact);
      case IntegerForm::copy:
        if (fact->carries_dequantize) return carried(node);
        [[fallthrough]];
      default:
        return arithmetic(node, *fact);
    }
  }

  // The dequantize of an activation, also of one that copies carry here; else why there is none.
  const Node* activation(const Value* value, std::string& why) const {
    const Node* dq = dequantize_of(value);
    const Value* at = value;
    while (!dq && at->producer() && carries(*at->producer())) {
      at = at->producer()->input(0);
      dq = dequantize_of(at);
    }
    if (!dq) {
      why = "an input is not dequantized";
      return nullptr;
    }
    const auto info = quant_info(*dq);
    if (!info || (info->dtype != DType::u8 && info->dtype != DType::i8)) {
      why = "an input is not dequantized from 8 bits with constant parameters";
      return nullptr;
    }
    if (!info->per_tensor()) {
      why = "an activation has more than one scale";
      return nullptr;
    }
    if (facts_.i8_needs_single_reader && info->dtype == DType::i8 &&
        (dq->output()->uses().size() > 1 || dq->input(0)->uses().size() > 1)) {
      why = "its i8 input has several readers; u8 would do";
      return nullptr;
    }
    return dq;
  }

  static const Node* function_before(const Value* value) {
    const Node* node = value ? value->producer() : nullptr;
    return node && node->op().kind == OpKind::pointwise &&
                   std::count_if(node->inputs().begin(), node->inputs().end(),
                                 is_float_activation) == 1
               ? node
               : nullptr;
  }

  // A chain of functions of one element from a dequantize to a quantize.
  Why in_table(const Node& node) const {
    const Node* at = &node;
    std::string why;
    while (at) {
      const Value* x = nullptr;
      for (const Value* input : at->inputs())
        if (is_float_activation(input)) x = x ? at->output() : input;
      if (!x || x == at->output()) return "octavo has no kernel for it on integers";
      at = function_before(x);
      if (at && !only_user(graph_, x))
        return "a value inside a chain of functions is read elsewhere";
      if (!at && !activation(x, why)) return why;
    }
    const Value* out = node.output();
    while (const Node* user = only_user(graph_, out)) {
      if (function_before(user->output()) != user) break;
      out = user->output();
    }
    return only_byte_quantize(graph_, out) ? Why() : "its output is not quantized";
  }

  bool carries(const Node& node) const {
    const OpFact* fact = facts_.find(node.op_name());
    return fact && fact->carries_dequantize && !in_float(node);
  }

  Why product(const Node& node, const OpFact& fact) const {
    std::string why;
    if (!activation(node.input(0), why)) return why;
    const Value* w = node.input(1);
    if (is_constant_chain(w)) {
      const Node* dq = dequantize_of(w);
      for (const Value* at = w; !dq && at->producer(); dq = dequantize_of(at))
        at = at->producer()->input(0);
      const auto info = dq ? quant_info(*dq) : std::nullopt;
      if (!info) return "its weights are not dequantized";
      if (info->dtype != DType::i8 && !(info->dtype == DType::u8 && facts_.u8_weights))
        return info->dtype == DType::u8 ? "its weights are unsigned"
                                        : "its weights are not of 8 bits";
      const int32_t centre = info->dtype == DType::u8 ? 128 : 0;
      const bool centred = std::all_of(info->zero_points.begin(), info->zero_points.end(),
                                       [&](int32_t z) { return z == centre; });
      if (!centred && !facts_.affine_weights)
        return fmt::format("a zero point of its weights is not {}", centre);
    } else if (!activation(w, why)) {
      return why;
    }
    if (fact.quantized_output) return output(node);
    if (fact.float_bias_wants_output && node.input(2) && !dequantize_of(node.input(2)) &&
        output(node))
      return "its bias is float, and its output not quantized";
    return {};
  }

  // Quantized behind the op, or behind the clamp that goes with it.
  Why output(const Node& node) const {
    const Value* out = node.output();
    const Node* user = only_user(graph_, out);
    const bool clamp = user && facts_.clamp_vanishes && clamp_bounds(*user);
    if (clamp && clamp_stays(*user))
      return fmt::format("the {} behind it clamps more than the quantize behind that",
                         user->op_name());
    const Value* result = clamp ? user->output() : out;
    if (graph_.is_output(out)) return "its output is not quantized";
    const Node* q = only_byte_quantize(graph_, result);
    if (!q)
      return out->uses().size() > 1 ? "its output has readers other than one quantize"
                                    : "its output is not quantized";
    const Value* integers = q->output();
    if (facts_.i8_needs_single_reader && quant_info(*q)->dtype == DType::i8 &&
        (integers->uses().size() > 1 ||
         (integers->has_one_use() && integers->uses()[0].node->output()->uses().size() > 1)))
      return "its i8 output has several readers; u8 would do";
    return {};
  }

  Why arithmetic(const Node& node, const OpFact& fact) const {
    if (facts_.averages_keep_axes && node.is("reduce_mean") && node.integer("keepdims") == 0)
      return fmt::format("{} has integers for averages that keep their axes alone; keepdims=True",
                         facts_.name);
    std::string why;
    const Node* first = nullptr;
    bool taken = false;  // one operand of an addition may come from the product that takes it
    for (const Value* input : node.inputs()) {
      if (!is_float_activation(input)) continue;
      const Node* producer = input->producer();
      if (facts_.products_take_additions && node.is("add") && !taken && producer &&
          is_product(*producer) && is_integer(*producer) && only_user(graph_, input)) {
        taken = true;
        continue;
      }
      const Node* dq = activation(input, why);
      if (!dq) return why;
      if (!first) first = dq;
    }
    if (!first && taken) return {};  // the product's bias
    if (!first) return "no input is dequantized";
    if (!fact.quantized_output) return {};
    if (Why missing = output(node)) return missing;
    if (fact.form == IntegerForm::copy && !node.is("concat")) {
      const auto in = quant_info(*first),
                 out = quant_info(*only_byte_quantize(graph_, node.output()));
      if (!in || !out || !(*in == *out)) return "its output has another scale than its input";
    }
    return {};
  }

  Why carried(const Node& node) const {
    std::string why;
    if (node.is("concat") && !quantized_behind(node)) {
      std::optional<QuantInfo> first;
      for (const Value* input : node.inputs()) {
        const Node* dq = activation(input, why);
        if (!dq) return why;
        if (!first) first = quant_info(*dq);
        if (!(*first == *quant_info(*dq))) return "its inputs have different scales";
      }
      return {};
    }
    for (const Value* input : node.inputs())
      if (is_float_activation(input) && !activation(input, why) && !quantized_behind(node))
        return why;
    return facts_.function_tables || facts_.fuses_functions ? Why() : same_scale_behind(node);
  }
  // A quantize with another scale behind a copy keeps it in float.
  Why same_scale_behind(const Node& node) const {
    const Node* q = only_byte_quantize(graph_, node.output());
    const Node* dq = dequantize_of(node.input(0));
    if (!q || !dq || *quant_info(*q) == *quant_info(*dq)) return {};
    return "its output has another scale than its input";
  }
  bool quantized_behind(const Node& node) const {
    return node.is("concat") && only_byte_quantize(graph_, node.output());
  }

  const Graph& graph_;
  const TargetFacts& facts_;
  LintReport report_;
  std::unordered_set<const Node*> fused_;
};

}  // namespace

LintReport lint(const Graph& graph, const std::string& target) {
  const PlacementTarget& found = find_placement_target(target);
  if (target != "octavo") return Linter(graph, found.facts()).run();
  // What our own passes would join is joined first.
  Graph joined = graph.clone();
  canonicalize(joined);
  return Linter(joined, found.facts()).run();
}

}  // namespace octavo
