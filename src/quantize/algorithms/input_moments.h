// What float products see of data: second moments of their inputs, for the methods that fit weights
// alone (GPTQ of weight-only products, AWQ).
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "evaluate/dataset.h"
#include "quantize/algorithms/gptq.h"
#include "quantize/placement/placement.h"
#include "quantize/progress.h"

namespace octavo {

struct SeenInput {
  Moments moments;                 // sums of x x' over rows, divided by their number; not centred
  std::vector<double> magnitudes;  // means of |x_k|
  size_t rows = 0;
};

struct InputMomentsOptions {
  size_t most_samples = 0;              // 0: all
  size_t most_bytes = size_t{2} << 30;  // of moments held at once; more take more passes
  size_t most_rows = 8192;              // of an input, spread over samples and positions
  int threads = 0;
};

// visit(the products that read an input, as indexes, and what they see), once for each different
// input; convolutions of one group see patches. Products without a known form
// (has_product_shape) are left out. The sums are taken in an order that depends on no thread count.
// Returns how many samples were looked at. UserError if there are none.
size_t see_inputs(
    const Graph& graph, std::span<const PlacedWeights> products, const Dataset& data,
    const InputMomentsOptions& options, const Progress& progress,
    const std::function<void(std::span<const size_t> products, const SeenInput& input)>& visit);

}  // namespace octavo
