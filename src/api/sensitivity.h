// Sensitivity analysis for the command and the Python package.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "quantize/sensitivity.h"

namespace octavo {

struct SensitivityRequest {
  SensitivityOptions options;
  PtqOptions quantization;  // weights: "mse" (if empty) or "max"
};
// JSON as schemas/sensitivity.schema.json says: the layers, the most sensitive first.
nlohmann::json sensitivity(const Graph& graph, const Dataset& data,
                           const SensitivityRequest& request, const std::string& command,
                           const Progress& progress = {});

// A rules file that leaves the `k` most sensitive layers of such a record in float, on top of the
// rules that it was measured with.
std::string disable_worst(const nlohmann::json& record, size_t k);

// "layers[i]" of records: figures of whatever is ranked.
nlohmann::json figures_json(const Figures& figures, bool custom);
// How the intervals came about.
nlohmann::json confidence_json();

}  // namespace octavo
