#include "quantize/algorithms/fit_weights.h"

#include "support/thread_pool.h"

namespace octavo {
namespace {
constexpr double damping = 0.01;
}

size_t fit_weights(const Graph& graph, const Placement& placement, const std::string& method,
                   const Dataset& data, const InputMomentsOptions& options,
                   const Progress& progress, RowsByNode& weights) {
  std::vector<PlacedWeights> products;
  std::vector<const PlacedProduct*> placed;
  for (const PlacedProduct& p : placement.products) {
    if (!weights.contains(p.node->name())) continue;
    products.push_back({p.node, p.axis});
    placed.push_back(&p);
  }
  if (products.empty()) return 0;
  ThreadPool pool(options.threads);
  size_t done = 0;
  return see_inputs(graph, products, data, options, progress,
                    [&](std::span<const size_t> readers, const SeenInput& input) {
                      const size_t size = input.moments.size;
                      std::vector<double> squares(size);
                      for (size_t k = 0; k < size; ++k)
                        squares[k] = input.moments.values[k * size + k];
                      for (const size_t i : readers) {
                        const WeightRows rows = rows_of(*placed[i]);
                        GroupedRows& fitted = weights.at(placed[i]->node->name());
                        fitted =
                            quantize_rows(rows, scheme_of(*placed[i], placement), "mse", squares);
                        if (method != "awq") gptq_round(rows, fitted, input.moments, damping, pool);
                        if (progress) progress("fitting weights", ++done, products.size());
                      }
                    });
}

}  // namespace octavo
