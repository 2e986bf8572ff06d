// How long compiled networks take, measured against each other.
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "graph/graph.h"
#include "quantize/progress.h"

namespace octavo {

// Microseconds of each graph.
using Latency = std::function<std::vector<double>(std::span<const Graph* const> graphs)>;

constexpr size_t latency_rounds = 15;

// Medians of interleaved calls: each round calls every program of a group, after one that does not
// count. Groups are of at most eight, so that not all are compiled at once; the first graph is in
// each of them, and what a group's rounds take is scaled by its time there, so that a machine that
// gets slower or faster meanwhile favours none.
std::vector<double> measure_latency(std::span<const Graph* const> graphs,
                                    const std::vector<Tensor>& inputs, int threads,
                                    const Progress& progress = {});

}  // namespace octavo
