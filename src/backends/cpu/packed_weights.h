// Integer weights of an FP32 product, packed for PackedKernels.
#pragma once
#include <vector>

#include "backends/cpu/conv.h"
#include "backends/cpu/packed_weights_data.h"
#include "support/buffer.h"

namespace octavo::cpu {

class PackedWeights {
 public:
  struct Panel {
    int64_t channel, channels;  // first, and how many there are
    int width;                  // of the panel
  };

  // A channel's weights in depth blocks of `depths`; `length`: of the axis that groups divide.
  PackedWeights(const StoredIntegers& weights, int64_t length, std::vector<int64_t> depths);

  // `order[k]`: where step k of the depth lies in the row of a channel.
  void pack(const void* weights, const std::vector<int64_t>& order,
            const std::vector<Panel>& panels);

  bool four_bits() const { return weights_.bits == 4; }
  size_t bytes() const { return memory_->size(); }
  PackedBlock block(size_t panel, size_t depth_block) const;

 private:
  int64_t packed_depth(int64_t depth) const;  // bytes for one channel

  StoredIntegers weights_;  // its pointers are used by pack() only
  bool zeros_;
  int64_t groups_;                                       // scales of a channel
  int64_t run_;                                          // steps of the depth that share a scale
  std::vector<int64_t> depths_, integers_at_, runs_at_;  // of each depth block, for one channel
  int64_t bytes_ = 0, runs_ = 0;                         // of a channel
  std::vector<Panel> panels_;
  std::vector<int64_t> first_;  // padded channels before each panel
  int64_t padded_ = 0;
  std::shared_ptr<Buffer> memory_;  // scales, zeros, integers
};

}  // namespace octavo::cpu
