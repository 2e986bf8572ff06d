#include "codegen/memory.h"

#include <algorithm>
#include <numeric>

namespace octavo {

MemoryPlan plan_memory(std::vector<MemoryBlock>& blocks) {
  const auto padded = [](const MemoryBlock& b) { return (b.bytes + 63) / 64 * 64; };
  std::vector<size_t> order(blocks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return blocks[a].bytes > blocks[b].bytes; });
  MemoryPlan plan;
  std::vector<const MemoryBlock*> placed;  // by offset
  for (size_t i : order) {
    MemoryBlock& block = blocks[i];
    size_t offset = 0;
    for (const MemoryBlock* other : placed) {
      if (other->last < block.first || other->first > block.last) continue;
      if (offset + padded(block) <= other->offset) break;
      offset = std::max(offset, other->offset + padded(*other));
    }
    block.offset = offset;
    plan.bytes = std::max(plan.bytes, offset + padded(block));
    placed.insert(std::upper_bound(placed.begin(), placed.end(), offset,
                                   [](size_t at, const MemoryBlock* b) { return at < b->offset; }),
                  &block);
  }
  int steps = 0;
  for (const MemoryBlock& block : blocks) steps = std::max(steps, block.last + 1);
  std::vector<size_t> alive(static_cast<size_t>(steps) + 1, 0);
  for (const MemoryBlock& block : blocks) {  // differences, summed below
    alive[static_cast<size_t>(block.first)] += padded(block);
    alive[static_cast<size_t>(block.last) + 1] -= padded(block);
  }
  size_t now = 0;
  for (size_t change : alive) plan.least = std::max(plan.least, now += change);
  return plan;
}

}  // namespace octavo
