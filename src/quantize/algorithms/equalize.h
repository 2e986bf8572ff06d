// Cross-layer equalisation (Nagel et al., arXiv 1906.04721, section 4.1): the channels between two
// products get scales of their own, so that no channel's weights are small beside those that set
// the step of all. Needs no data; worth it where weights have one scale for the tensor.
//
// Through f with f(s x) = s f(x) for s > 0, W2 f(W1 x + b) = (W2 s) f(W1 x / s + b / s), and with
// r1 and r2 the largest magnitudes of W1's output channel i and of W2's input channel i,
//   s_i = sqrt(r1_i r2_i) / r2_i
// makes both sqrt(r1_i r2_i). Chains of products go pair by pair until nothing changes. f: relu,
// leaky_relu, prelu, abs, neg, pooling, reductions over other axes, reshapes and transposes that
// keep channels apart; additions of constants are divided by s.
//
// The paper puts ReLU in the place of ReLU6, which changes the function: it leaves EfficientNet-
// Lite0's logits 0.4 dB in float. Here clip(x, lo, hi) between two products becomes, if asked for,
// clip(x / s, lo / s, hi / s): bounds for each channel, as a maximum and a minimum that run in
// float.
//
// What the weights gain can be lost on activations, whose one scale covers x_i / s_i: no s_i is
// less than the median of its pair by more than a factor `most_stretch`.
#pragma once
#include <string>
#include <vector>

#include "graph/graph.h"
#include "quantize/algorithms/channel_factors.h"
#include "quantize/rules.h"

namespace octavo {

struct EqualizedPair {
  std::string first, second;  // node names
  bool bounded;               // a clip between them has bounds for each channel now
  double least, most;         // of the factors s
};

struct EqualizeOptions {
  FactorPlaces where = FactorPlaces::folded;  // all: across clips too
  Rules rules;              // pairs that they keep from static INT8 are left alone
  double most_stretch = 2;  // infinite: the paper's factors
};

// Of a canonical float graph with unique names; it computes the same but for float rounding. Left
// alone: values that several nodes read or that are outputs, products without constant weights.
std::vector<EqualizedPair> equalize_weights(Graph& graph, const EqualizeOptions& options);

}  // namespace octavo
