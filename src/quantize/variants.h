// Quantized forms of one network: everything, one layer alone, everything but one layer, or as any
// rules say. One pass over the data serves them all; weights are rounded to nearest, so that a
// layer's integers do not depend on what the other layers are.
//
// A layer is what a rule can move to float by itself: a product of any precision (of an attention,
// both), a gather of a table of integers, or an integer op that reads a quantized tensor (add, mul,
// pooling, a function).
#pragma once
#include <map>
#include <string>
#include <vector>

#include "evaluate/dataset.h"
#include "quantize/activation_statistics.h"
#include "quantize/apply.h"
#include "quantize/calibrators/calibrators.h"
#include "quantize/integer_weights.h"
#include "quantize/ptq.h"

namespace octavo {

struct QuantizedLayer {
  std::string name;                // of its last node
  std::string op;                  // "conv", "attention", …
  std::vector<std::string> nodes;  // all, in graph order
};

class Variants {
 public:
  // Takes a float graph as Ptq does. UserError if nothing in it can be integer, or the method for
  // weights looks at data.
  Variants(Graph graph, PtqOptions options);
  Variants(const Variants&) = delete;  // placements point into the graph
  Variants& operator=(const Variants&) = delete;

  const Graph& graph() const { return graph_; }
  const PtqOptions& options() const { return options_; }
  const std::vector<QuantizedLayer>& layers() const { return layers_; }

  // The options' rules, and these layers in float on top.
  Rules without(const std::vector<std::string>& layers) const;
  Placement everything() const { return place(options_.rules); }
  Placement all_but(const QuantizedLayer& layer) const { return place(without({layer.name})); }
  // A product or table as rules that keep all else in float place it; another op with its quantized
  // inputs, which nothing else reads.
  Placement only(const QuantizedLayer& layer) const;
  Placement place(const Rules& rules) const;

  void calibrate(const Dataset& data, const std::string& calibrator, const Progress& progress);
  const ActivationStatistics& statistics() const { return statistics_; }
  std::map<std::string, ActivationParams> params(const Placement& placement) const;
  Graph quantize(const Placement& placement);
  // Of the weight-only products and tables of everything(): no variant has others. Rounded once for
  // each method.
  const RowsByNode& integers(const std::string& weight_method);

 private:
  void find_layers();
  const QuantizedLayer& find(const std::string& layer) const;

  PtqOptions options_;
  Graph graph_;
  std::vector<QuantizedLayer> layers_;
  ActivationStatistics statistics_{{}};
  std::map<std::string, Range> ranges_;
  struct Rounded {
    float x_scale;
    WeightParams params;
  };
  std::map<std::string, Rounded> weights_;  // the last of each node: most variants share them
  std::map<bool, RowsByNode> integers_;     // by max, or by mse
};

// A rule that names this node and no other, as far as globs can.
Rule rule_for(const std::string& node, Precision precision);
// As a rules file.
std::string print_rules(const Rules& rules);

}  // namespace octavo
