#include "api/search.h"

#include <cstdio>

#include "cli/analysis.h"
#include "cli/command.h"
#include "cli/tables.h"

namespace octavo::cli {
namespace {

struct Options {
  AnalysisOptions analysis;
  std::string output;
  double max_drop = 0, least = 0;
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
  print_judged_by(record);
}

void work(Options& o, bool has_drop, bool has_least, const Context& context) {
  SearchRequest& request = o.request;
  if (has_drop) request.options.max_drop = o.max_drop;
  if (has_least) request.options.least = o.least;
  if (!o.output.empty()) check_output(o.output);
  const Analysis opened =
      open_analysis(o.analysis, request.quantization, request.options.sensitivity);
  SearchOutcome outcome =
      search(opened.graph, *opened.data, request, context.command, progress_bar(context));
  nlohmann::json& record = outcome.record;
  const auto chosen = record["chosen"].get<size_t>();
  check_interrupted();
  finish_record(record, o.analysis);
  if (!o.analysis.write_rules.empty())
    save_text(point_rules(record, chosen), o.analysis.write_rules);
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
  add_analysis_options(sub, o->analysis, o->request.quantization, o->request.options.sensitivity);
  sub->add_option("-o,--output", o->output, "the chosen network, .onnx or .octavo");
  sub->add_option("--metric", o->request.options.sensitivity.metric, "agreement or sqnr")
      ->capture_default_str();
  auto* drop = sub->add_option("--max-drop", o->max_drop, "how much of agreement may be lost");
  auto* least = sub->add_option("--least", o->least, "what the metric must reach");
  drop->excludes(least);
  sub->add_option("--weights", o->request.options.weights,
                  "how weights are rounded: " + weight_method_names())
      ->capture_default_str();
  sub->add_flag("--bias-correction,!--no-bias-correction", o->request.options.correct_bias,
                "correct the mean error of each channel, layer by layer");
  sub->add_option("--checkpoint", o->request.options.sensitivity.checkpoint,
                  "write the sensitivity of layers here, and go on from it");
  sub->add_option("--write-rules", o->analysis.write_rules,
                  "write the chosen rules file (for `octavo quantize --rules`)");
  sub->add_option("--record", o->analysis.record,
                  "write all points (JSON, schemas/search.schema.json) here");
  sub->callback(
      [o, drop, least, &context] { work(*o, drop->count() > 0, least->count() > 0, context); });
}

}  // namespace octavo::cli
