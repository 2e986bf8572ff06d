// The walk over a best-first list of kernels that are made for one problem.
#pragma once
#include <memory>

#include "backends/cpu/kernel.h"
#include "support/error.h"

namespace octavo::cpu {

// The kernel of the first implementation that accepts `problem`, or null; appends those that
// declined to `declined` if given. Implementations have name, isa, and create(problem, why).
template <class Kernel, class List, class Problem>
std::unique_ptr<Kernel> first_accepting(const List& list, const Problem& problem,
                                        std::vector<Declined>* declined) {
  for (const auto& implementation : list) {
    std::string why;
    if (best_isa() < implementation.isa) {
      why = fmt::format("needs {}", isa_name(implementation.isa));
    } else if (auto kernel = implementation.create(problem, why)) {
      return kernel;
    }
    if (declined) declined->push_back({implementation.name, why});
  }
  return nullptr;
}

}  // namespace octavo::cpu
