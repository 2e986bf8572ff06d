#include "api/search.h"

#include <cstdio>

#include "cli/command.h"
#include "cli/tables.h"

namespace octavo::cli {
namespace {

struct Options {
  std::string model, output, data, evaluation, preprocessing, record, rules, write_rules;
  double max_drop = 0, least = 0;
  size_t megabytes = 1024;
  SearchRequest request;
};

void print_points(const nlohmann::json& record) {
  const auto& points = record["points"];
  const bool agreement = points[0].contains("agreement");
  const double all_float = points.back()["microseconds"].get<double>();
  std::vector<std::vector<std::string>> rows{
      {"", "float layers", "us", "against float", "SQNR dB"}};
  if (agreement) rows[0].insert(rows[0].end(), {"agreement", "95%"});
  for (size_t i = 0; i < points.size(); ++i) {
    const auto& p = points[i];
    const double us = p["microseconds"].get<double>();
    const bool chosen = record["chosen"].get<size_t>() == i;
    rows.push_back({std::string(chosen ? ">" : " ") + (p["on_front"].get<bool>() ? "*" : " "),
                    std::to_string(p["float_layers"].size()), fmt::format("{:.1f}", us),
                    fmt::format("{:.2f}x", all_float / us),
                    number_text(p["sqnr_db"]["value"], "{:.2f}")});
    if (agreement)
      rows.back().insert(rows.back().end(), {number_text(p["agreement"]["value"], "{:.3f}"),
                                             interval_text(p["agreement"]["interval"], "{:.3f}")});
  }
  std::fputs(table(rows).c_str(), stdout);
  std::puts("* no other is as accurate and as fast; > chosen, with these layers in float:");
  for (const auto& name : points[record["chosen"].get<size_t>()]["float_layers"])
    std::printf("  %s\n", name.get<std::string>().c_str());
  if (record["data"]["evaluated_on_calibration_data"].get<bool>())
    std::puts("judged on the calibration data; give --evaluate-data for an honest figure");
}

void work(Options& o, bool has_drop, bool has_least, const Context& context) {
  SearchRequest& request = o.request;
  if (has_drop) request.options.max_drop = o.max_drop;
  if (has_least) request.options.least = o.least;
  request.options.sensitivity.most_bytes = o.megabytes << 20;
  if (!o.output.empty()) check_output(o.output);
  for (const std::string& path : {o.record, o.write_rules, request.options.sensitivity.checkpoint})
    if (!path.empty()) check_writable(path);
  if (!o.rules.empty()) request.quantization.rules = load_rules(o.rules);
  const Graph graph = load_model(o.model);
  const auto signature = signature_of(graph);
  const auto data = open_dataset(o.data, signature, o.preprocessing);
  std::unique_ptr<Dataset> evaluation;
  if (!o.evaluation.empty()) {
    evaluation = open_dataset(o.evaluation, signature, o.preprocessing);
    request.options.sensitivity.evaluation = evaluation.get();
  }
  SearchOutcome outcome = search(graph, *data, request, context.command, progress_bar(context));
  nlohmann::json& record = outcome.record;
  record["model"]["path"] = o.model;
  record["data"]["path"] = o.data;
  const auto chosen = record["chosen"].get<size_t>();
  check_interrupted();
  if (!o.record.empty()) save_record(record, o.record);
  if (!o.write_rules.empty()) save_text(point_rules(record, chosen), o.write_rules);
  if (!o.output.empty()) save_model(outcome.graphs[chosen], o.output);
  if (context.json)
    print_json(record);
  else
    print_points(record);
}

}  // namespace

void add_search(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  o->request.options.sensitivity.metric = "agreement";
  CLI::App* sub = app.add_subcommand(
      "search", "Mixed precision: layers left in float for an accuracy, at the least latency");
  sub->footer(footer(
      "Layers go to float in the order of what quantizing them costs for each microsecond that it\n"
      "saves; networks on the way are quantized as `octavo quantize --smooth none` would, judged,\n"
      "and timed in interleaved runs. The fastest that is accurate enough is chosen. Latency is "
      "that\n"
      "of one sample.",
      "  octavo search model.onnx --data photos/ --max-drop 0.01 -o mixed.onnx\n"
      "  octavo search model.onnx --data x.npz --metric sqnr --least 25 --write-rules "
      "rules.json\n"));
  sub->add_option("model", o->model, "the float model, .onnx or .octavo")->required();
  sub->add_option("-o,--output", o->output, "the chosen network, .onnx or .octavo");
  sub->add_option("--data", o->data,
                  "calibration data, in the forms that `octavo quantize --help` lists")
      ->required();
  sub->add_option("--evaluate-data", o->evaluation,
                  "data to judge by; default: the calibration data");
  sub->add_option("--preprocessing", o->preprocessing, "how pictures become inputs");
  sub->add_option("--metric", o->request.options.sensitivity.metric, "agreement or sqnr")
      ->capture_default_str();
  auto* drop = sub->add_option("--max-drop", o->max_drop, "how much of agreement may be lost");
  auto* least = sub->add_option("--least", o->least, "what the metric must reach");
  drop->excludes(least);
  sub->add_option("--target", o->request.quantization.target, "who will run it")
      ->capture_default_str();
  sub->add_option("--calibrator", o->request.options.sensitivity.calibrator,
                  "how ranges are chosen: " + calibrator_names())
      ->capture_default_str();
  sub->add_option("--weights", o->request.options.weights,
                  "how weights are rounded: " + weight_method_names())
      ->capture_default_str();
  sub->add_flag("--bias-correction,!--no-bias-correction", o->request.options.correct_bias,
                "correct the mean error of each channel, layer by layer");
  sub->add_option("--samples", o->request.quantization.most_samples,
                  "use at most this many samples (0: all)")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  sub->add_option("--threads", o->request.quantization.threads,
                  "threads (0: what affinity and cgroup allow)")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  sub->add_option("--memory", o->megabytes, "MB of activations that may be held at once")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, size_t{1} << 24));
  sub->add_option("--rules", o->rules, "rules file that holds for all of it");
  sub->add_option("--checkpoint", o->request.options.sensitivity.checkpoint,
                  "write the sensitivity of layers here, and go on from it");
  sub->add_option("--write-rules", o->write_rules,
                  "write the chosen rules file (for `octavo quantize --rules`)");
  sub->add_option("--record", o->record,
                  "write all points (JSON, schemas/search.schema.json) here");
  sub->callback(
      [o, drop, least, &context] { work(*o, drop->count() > 0, least->count() > 0, context); });
}

}  // namespace octavo::cli
