// One program for forward and one for backward, from the joint graph.
#pragma once

#include <cstddef>
#include <vector>

#include "joint.h"

namespace octavo::aten {

struct Programs {
  Graph forward;   ///< inputs: the primals; outputs: the results `returned`, then what is saved
  Graph backward;  ///< inputs: what is saved, the tangents; outputs: the gradients there are
  std::vector<std::size_t> saved_inputs;  ///< primals that backward takes, before what is saved
  std::size_t saved = 0;                  ///< outputs of forward behind the results
  std::vector<std::size_t> returned;      ///< of Joint::results, those that are outputs
  bool writes_in_place = false;  ///< forward writes its inputs itself: it has Graph::writes
};

/// Operators that nothing needs are left out, except those that draw random numbers. Backward
/// makes views again instead of having them saved, so that a saved tensor is always one whose
/// changes autograd sees.
Programs partition(const Joint& joint);

}  // namespace octavo::aten
