// The levels of torch.vmap and its kin: a stack of the thread's in torch.
#pragma once
#include <cstddef>

namespace octavo::capture {

size_t vmap_depth();

// Leaves the levels that were entered over a scope: tracing may stop, and a graph may raise, in
// between.
class KeepsVmapDepth {
 public:
  KeepsVmapDepth() : depth_(vmap_depth()) {}
  KeepsVmapDepth(const KeepsVmapDepth&) = delete;
  KeepsVmapDepth& operator=(const KeepsVmapDepth&) = delete;
  ~KeepsVmapDepth();

 private:
  size_t depth_;
};

}  // namespace octavo::capture
