#include "quantize/apply_placement.h"

namespace octavo {

Graph apply_placement(const Graph& graph, const Placement& placement,
                      const std::map<std::string, ActivationParams>& activations,
                      const std::map<std::string, WeightParams>& weights,
                      const RowsByNode& integers, const std::string& weight_method,
                      std::vector<DynamicReport>* reports) {
  Graph result = apply_quantization(graph, placement, activations, weights);
  DynamicOptions options;
  if (weight_method == "max") options.weights = "max";
  auto dynamic = apply_dynamic(result, placement, options);
  if (reports) *reports = std::move(dynamic);
  apply_integer_weights(result, placement, integers);
  return result;
}

}  // namespace octavo
