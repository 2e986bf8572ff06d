#include "api/sensitivity.h"

#include <chrono>

#include "evaluate/record.h"
#include "support/error.h"

namespace octavo {

using nlohmann::json;

json figures_json(const Figures& figures, bool custom) {
  json result{{"sqnr_db", to_json(figures.sqnr_db)}};
  if (figures.has_agreement) result["agreement"] = to_json(figures.agreement);
  if (custom) result["metric"] = to_json(figures.metric);
  return result;
}

json confidence_json() {
  return {{"method", "percentile bootstrap over samples"},
          {"level", bootstrap_confidence},
          {"resamples", bootstrap_resamples}};
}

json sensitivity(const Graph& graph, const Dataset& data, const SensitivityRequest& request,
                 const std::string& command, const Progress& progress) {
  const auto start = std::chrono::steady_clock::now();
  const SensitivityOptions& options = request.options;
  Variants variants(graph.clone(), request.quantization);
  const SensitivityResult result = sensitivity(variants, data, options, progress);
  const bool custom = static_cast<bool>(options.custom);
  json record = new_record(command);
  record["kind"] = "sensitivity";
  record["model"] = {{"name", variants.graph().name}};
  record["mode"] = mode_name(result.mode);
  record["metric"] = result.metric;
  record["data"] = {{"calibration_samples", result.calibration_samples},
                    {"evaluation_samples", result.evaluation_samples},
                    {"evaluated_on_calibration_data", options.evaluation == nullptr}};
  const PtqOptions& q = variants.options();
  record["quantization"] = {{"mode", mode_name(q.mode)},
                            {"target", q.target},
                            {"calibrator", options.calibrator},
                            {"weights", q.weights},
                            {"rules", json::parse(print_rules(q.rules))["rules"]}};
  record["confidence"] = confidence_json();
  record["quantized"] = figures_json(result.quantized, custom);
  if (custom) record["float_metric"] = result.float_metric;
  record["layers"] = json::array();
  for (const LayerSensitivity& l : result.layers) {
    json layer = figures_json(l.figures, custom);
    layer["rank"] = record["layers"].size() + 1;
    layer["name"] = l.layer.name;
    layer["op"] = l.layer.op;
    layer["nodes"] = l.layer.nodes;
    layer["position"] = l.position;
    record["layers"].push_back(std::move(layer));
  }
  record["seconds"] =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return record;
}

std::string disable_worst(const json& record, size_t k) {
  const json& layers = record.at("layers");
  if (k > layers.size())
    throw UserError(ErrorKind::value, "worst",
                    fmt::format("there are {} layers, not {}", layers.size(), k));
  json rules{{"schema_version", 1}, {"rules", record.at("quantization").at("rules")}};
  Rules worst;
  for (size_t i = 0; i < k; ++i)
    for (const json& node : layers[i].at("nodes"))
      worst.rules.push_back(rule_for(node.get<std::string>(), Precision::float32));
  const json more = json::parse(print_rules(worst))["rules"];
  rules["rules"].insert(rules["rules"].end(), more.begin(), more.end());
  return rules.dump(2, ' ', false, json::error_handler_t::replace);
}

}  // namespace octavo
