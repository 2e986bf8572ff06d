// Where quantization goes. A placement looks at a canonical float graph and says which values are
// quantized, which of them share a scale, and which weights become integers; it changes nothing.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "quantize/rules.h"
#include "quantize/scheme.h"

namespace octavo {

struct TargetFacts;  // facts.h

struct PlacedActivation {
  const Value* value;
  int group;                                                 // of one scale and zero point
  Scheme scheme = {.is_signed = false, .symmetric = false};  // 8 bits, per tensor
  std::vector<Use> float_readers = {};                       // that keep the float value
};

struct PlacedWeights {
  Node* node;               // input 1 holds the constant weights, input 2 the bias or nothing
  int64_t axis;             // of the output channels
  bool per_tensor = false;  // one scale instead of one for each output channel
};

// A product of another precision than static INT8 (precisions.h), or a gather whose table becomes
// integers.
struct PlacedProduct {
  Node* node;
  int64_t axis;  // of the output channels in its weights; of the rows of a table
  Precision precision;
  int64_t group_size = 0;  // 0: the default
  bool by_row = false;     // of a dynamic one, see Rule
};

struct Placement {
  std::vector<PlacedActivation> activations;  // in graph order
  std::vector<PlacedWeights> weights;
  std::vector<PlacedProduct> products;           // dynamic and weight-only, in graph order
  std::vector<PlacedProduct> tables;             // gathers, in graph order
  std::vector<const Node*> activation_products;  // matmuls of two activations on integers
  struct Skipped {
    std::string node, op, reason;
  };
  std::vector<Skipped> skipped;  // nodes that could be integer by kind but stay in float
  bool integer_bias = true;      // biases of placed products become i32; else they stay float
  int groups = 0;
  bool symmetric_weights = false;  // of 4 bits: without zero points
  bool gathers_integers = false;   // tables are gathered before they are dequantized
};

struct PlacementTarget {
  const char* name;
  const char* summary;
  Placement (*place)(const Graph& graph, const Rules& rules);
  const TargetFacts& (*facts)();  // what lint.h judges by
};

// Explicit list; one file per target.
std::span<const PlacementTarget> placement_targets();
// UserError naming the known targets.
const PlacementTarget& find_placement_target(const std::string& name);

Placement place_octavo(const Graph& graph, const Rules& rules);
Placement place_onnxruntime(const Graph& graph, const Rules& rules);
Placement place_openvino(const Graph& graph, const Rules& rules);
Placement place_tensorrt(const Graph& graph, const Rules& rules);
// What the last three have in common.
Placement place_by_facts(const Graph& graph, const Rules& rules, const TargetFacts& facts);

}  // namespace octavo
