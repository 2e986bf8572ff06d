// From data to the parameters of placed activations: statistics, ranges, scales and zero points.
#pragma once
#include <map>
#include <string>

#include "evaluate/dataset.h"
#include "quantize/activation_statistics.h"
#include "quantize/apply.h"
#include "quantize/calibrators/calibrators.h"
#include "quantize/progress.h"

namespace octavo {

// Runs the float graph on the samples (at most `most`; 0: all) and feeds the statistics of its
// values. UserError if there is none.
void collect_statistics(const Graph& graph, ActivationStatistics& statistics, const Dataset& data,
                        size_t most, int threads, const Progress& progress);

// Of every tensor that has seen data, by name. UserError on an unknown calibrator.
std::map<std::string, Range> choose_ranges(const ActivationStatistics& statistics,
                                           const std::string& calibrator);

// Values of one group share the union of their ranges; `shared`, if given, receives those.
std::map<std::string, ActivationParams> activation_params(
    const Placement& placement, const std::map<std::string, Range>& ranges,
    std::map<std::string, Range>* shared = nullptr);

}  // namespace octavo
