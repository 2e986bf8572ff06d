// Mixed-precision search for the command and the Python package.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "quantize/search.h"

namespace octavo {

struct SearchRequest {
  SearchOptions options;
  PtqOptions quantization;  // rules, target, samples, threads
};
struct SearchOutcome {
  nlohmann::json record;      // schemas/search.schema.json
  std::vector<Graph> graphs;  // of the record's points
};
SearchOutcome search(const Graph& graph, const Dataset& data, const SearchRequest& request,
                     const std::string& command, const Progress& progress = {});

// The rules file of a point of such a record. UserError if there is no such point.
std::string point_rules(const nlohmann::json& record, size_t point);

}  // namespace octavo
