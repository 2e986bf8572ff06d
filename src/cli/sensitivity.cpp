#include "api/sensitivity.h"

#include <cstdio>

#include "cli/command.h"
#include "cli/tables.h"

namespace octavo::cli {
namespace {

struct Options {
  std::string model, data, evaluation, preprocessing, mode = "only", record, rules, write_rules;
  size_t worst = 1, megabytes = 1024;
  SensitivityRequest request;
};

void print_ranking(const nlohmann::json& record) {
  const bool agreement = record["layers"][0].contains("agreement");
  std::vector<std::vector<std::string>> rows{{"layer", "op", "SQNR dB", "95%"}};
  if (agreement) rows[0].insert(rows[0].end(), {"agreement", "95%"});
  const auto row = [&](const std::string& name, const std::string& op,
                       const nlohmann::json& figures) {
    rows.push_back({name, op, number_text(figures["sqnr_db"]["value"], "{:.2f}"),
                    interval_text(figures["sqnr_db"]["interval"], "{:.1f}")});
    if (figures.contains("agreement"))
      rows.back().insert(rows.back().end(),
                         {number_text(figures["agreement"]["value"], "{:.3f}"),
                          interval_text(figures["agreement"]["interval"], "{:.3f}")});
  };
  for (const auto& layer : record["layers"])
    row(fmt::format("{:>3} {}", layer["rank"].get<int>(),
                    short_name(layer["name"].get<std::string>())),
        layer["op"].get<std::string>(), layer);
  row("    everything quantized", "", record["quantized"]);
  std::fputs(table(rows).c_str(), stdout);
  if (record["data"]["evaluated_on_calibration_data"].get<bool>())
    std::puts("judged on the calibration data; give --evaluate-data for an honest figure");
}

void work(Options& o, const Context& context) {
  SensitivityRequest& request = o.request;
  request.options.mode = parse_sensitivity_mode(o.mode);
  request.options.most_bytes = o.megabytes << 20;
  for (const std::string& path : {o.record, o.write_rules, request.options.checkpoint})
    if (!path.empty()) check_writable(path);
  if (!o.rules.empty()) request.quantization.rules = load_rules(o.rules);
  const Graph graph = load_model(o.model);
  const auto signature = signature_of(graph);
  const auto data = open_dataset(o.data, signature, o.preprocessing);
  std::unique_ptr<Dataset> evaluation;
  if (!o.evaluation.empty()) {
    evaluation = open_dataset(o.evaluation, signature, o.preprocessing);
    request.options.evaluation = evaluation.get();
  }
  auto record = sensitivity(graph, *data, request, context.command, progress_bar(context));
  record["model"]["path"] = o.model;
  record["data"]["path"] = o.data;
  if (!o.record.empty()) save_record(record, o.record);
  if (!o.write_rules.empty()) save_text(disable_worst(record, o.worst), o.write_rules);
  if (context.json)
    print_json(record);
  else
    print_ranking(record);
}

}  // namespace

void add_sensitivity(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("sensitivity",
                                     "Ranks the layers by what quantizing them costs in accuracy");
  sub->footer(footer(
      "Modes:\n"
      "  only     each layer alone is quantized, the rest is float\n"
      "  all_but  everything is quantized but the layer\n"
      "  sqnr     as only, but the layer's own output is judged, not the network's\n"
      "The most sensitive layer comes first. Intervals are percentile bootstraps over the "
      "samples.\n"
      "Weights are rounded to nearest: a layer's integers do not depend on other layers. The rest\n"
      "is as `octavo quantize --smooth none` makes it.\n"
      "With --checkpoint, an interrupted run goes on where it was and gives the same figures.",
      "  octavo sensitivity model.onnx --data photos/\n"
      "  octavo sensitivity model.onnx --data x.npz --mode all_but --checkpoint part.json\n"
      "  octavo sensitivity model.onnx --data x.npz --worst 3 --write-rules rules.json\n"
      "  octavo quantize model.onnx -o int8.onnx --data x.npz --rules rules.json\n"));
  sub->add_option("model", o->model, "the float model, .onnx or .octavo")->required();
  sub->add_option("--data", o->data,
                  "calibration data, in the forms that `octavo quantize --help` lists")
      ->required();
  sub->add_option("--evaluate-data", o->evaluation,
                  "data to judge by; default: the calibration data");
  sub->add_option("--preprocessing", o->preprocessing, "how pictures become inputs");
  sub->add_option("--mode", o->mode, "only, all_but or sqnr")->capture_default_str();
  sub->add_option("--metric", o->request.options.metric, "what ranks: sqnr or agreement")
      ->capture_default_str();
  sub->add_option("--target", o->request.quantization.target, "who will run it")
      ->capture_default_str();
  sub->add_option("--calibrator", o->request.options.calibrator,
                  "how ranges are chosen: " + calibrator_names())
      ->capture_default_str();
  sub->add_option("--weights", o->request.quantization.weights,
                  "scales of weights: mse or max (default: mse)");
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
  sub->add_option("--checkpoint", o->request.options.checkpoint,
                  "write what is measured here about once a second, and go on from it");
  sub->add_option("--worst", o->worst, "how many layers --write-rules leaves in float")
      ->capture_default_str();
  sub->add_option("--write-rules", o->write_rules,
                  "write a rules file (for `octavo quantize --rules`) that leaves the worst layers "
                  "in float");
  sub->add_option("--record", o->record,
                  "write the ranking (JSON, schemas/sensitivity.schema.json) here");
  sub->callback([o, &context] { work(*o, context); });
}

}  // namespace octavo::cli
