// Kernels without state: free functions over raw pointers and sizes, in one best-first list for
// each kind of work. They allocate nothing, and what they compute does not depend on pool.size().
#pragma once
#include <span>

#include "backends/cpu/kernel.h"

namespace octavo::cpu {

template <class Args>
struct Kernel {
  const char* name;
  Isa isa;
  void (*run)(const Args& args, ThreadPool& pool);
};

// The last one is portable and takes everything.
template <class Args>
using KernelList = std::span<const Kernel<Args>>;

// The first that best_isa() allows.
template <class Args>
const Kernel<Args>& best_kernel(KernelList<Args> list) {
  const Isa best = best_isa();
  for (const Kernel<Args>& kernel : list)
    if (kernel.isa <= best) return kernel;
  return list.back();
}

}  // namespace octavo::cpu
