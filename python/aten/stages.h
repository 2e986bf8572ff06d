// In which parts the gradients of a traced graph's results are computed: docs/decisions/0038.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/edge.h>

#include <cstddef>
#include <deque>
#include <unordered_set>
#include <vector>

namespace octavo::aten {

using torch::autograd::Edge;
using Edges = std::unordered_set<Edge>;

/// A tensor that comes out, and where the gradient reaches its history.
struct Reached {
  bool view = false;      ///< a result, or an output that is a view
  std::size_t index = 0;  ///< of Joint::results, for a view of Joint::outputs
  Edge edge;
};

/// One of which results are made.
struct Inner {
  Reached tensor;
  bool keeps = true;    ///< the gradient ends here, in `gradient`
  at::Tensor gradient;  ///< of the last backward pass; undefined if none arrived
};

/// The inner ones, each before what is made of it; their histories have hooks now, which refer to
/// the elements.
std::deque<Inner> find_inner(const std::vector<Reached>& tensors);

/// `results` in groups whose gradients have no node in common up to `ends`, so that the backward
/// pass of one may run, and be freed, before another's. Each group in the order of `results`.
std::vector<std::vector<std::size_t>> grouped(const std::vector<Reached>& results,
                                              const Edges& ends);

}  // namespace octavo::aten
