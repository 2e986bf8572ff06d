// Static memory planning: offsets for blocks with known lifetimes.
#pragma once
#include <cstddef>
#include <vector>

namespace octavo {

struct MemoryBlock {
  size_t bytes = 0;
  int first = 0, last = 0;  // steps that touch it, both included
  size_t offset = 0;        // the answer, a multiple of 64
};

struct MemoryPlan {
  size_t bytes = 0;  // of the arena
  size_t least = 0;  // the most that is alive in one step: a lower bound
};

// Places the blocks, largest first, each at the lowest free offset of its lifetime (greedy by size;
// Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020).
MemoryPlan plan_memory(std::vector<MemoryBlock>& blocks);

}  // namespace octavo
