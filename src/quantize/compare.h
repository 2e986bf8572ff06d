// A float network against its quantized forms: the error of every quantized tensor and of the
// outputs, and where signals collapse.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "evaluate/dataset.h"
#include "graph/graph.h"
#include "quantize/progress.h"

namespace octavo {

struct TensorError {
  std::string name;
  std::string layer;  // the node that the tensor is the result of; empty: an input of the network
  double sqnr_db;
};

// A tensor of which little of the float signal is left, though enough was left of all before it.
struct Collapse {
  std::string tensor, layer;
  double sqnr_db;
  size_t followers = 0;  // tensors computed from it that have collapsed too
};

struct Comparison {
  std::vector<TensorError> tensors;  // in graph order, the outputs last
  std::vector<Collapse> collapses;
  double output_sqnr_db = 0;
  double agreement = 0, confident_agreement = 0;  // of the first output's last axis
  size_t samples = 0, confident_samples = 0;
};

// Below this, in dB, a tensor has collapsed.
constexpr double collapsed_sqnr_db = 5;

// One result for each of the quantized forms of the float graph; each sample runs once in float.
std::vector<Comparison> compare(const Graph& float_graph, std::span<const Graph* const> quantized,
                                const Dataset& data, int threads, const Progress& progress = {});

// "layer 'x' …": for the record and the log.
std::string describe(const Collapse& collapse);

}  // namespace octavo
