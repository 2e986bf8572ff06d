#include "cli/analysis.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "api/octavo.h"

namespace octavo::cli {

void add_analysis_options(CLI::App* sub, AnalysisOptions& options, PtqOptions& quantization,
                          SensitivityOptions& sensitivity) {
  sub->add_option("model", options.model, "the float model, .onnx or .octavo")->required();
  sub->add_option("--data", options.data,
                  "calibration data, in the forms that `octavo quantize --help` lists")
      ->required();
  sub->add_option("--evaluate-data", options.evaluation,
                  "data to judge by; default: the calibration data");
  sub->add_option("--preprocessing", options.preprocessing, "how pictures become inputs");
  sub->add_option("--target", quantization.target, "who will run it")->capture_default_str();
  sub->add_option("--calibrator", sensitivity.calibrator,
                  "how ranges are chosen: " + calibrator_names())
      ->capture_default_str();
  sub->add_option("--samples", quantization.most_samples, "use at most this many samples (0: all)")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  sub->add_option("--threads", quantization.threads, "threads (0: what affinity and cgroup allow)")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  sub->add_option("--memory", options.megabytes, "MB of activations that may be held at once")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, size_t{1} << 24));
  sub->add_option("--rules", options.rules, "rules file that holds for all of it");
}

Analysis open_analysis(const AnalysisOptions& options, PtqOptions& quantization,
                       SensitivityOptions& sensitivity) {
  sensitivity.most_bytes = options.megabytes << 20;
  for (const std::string& path : {options.record, options.write_rules, sensitivity.checkpoint})
    if (!path.empty()) check_writable(path);
  if (!options.rules.empty()) quantization.rules = load_rules(options.rules);
  Analysis opened{load_model(options.model), nullptr, nullptr};
  const auto signature = signature_of(opened.graph);
  opened.data = open_dataset(options.data, signature, options.preprocessing);
  if (!options.evaluation.empty()) {
    opened.evaluation = open_dataset(options.evaluation, signature, options.preprocessing);
    sensitivity.evaluation = opened.evaluation.get();
  }
  return opened;
}

void finish_record(nlohmann::json& record, const AnalysisOptions& options) {
  record["model"]["path"] = options.model;
  record["data"]["path"] = options.data;
  if (!options.record.empty()) save_record(record, options.record);
}

void print_judged_by(const nlohmann::json& record) {
  if (record["data"]["evaluated_on_calibration_data"].get<bool>())
    std::puts("judged on the calibration data; give --evaluate-data for an honest figure");
}

}  // namespace octavo::cli
