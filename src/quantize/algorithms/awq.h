// AWQ (Lin et al., arXiv 2306.00978): of weights in few bits, those matter most that meet large
// activations. Factors s_k = (mean |x_k|)^a, divided by the geometric mean of the largest and the
// least, scale them up before rounding, which leaves them a smaller part of a group's step:
// y = x W = (x / s) (s W). x / s goes where channel_factors.h says; behind a gelu a multiplication
// is inserted.
//
// a is chosen for each tensor among 20 from 0.05 to 1: the one that makes the squared error of the
// products' outputs least, E[|x (W - W_q)|^2] = tr(D' H D) with H the second moments of x; none if
// that gains nothing.
#pragma once
#include "quantize/algorithms/input_moments.h"
#include "quantize/algorithms/smooth.h"
#include "quantize/placement/placement.h"

namespace octavo {

// A copy of the graph that computes the same but for float rounding. The placement, of this graph,
// says which products have weights of which bits. What is put in front of products of other
// precisions is left alone. `report`: what was scaled.
Graph awq_scaled(const Graph& graph, const Placement& placement, const Dataset& data,
                 const InputMomentsOptions& options, const Progress& progress,
                 std::vector<SmoothedTensor>& report);

}  // namespace octavo
