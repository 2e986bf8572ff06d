#include "api/search.h"

#include <chrono>
#include <cmath>

#include "api/sensitivity.h"
#include "evaluate/record.h"
#include "support/error.h"

namespace octavo {

using nlohmann::json;

SearchOutcome search(const Graph& graph, const Dataset& data, const SearchRequest& request,
                     const std::string& command, const Progress& progress) {
  const auto start = std::chrono::steady_clock::now();
  const SearchOptions& options = request.options;
  Variants variants(graph.clone(), request.quantization);
  SearchResult result = search(variants, data, options, progress);
  const bool custom = static_cast<bool>(options.sensitivity.custom);
  const PtqOptions& q = variants.options();
  SearchOutcome outcome;
  json& record = outcome.record = new_record(command);
  record["kind"] = "search";
  record["model"] = {{"name", variants.graph().name}};
  record["metric"] = options.sensitivity.metric;
  record["limit"] =
      options.least ? json{{"least", *options.least}} : json{{"max_drop", *options.max_drop}};
  record["data"] = {{"calibration_samples", result.sensitivity.calibration_samples},
                    {"evaluation_samples", result.sensitivity.evaluation_samples},
                    {"evaluated_on_calibration_data", options.sensitivity.evaluation == nullptr}};
  record["quantization"] = {{"mode", mode_name(q.mode)},
                            {"target", q.target},
                            {"calibrator", options.sensitivity.calibrator},
                            {"weights", options.weights},
                            {"bias_correction", options.correct_bias},
                            {"rules", json::parse(print_rules(q.rules))["rules"]}};
  record["confidence"] = confidence_json();
  record["latency"] = {{"measured", !options.latency}, {"threads", q.threads}};
  if (!options.latency) record["latency"]["rounds"] = latency_rounds;
  record["layers"] = json::array();
  for (size_t i = 0; i < result.gains.size(); ++i) {
    const LayerSensitivity& l = result.sensitivity.layers[i];
    json layer = figures_json(l.figures, custom);
    layer["name"] = l.layer.name;
    layer["op"] = l.layer.op;
    layer["nodes"] = l.layer.nodes;
    layer["microseconds_gained"] = result.gains[i];
    record["layers"].push_back(std::move(layer));
  }
  record["points"] = json::array();
  for (const SearchPoint& p : result.points) {
    json point = figures_json(p.figures, custom);
    point["float_layers"] = p.float_layers;
    point["rules"] = json::parse(print_rules(p.rules))["rules"];
    point["drop"] = finite_or_null(p.drop);
    point["microseconds"] = p.microseconds;
    point["enough"] = p.enough;
    point["on_front"] = p.on_front;
    record["points"].push_back(std::move(point));
  }
  record["chosen"] = result.chosen;
  record["seconds"] =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  outcome.graphs = std::move(result.graphs);
  return outcome;
}

std::string point_rules(const json& record, size_t point) {
  const json& points = record.at("points");
  if (point >= points.size())
    throw UserError(ErrorKind::value, "point",
                    fmt::format("there are {} points, no number {}", points.size(), point));
  return json{{"schema_version", 1}, {"rules", points[point].at("rules")}}.dump(
      2, ' ', false, json::error_handler_t::replace);
}

}  // namespace octavo
