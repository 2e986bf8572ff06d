#include "quantize/placement/precisions.h"

#include <algorithm>
#include <map>

#include "graph/op_def.h"
#include "quantize/placement/facts.h"
#include "quantize/placement/products.h"
#include "support/error.h"

namespace octavo {
namespace {

bool is_product(const Node& node) {
  return node.op().quant == QuantTrait::weighted && node.output()->dtype() == DType::f32;
}

bool is_weight_only(Precision precision) {
  return precision == Precision::int8_weights || precision == Precision::int4_weights;
}

// Elements that share a scale; 0: all of a channel.
int64_t group_size(const Node& node, Precision precision, const Rules& rules,
                   const TargetFacts& facts) {
  const Rule* rule = rules.find(node);
  const int64_t asked = rule ? rule->group_size : rules.group_size;
  if (asked > 0 || precision == Precision::int8_weights) return asked;
  return facts.weight_only.group;
}

void place_weight_only(Node& node, Precision precision, const Rules& rules,
                       const TargetFacts& facts, Placement& placement) {
  if (precision == Precision::int8_weights && !facts.weight_only.int8)
    throw UserError(ErrorKind::unsupported, node.where(),
                    fmt::format("target {} has no weight-only INT8", facts.name),
                    "use int4_weights, or int8");
  std::string why;
  const auto axis = product_weight_axis(node, why);
  if (axis && node.is("conv") && !facts.weight_only.conv)
    why = fmt::format("{} dequantizes a convolution's weights to float", facts.name);
  else if (axis && node.is("conv") && node.integer("group") != 1)
    why = "the weights of a convolution with groups are few";
  if (!why.empty()) {
    placement.skipped.push_back({node.name(), std::string(node.op_name()), why});
    return;
  }
  // Convolutions have one scale for each channel.
  const int64_t group = node.is("conv") ? 0 : group_size(node, precision, rules, facts);
  const Tensor& w = node.input(1)->constant();
  const int64_t channel = w.size() / std::max<int64_t>(w.dims()[static_cast<size_t>(*axis)], 1);
  if (group > 0 && group < channel && !facts.weight_only.takes_group(group))
    throw UserError(
        ErrorKind::unsupported, node.where(),
        fmt::format("target {} has no products of weights in groups of {}", facts.name, group),
        fmt::format("use a power of two from {} on", facts.weight_only.least_group));
  placement.products.push_back({&node, *axis, precision, group});
}

constexpr int64_t least_table = 4096;  // elements: less is not worth a node

// A table that only gathers of rows read is integers in every mode, one scale for each row, unless
// a rule says float.
void place_table(Node& node, const Rules& rules, const TargetFacts& facts, Placement& placement) {
  const Value* table = node.input(0);
  if (!facts.weight_only.tables || !table->is_constant() || table->dtype() != DType::f32 ||
      table->shape().rank() != 2 || table->constant().size() < least_table)
    return;
  for (const Use& use : table->uses())
    if (use.index != 0 || !use.node->is("gather") ||
        normalize_axis(use.node->integer("axis"), 2, node.where()) != 0)
      return;
  const Rule* rule = rules.find(node);
  Precision precision = rule ? rule->precision : rules.products;
  if (precision == Precision::float32) return;
  if (precision != Precision::int4_weights || !facts.weight_only.four_bit_tables)
    precision = Precision::int8_weights;
  const int64_t group =
      precision == Precision::int4_weights ? group_size(node, precision, rules, facts) : 0;
  placement.tables.push_back({&node, 0, precision, group});
}

}  // namespace

void place_precisions(const Graph& graph, const Rules& rules, const TargetFacts& facts,
                      Placement& placement) {
  placement.symmetric_weights = facts.weight_only.symmetric;
  placement.gathers_integers = facts.weight_only.gathers_integers;
  graph.for_each([&](Node& node) {
    if (node.is("gather")) return place_table(node, rules, facts, placement);
    if (!is_product(node)) return;
    const Precision precision = rules.precision_of(node);
    if (precision == Precision::int8 || precision == Precision::float32) return;
    if (is_weight_only(precision))
      return place_weight_only(node, precision, rules, facts, placement);
    if (facts.no_dynamic)
      throw UserError(ErrorKind::unsupported, node.where(), facts.no_dynamic,
                      "use mode static, or precision float in the rules file");
    const Rule* rule = rules.find(node);
    // The windows of a convolution cross rows.
    const bool by_row = (rule ? rule->by_row : rules.by_row) && !node.is("conv");
    if (by_row && !facts.dynamic_rows)
      throw UserError(
          ErrorKind::unsupported, node.where(),
          fmt::format("target {} quantizes activations at each call with one scale", facts.name),
          "use activation 'tensor', or target octavo");
    std::string why;
    if (const auto axis = product_weight_axis(node, why))
      placement.products.push_back({&node, *axis, precision, 0, by_row});
    else
      placement.skipped.push_back({node.name(), std::string(node.op_name()), why});
  });
}

std::vector<ProductPrecision> product_precisions(const Graph& graph, const Placement& placement) {
  std::map<const Node*, ProductPrecision> placed;
  for (const PlacedWeights& w : placement.weights) placed[w.node] = {"", "", Precision::int8};
  for (const Node* node : placement.activation_products) placed[node] = {"", "", Precision::int8};
  for (const PlacedProduct& p : placement.products)
    placed[p.node] = {"", "", p.precision, p.group_size, p.by_row};
  std::vector<ProductPrecision> all;
  graph.for_each([&](Node& node) {
    if (!is_product(node)) return;
    const auto it = placed.find(&node);
    ProductPrecision one =
        it == placed.end() ? ProductPrecision{"", "", Precision::float32} : it->second;
    one.node = node.name();
    one.op = node.op_name();
    all.push_back(std::move(one));
  });
  for (const PlacedProduct& p : placement.tables)
    all.push_back({p.node->name(), std::string(p.node->op_name()), p.precision, p.group_size});
  return all;
}

}  // namespace octavo
