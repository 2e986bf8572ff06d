// Weight-only products, fitted to data. Their inputs are those of the float network: activations
// stay float, and each product is fitted by itself, in one pass.
//   gptq  in each group the scale (and zero point) of least error, each weight counting as the mean
//         square of its input; then rounded as algorithms/gptq.h does
//   awq   the same scales (the clipping of AWQ), rounded to nearest: the network was scaled before
#pragma once
#include "evaluate/dataset.h"
#include "quantize/algorithms/input_moments.h"
#include "quantize/integer_weights.h"
#include "quantize/progress.h"

namespace octavo {

// `method`: "gptq", "awq" or "awq+gptq". Replaces those of `weights` that are of products, not
// tables; what has no known form (groups of a convolution) stays. Returns how many samples were
// looked at.
size_t fit_weights(const Graph& graph, const Placement& placement, const std::string& method,
                   const Dataset& data, const InputMomentsOptions& options,
                   const Progress& progress, RowsByNode& weights);

}  // namespace octavo
