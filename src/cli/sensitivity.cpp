#include "api/sensitivity.h"

#include <cstdio>

#include "cli/analysis.h"
#include "cli/command.h"
#include "cli/tables.h"

namespace octavo::cli {
namespace {

struct Options {
  AnalysisOptions analysis;
  std::string mode = "only";
  size_t worst = 1;
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
  print_judged_by(record);
}

void work(Options& o, const Context& context) {
  SensitivityRequest& request = o.request;
  request.options.mode = parse_sensitivity_mode(o.mode);
  const Analysis opened = open_analysis(o.analysis, request.quantization, request.options);
  auto record =
      sensitivity(opened.graph, *opened.data, request, context.command, progress_bar(context));
  finish_record(record, o.analysis);
  if (!o.analysis.write_rules.empty())
    save_text(disable_worst(record, o.worst), o.analysis.write_rules);
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
  add_analysis_options(sub, o->analysis, o->request.quantization, o->request.options);
  sub->add_option("--mode", o->mode, "only, all_but or sqnr")->capture_default_str();
  sub->add_option("--metric", o->request.options.metric, "what ranks: sqnr or agreement")
      ->capture_default_str();
  sub->add_option("--weights", o->request.quantization.weights,
                  "scales of weights: mse or max (default: mse)");
  sub->add_option("--checkpoint", o->request.options.checkpoint,
                  "write what is measured here about once a second, and go on from it");
  sub->add_option("--worst", o->worst, "how many layers --write-rules leaves in float")
      ->capture_default_str();
  sub->add_option("--write-rules", o->analysis.write_rules,
                  "write a rules file (for `octavo quantize --rules`) that leaves the worst layers "
                  "in float");
  sub->add_option("--record", o->analysis.record,
                  "write the ranking (JSON, schemas/sensitivity.schema.json) here");
  sub->callback([o, &context] { work(*o, context); });
}

}  // namespace octavo::cli
