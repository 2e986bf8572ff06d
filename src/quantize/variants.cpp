#include "quantize/variants.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>

#include "graph/op_def.h"
#include "passes/attention.h"
#include "passes/pipeline.h"
#include "quantize/apply_placement.h"
#include "quantize/names.h"
#include "quantize/placement/precisions.h"
#include "quantize/ranges.h"
#include "quantize/weights.h"
#include "support/error.h"

namespace octavo {
namespace {

// Two placements that make the same network have the same signature.
std::string signature(const Placement& placement) {
  std::string text;
  for (const PlacedActivation& a : placement.activations) {
    text += fmt::format("{}:{}", a.value->name(), a.group);
    for (const Use& use : a.float_readers) text += fmt::format("-{}", use.node->name());
    text += '\n';
  }
  for (const PlacedWeights& w : placement.weights) text += w.node->name() + '\n';
  for (const auto* list : {&placement.products, &placement.tables})
    for (const PlacedProduct& p : *list)
      text += fmt::format("{}:{}:{}:{}\n", p.node->name(), precision_name(p.precision),
                          p.group_size, p.by_row);
  for (const Node* node : placement.activation_products) text += node->name() + '\n';
  return text;
}

bool keeps_float(const PlacedActivation& placed, const Use& use) {
  return std::find(placed.float_readers.begin(), placed.float_readers.end(), use) !=
         placed.float_readers.end();
}

// What node `name` alone reads of a placement, and no weights.
Placement inputs_alone(const Placement& all, const std::string& name) {
  Placement alone;
  alone.integer_bias = all.integer_bias;
  alone.groups = all.groups;
  for (const PlacedActivation& placed : all.activations) {
    PlacedActivation own = placed;
    bool reads = false;
    for (const Use& use : placed.value->uses()) {
      if (keeps_float(placed, use)) continue;
      if (use.node->name() == name)
        reads = true;
      else
        own.float_readers.push_back(use);
    }
    if (reads) alone.activations.push_back(std::move(own));
  }
  return alone;
}

}  // namespace

Rule rule_for(const std::string& node, Precision precision) {
  Rule rule{.name = node, .precision = precision};
  // A literal * matches at least itself; ? matches fewer other names.
  std::replace(rule.name.begin(), rule.name.end(), '*', '?');
  return rule;
}

std::string print_rules(const Rules& rules) {
  nlohmann::json list = nlohmann::json::array();
  for (const Rule& rule : rules.rules) {
    nlohmann::json entry{{"precision", precision_name(rule.precision)}};
    if (rule.name != "*") entry["name"] = rule.name;
    if (rule.op != "*") entry["op"] = rule.op;
    if (rule.group_size) entry["group_size"] = rule.group_size;
    if (rule.by_row) entry["activation"] = "row";
    list.push_back(std::move(entry));
  }
  return nlohmann::json{{"schema_version", 1}, {"rules", list}}.dump(
      2, ' ', false, nlohmann::json::error_handler_t::replace);
}

Variants::Variants(Graph graph, PtqOptions options)
    : options_(std::move(options)), graph_(std::move(graph)) {
  find_placement_target(options_.target);
  if (options_.weights.empty()) options_.weights = "mse";
  check_weight_method(options_.weights);
  if (looks_at_data(options_.weights))
    throw UserError(ErrorKind::unsupported, "weights",
                    options_.weights +
                        " fits weights to what comes before a layer, so no layer has weights of "
                        "its own",
                    "use mse or max here, and gptq for the network that is chosen");
  canonicalize(graph_);
  if (graph_.stage == Stage::quantized)
    throw UserError(ErrorKind::value, graph_.name, "is quantized already", "give the float model");
  name_uniquely(graph_);
  options_.rules = effective_rules(options_);
  find_layers();
  if (layers_.empty())
    throw UserError(ErrorKind::value, graph_.name, "has no layer that can be integer",
                    "INT8 needs convolutions or matrix products with constant weights that no rule "
                    "keeps in float");
}

Placement Variants::place(const Rules& rules) const {
  const PlacementTarget& target = find_placement_target(options_.target);
  Placement placement = target.place(graph_, rules);
  place_precisions(graph_, rules, target.facts(), placement);
  return placement;
}

void Variants::find_layers() {
  const Placement all = everything();
  const std::string whole = signature(all);
  std::set<const Node*> products;
  for (const PlacedWeights& w : all.weights) products.insert(w.node);
  for (const auto* list : {&all.products, &all.tables})
    for (const PlacedProduct& p : *list) products.insert(p.node);
  const std::set<const Node*> free(all.activation_products.begin(), all.activation_products.end());
  std::set<std::string> readers;
  for (const PlacedActivation& placed : all.activations)
    for (const Use& use : placed.value->uses())
      if (!keeps_float(placed, use)) readers.insert(use.node->name());
  std::set<std::string> taken;  // scores that went with their attention
  graph_.for_each([&](Node& node) {
    if (!free.contains(&node)) return;
    if (const auto a = attention_of(graph_, node); a && free.contains(a->scores))
      taken.insert(a->scores->name());
  });
  graph_.for_each([&](Node& node) {
    QuantizedLayer layer{node.name(), std::string(node.op_name()), {node.name()}};
    if (products.contains(&node)) return layers_.push_back(std::move(layer));
    if (free.contains(&node)) {
      if (taken.contains(node.name())) return;
      if (const auto a = attention_of(graph_, node); a && taken.contains(a->scores->name())) {
        layer.op = "attention";
        layer.nodes.insert(layer.nodes.begin(), a->scores->name());
      }
      return layers_.push_back(std::move(layer));
    }
    // Copies pass on what they read: nothing is lost in them.
    if (node.outputs().empty() || node.op().quant != QuantTrait::requantize ||
        !readers.contains(node.name()))
      return;
    Rules rules = options_.rules;
    rules.rules.push_back(rule_for(node.name(), Precision::float32));
    if (signature(place(rules)) != whole) layers_.push_back(std::move(layer));
  });
}

const QuantizedLayer& Variants::find(const std::string& layer) const {
  for (const QuantizedLayer& l : layers_)
    if (l.name == layer) return l;
  throw UserError(ErrorKind::value, graph_.name, fmt::format("there is no layer '{}'", layer));
}

Rules Variants::without(const std::vector<std::string>& layers) const {
  Rules rules = options_.rules;
  for (const std::string& layer : layers)
    for (const std::string& node : find(layer).nodes)
      rules.rules.push_back(rule_for(node, Precision::float32));
  return rules;
}

Placement Variants::only(const QuantizedLayer& layer) const {
  Placement all = everything();
  std::unordered_map<std::string, const PlacedProduct*> placed;  // that are not static
  for (const auto* list : {&all.products, &all.tables})
    for (const PlacedProduct& p : *list) placed.emplace(p.node->name(), &p);
  std::unordered_map<std::string, const Node*> nodes;
  graph_.for_each([&](Node& node) { nodes.emplace(node.name(), &node); });
  Rules rules = options_.rules;
  rules.rules.push_back({.precision = Precision::float32});
  bool by_rule = false;
  for (const std::string& name : layer.nodes) {
    const auto p = placed.find(name);
    by_rule = by_rule || p != placed.end() || nodes.at(name)->op().quant == QuantTrait::weighted;
    Rule rule = rule_for(name, Precision::int8);
    if (p != placed.end()) {
      rule.precision = p->second->precision;
      rule.group_size = p->second->group_size;
      rule.by_row = p->second->by_row;
    }
    rules.rules.push_back(std::move(rule));
  }
  return by_rule ? place(rules) : inputs_alone(all, layer.name);
}

void Variants::calibrate(const Dataset& data, const std::string& calibrator,
                         const Progress& progress) {
  find_calibrator(calibrator);
  std::set<std::string> wanted;
  const auto want = [&](const Placement& placement) {
    for (const PlacedActivation& a : placement.activations) wanted.insert(a.value->name());
  };
  want(everything());
  for (const QuantizedLayer& layer : layers_) {
    want(all_but(layer));
    want(only(layer));
  }
  statistics_ = ActivationStatistics({wanted.begin(), wanted.end()});
  collect_statistics(graph_, statistics_, data, options_.most_samples, options_.threads, progress);
  ranges_ = choose_ranges(statistics_, calibrator);
}

std::map<std::string, ActivationParams> Variants::params(const Placement& placement) const {
  return activation_params(placement, ranges_);
}

Graph Variants::quantize(const Placement& placement) {
  const auto activations = params(placement);
  std::map<std::string, WeightParams> weights;
  for (const PlacedWeights& placed : placement.weights) {
    const std::string& name = placed.node->name();
    const auto x = activations.find(placed.node->input(0)->name());
    const float scale = x == activations.end() ? 1 : x->second.scale;
    const auto known = weights_.find(name);
    if (known == weights_.end() || known->second.x_scale != scale)
      weights_[name] = {scale, nearest_weights(placed, activations, options_.weights)};
    weights[name] = weights_[name].params;
  }
  return apply_placement(graph_, placement, activations, weights, integers(options_.weights),
                         options_.weights);
}

const RowsByNode& Variants::integers(const std::string& weight_method) {
  const bool by_max = weight_method == "max";
  const auto known = integers_.find(by_max);
  if (known != integers_.end()) return known->second;
  return integers_[by_max] = integer_weights(everything(), weight_method);
}

}  // namespace octavo
