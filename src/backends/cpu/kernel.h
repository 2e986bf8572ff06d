// What a CPU kernel is. For each kind of work there is one best-first list of implementations; the
// first that accepts a problem is taken, and each one that declines says why. Kernels are made
// once, at compile time (weights are packed then), and run many times without allocating.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "support/cpu.h"
#include "support/thread_pool.h"

namespace octavo::cpu {

// Element types that kernels read and write.
enum class Element { f32, u8, s8 };

// One line for each implementation that was asked and declined.
struct Declined {
  const char* kernel;
  std::string reason;
};

}  // namespace octavo::cpu
