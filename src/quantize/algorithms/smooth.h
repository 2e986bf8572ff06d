// SmoothQuant (Xiao et al., arXiv 2211.10438): the range that one scale must cover moves from
// activations into weights. For a product y = x W and factors s, y = (x / s) (s W) in exact
// arithmetic; a channel of x with outliers no longer sets the step of all others.
//
//   s_k = (max |x_k|)^a / (max_o |W_ko|)^(1 - a), the geometric mean of all s_k being 1
//
// x / s is free where x is what a layer_norm makes: its gain and bias are divided. If others read
// the norm too (a residual stream), the products get a norm of their own. It is free too behind
// product, bias and relu, through which positive factors pass: that product's weights and bias are
// divided. So it is through attention, into the product that makes its values; the error counted
// there is that of the values and of what is mixed of them, each beside its own signal. Behind a
// gelu, no weights can take it: there a multiplication is inserted, and the gelu
// is computed in float.
//
// Two more steps make channels alike. What a norm's bias can take, channels give up: (x - z) / s,
// z on the way to the middle of their ranges (Outlier Suppression+, Wei et al., arXiv 2304.09145);
// attention's values do too, since what mixes them sums to 1.
// Behind a gelu the largest channels are split (channel_copies.h), so that weights take less.
//
// a is chosen for each tensor on the data: the one that makes the error of the products' outputs
// least, activations and weights rounded. Ranges come from one half of the samples, the error from
// the other: with a = 1 every channel fills the range, and clips on data that go a little further.
#pragma once
#include <string>
#include <vector>

#include "evaluate/dataset.h"
#include "graph/graph.h"
#include "quantize/algorithms/channel_factors.h"
#include "quantize/progress.h"
#include "quantize/rules.h"

namespace octavo {

struct SmoothedTensor {
  std::string tensor;                 // as the products read it now
  std::vector<std::string> products;  // node names
  std::string by;                     // "norm", "own norm", "product" or "multiplication"
  double alpha;
  double shift = 0;                      // of the way to the middle of each channel's range
  size_t copies = 0;                     // channels more than there were
  double sqnr_db_before, sqnr_db_after;  // of the products' outputs, as estimated
};

struct SmoothOptions {
  // folded: where a layer_norm or a product takes the factors; all: behind gelus too, where it
  // gains enough.
  FactorPlaces where = FactorPlaces::folded;
  Rules rules;  // products that they keep from static INT8 are left alone
  // What is left of nearest rounding's squared output error by the method that will round.
  double weight_error = 1;
  size_t most_samples = 0;  // 0: all
  int threads = 0;
};

// Of a canonical float graph with unique names; it computes the same but for float rounding.
std::vector<SmoothedTensor> smooth_activations(Graph& graph, const Dataset& data,
                                               const SmoothOptions& options,
                                               const Progress& progress = {});

}  // namespace octavo
