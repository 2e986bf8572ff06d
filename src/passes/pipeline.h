// The ordered lists of passes and the driver that runs them: verified after each that changed
// the graph, timed, and dumped to the folder OCTAVO_DUMP names.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace octavo {

struct Pass {
  const char* name;
  void (*run)(Graph& graph);
};

struct PassTime {
  const char* name;
  double milliseconds;
};

std::span<const Pass> canonical_passes();
std::span<const Pass> lowering_passes();

// Import form to canonical (quantized if it holds quantization nodes).
void canonicalize(Graph& graph, std::vector<PassTime>* times = nullptr);
// Canonical or quantized with static shapes to lowered.
void lower(Graph& graph, std::vector<PassTime>* times = nullptr);

}  // namespace octavo
