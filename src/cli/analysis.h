// What `octavo sensitivity` and `octavo search` share: options, data, and what is said of it.
#pragma once
#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "api/sensitivity.h"

namespace octavo::cli {

struct AnalysisOptions {
  std::string model, data, evaluation, preprocessing, record, rules, write_rules;
  size_t megabytes = 1024;
};

// All but what the subcommand writes; some set the request's own options.
void add_analysis_options(CLI::App* sub, AnalysisOptions& options, PtqOptions& quantization,
                          SensitivityOptions& sensitivity);

struct Analysis {
  Graph graph;
  std::unique_ptr<Dataset> data, evaluation;  // the latter null: judged by the former
};

// Checks what will be written, reads rules, model and data, and puts rules, memory and evaluation
// into the request; `sensitivity` refers to the result.
Analysis open_analysis(const AnalysisOptions& options, PtqOptions& quantization,
                       SensitivityOptions& sensitivity);

// The paths of model and data into a record, and the record to its file, if there is one.
void finish_record(nlohmann::json& record, const AnalysisOptions& options);
// A line if the figures are those of the calibration data.
void print_judged_by(const nlohmann::json& record);

}  // namespace octavo::cli
