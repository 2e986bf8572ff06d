// One program for forward and one for each stage of backward, from the joint graph.
#pragma once

#include <cstddef>
#include <vector>

#include "joint.h"

namespace octavo::aten {

/// A Stage's gradients as a program.
struct BackwardProgram {
  Graph graph;  ///< inputs: what is saved, the roots' tangents; outputs: the gradients there are,
                ///< then those of inner results
  std::vector<std::size_t> saved_inputs;  ///< primals that it takes, before what is saved
  std::vector<std::size_t> saved;         ///< outputs of forward behind the results
};

struct Programs {
  Graph forward;  ///< inputs: the primals; outputs: the results `returned`, then what is saved
  std::vector<BackwardProgram> backward;  ///< one per stage
  std::size_t saved = 0;                  ///< outputs of forward behind the results
  std::vector<std::size_t> returned;      ///< of Joint::results, those that are outputs
  bool writes_in_place = false;  ///< forward writes its inputs itself: it has Graph::writes
};

/// Operators that nothing needs are left out, except those that draw random numbers. Backward
/// makes views again instead of having them saved, so that a saved tensor is always one whose
/// changes autograd sees.
Programs partition(const Joint& joint);

}  // namespace octavo::aten
