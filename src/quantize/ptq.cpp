#include "quantize/ptq.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "graph/op_def.h"
#include "passes/pipeline.h"
#include "quantize/algorithms/fit_weights.h"
#include "quantize/algorithms/layer_by_layer.h"
#include "quantize/apply_placement.h"
#include "quantize/names.h"
#include "quantize/placement/precisions.h"
#include "quantize/ranges.h"
#include "quantize/weights.h"
#include "support/error.h"

namespace octavo {

struct Ptq::State {
  PtqOptions options;
  Graph graph;
  Placement placement;
  std::optional<ActivationStatistics> statistics;
  RowsByNode nearest;  // of weight-only products and tables

  std::map<std::string, ActivationParams> choose(const std::string& calibrator,
                                                 std::map<std::string, Range>* shared) const {
    std::map<std::string, Range> ranges = choose_ranges(*statistics, calibrator);
    for (auto& [name, range] : ranges)
      if (options.whole_ranges.contains(name))
        range = find_calibrator("max").choose(statistics->at(name), 256);
    return activation_params(placement, ranges, shared);
  }
  PtqResult finish(const std::map<std::string, ActivationParams>& activations,
                   const std::map<std::string, WeightParams>& static_weights,
                   const RowsByNode& integers, size_t fitted_samples) const {
    std::vector<DynamicReport> dynamic;
    PtqResult result{apply_placement(graph, placement, activations, static_weights, integers,
                                     options.weights, &dynamic),
                     {},
                     fitted_samples};
    std::map<const Node*, LayerReport> reports;
    for (const DynamicReport& r : dynamic)
      reports[r.node] = {r.node->name(), std::string(r.node->op_name()), r.weight_sqnr_db, false};
    for (const auto* list : {&placement.products, &placement.tables})
      for (const PlacedProduct& placed : *list)
        if (const auto it = integers.find(placed.node->name()); it != integers.end())
          reports[placed.node] = {placed.node->name(), std::string(placed.node->op_name()),
                                  sqnr_db(rows_of(placed), it->second), false};
    for (const PlacedWeights& placed : placement.weights)
      reports[placed.node] = {placed.node->name(), std::string(placed.node->op_name()),
                              weight_sqnr_db(placed, static_weights.at(placed.node->name())), true};
    graph.for_each([&](Node& node) {
      if (const auto it = reports.find(&node); it != reports.end())
        result.layers.push_back(it->second);
    });
    return result;
  }
  bool fits_weights() const {
    return looks_at_data(options.weights) && options.weights != "adaround" &&
           std::any_of(placement.products.begin(), placement.products.end(),
                       [&](const PlacedProduct& p) { return nearest.contains(p.node->name()); });
  }
  RowsByNode fitted(const Dataset& data, const Progress& progress, size_t* samples) const {
    RowsByNode weights = nearest;
    if (fits_weights())
      *samples = fit_weights(graph, placement, options.weights, data,
                             {.most_samples = options.most_samples,
                              .most_bytes = options.most_bytes,
                              .threads = options.threads},
                             progress, weights);
    return weights;
  }
  void check_calibrated() const {
    if (statistics->samples() == 0)
      throw UserError(ErrorKind::value, "quantize", "nothing was calibrated",
                      "call calibrate with data first");
  }
};

Rules effective_rules(const PtqOptions& options) {
  Rules rules = options.rules;
  rules.products = precision_of(options.mode);
  if (options.mode == QuantizeMode::weight_only) {
    if (options.weight_bits == 4) rules.products = Precision::int4_weights;
    rules.group_size = options.group_size;
  }
  rules.by_row = options.activation == "row";
  return rules;
}

Ptq::Ptq(Graph graph, PtqOptions options) : s_(std::make_unique<State>()) {
  const PlacementTarget& target = find_placement_target(options.target);
  if (options.weights.empty())
    options.weights = options.mode == QuantizeMode::static_ ? "gptq" : "mse";
  check_weight_method(options.weights);
  canonicalize(graph);
  if (graph.stage == Stage::quantized)
    throw UserError(ErrorKind::value, graph.name, "is quantized already", "give the float model");
  name_uniquely(graph);
  s_->options = std::move(options);
  s_->graph = std::move(graph);
  s_->options.rules = effective_rules(s_->options);
  s_->placement = target.place(s_->graph, s_->options.rules);
  place_precisions(s_->graph, s_->options.rules, target.facts(), s_->placement);
  for (PlacedWeights& placed : s_->placement.weights)
    placed.per_tensor = s_->options.weight_scales == "tensor";
  if (s_->placement.weights.empty() && s_->placement.products.empty() &&
      s_->placement.tables.empty())
    throw UserError(ErrorKind::value, s_->graph.name, "has no layer that can be integer",
                    "INT8 needs convolutions or matrix products with constant weights that no rule "
                    "keeps in float");
  s_->nearest = integer_weights(s_->placement, s_->options.weights);
  std::vector<std::string> names;
  for (const PlacedActivation& a : s_->placement.activations) names.push_back(a.value->name());
  s_->statistics.emplace(std::move(names));
}
Ptq::~Ptq() = default;
Ptq::Ptq(Ptq&&) noexcept = default;

const Graph& Ptq::graph() const { return s_->graph; }
const Placement& Ptq::placement() const { return s_->placement; }
bool Ptq::needs_data() const { return !s_->placement.weights.empty(); }
bool Ptq::fits_weights() const { return s_->fits_weights(); }
const std::string& Ptq::weight_method() const { return s_->options.weights; }
size_t Ptq::samples() const { return s_->statistics->samples(); }
std::string Ptq::statistics() const {
  s_->check_calibrated();
  return s_->statistics->serialize();
}
void Ptq::merge_statistics(const std::string& bytes, const std::string& where) {
  s_->statistics->merge(bytes, where);
}

void Ptq::calibrate(const Dataset& data, const Progress& progress) {
  collect_statistics(s_->graph, *s_->statistics, data, s_->options.most_samples,
                     s_->options.threads, progress);
}

std::vector<PtqResult> Ptq::quantize(const std::vector<std::string>& calibrators,
                                     const Dataset& data, const Progress& progress) const {
  s_->check_calibrated();
  for (const std::string& name : calibrators) find_calibrator(name);
  const bool looks = s_->options.correct_bias || looks_at_data(s_->options.weights);
  if (looks && data.size() == 0)
    throw UserError(ErrorKind::value, "calibration data", "there is no sample",
                    "bias correction, gptq and adaround look at samples again");
  LayerByLayer layers(s_->graph, s_->placement, data, s_->options.most_samples,
                      s_->options.most_bytes, s_->options.threads);
  size_t fitted_samples = 0;
  const RowsByNode integers = s_->fitted(data, progress, &fitted_samples);
  std::vector<PtqResult> results;
  for (const std::string& name : calibrators) {
    const auto activations = s_->choose(name, nullptr);
    const auto weights =
        layers.run(activations, {s_->options.weights, s_->options.correct_bias}, progress);
    results.push_back(s_->finish(activations, weights, integers, layers.samples()));
  }
  return results;
}

PtqResult Ptq::quantize(const Dataset* data, const Progress& progress) const {
  if (needs_data())
    throw UserError(ErrorKind::value, "quantize", "static products are calibrated",
                    "give data, or another mode or rules");
  if (s_->fits_weights() && !data)
    throw UserError(ErrorKind::value, "data", s_->options.weights + " fits weights to data",
                    "give samples, or use mse or max");
  size_t samples = 0;
  const RowsByNode integers = data ? s_->fitted(*data, progress, &samples) : s_->nearest;
  return s_->finish({}, {}, integers, samples);
}

nlohmann::json Ptq::describe(const std::string& calibrator) const {
  s_->check_calibrated();
  std::map<std::string, Range> ranges;
  const auto params = s_->choose(calibrator, &ranges);
  nlohmann::json result = nlohmann::json::object();
  for (const auto& [name, p] : params) {
    const HistogramStatistics& h = s_->statistics->at(name);
    result[name] = {
        {"scale", p.scale},        {"zero_point", p.zero_point}, {"dtype", dtype_name(p.dtype)},
        {"min", ranges[name].min}, {"max", ranges[name].max},    {"data_min", h.min()},
        {"data_max", h.max()}};
  }
  return result;
}

}  // namespace octavo
