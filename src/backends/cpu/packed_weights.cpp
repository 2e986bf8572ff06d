#include "backends/cpu/packed_weights.h"

#include <algorithm>
#include <cstring>

#include "support/shared_buffers.h"

namespace octavo::cpu {
namespace {
int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
}  // namespace

PackedWeights::PackedWeights(const StoredIntegers& weights, int64_t length,
                             std::vector<int64_t> depths)
    : weights_(weights),
      zeros_(weights.zero_points != nullptr),
      groups_(weights.group > 0 ? divide_up(length, weights.group) : 1),
      run_(groups_ > 1 ? weights.group : INT64_MAX / 2),
      depths_(std::move(depths)) {
  // u8 is s8 with all numbers 128 lower; of 4 bits, u4 is s4 with all 8 lower.
  zeros_ = zeros_ || weights.element == Element::u8;
  for (const int64_t depth : depths_) {
    integers_at_.push_back(bytes_);
    runs_at_.push_back(runs_);
    bytes_ += packed_depth(depth);
    runs_ += divide_up(depth, run_);
  }
}

int64_t PackedWeights::packed_depth(int64_t depth) const {
  if (!four_bits()) return depth;
  return depth / run_ * divide_up(std::min(run_, depth), 2) + divide_up(depth % run_, 2);
}

void PackedWeights::pack(const void* weights, const std::vector<int64_t>& order,
                         const std::vector<Panel>& panels) {
  panels_ = panels;
  first_.clear();
  padded_ = 0;
  for (const Panel& panel : panels_) {
    first_.push_back(padded_);
    padded_ += panel.width;
  }
  const int64_t floats = padded_ * runs_ * (zeros_ ? 2 : 1);
  memory_ = Buffer::allocate(static_cast<size_t>(floats) * sizeof(float) +
                             static_cast<size_t>(padded_ * bytes_));
  std::memset(memory_->mutable_data(), 0, memory_->size());
  auto* scales = reinterpret_cast<float*>(memory_->mutable_data());
  float* zeros = scales + padded_ * runs_;
  auto* integers = reinterpret_cast<uint8_t*>(scales + floats);

  const bool is_signed = weights_.element == Element::s8, four = four_bits();
  const int centre = is_signed ? 0 : four ? 8 : 128;
  const auto* bytes = static_cast<const uint8_t*>(weights);
  const auto* zero_bytes = static_cast<const uint8_t*>(weights_.zero_points);
  const auto value = [&](uint8_t byte) {
    return (is_signed ? static_cast<int8_t>(byte) : int{byte}) - centre;
  };
  const auto row = static_cast<int64_t>(order.size());
  for (size_t p = 0; p < panels_.size(); ++p) {
    const Panel& panel = panels_[p];
    for (int64_t c = 0; c < panel.channels; ++c) {
      const int64_t channel = panel.channel + c;
      int64_t k = 0, run = first_[p] * runs_, at = first_[p] * bytes_;
      for (const int64_t depth : depths_) {
        for (int64_t begin = 0; begin < depth; begin += run_, run += panel.width) {
          const int64_t end = std::min(begin + run_, depth);
          const int64_t scale =
              channel * groups_ + (groups_ > 1 ? order[static_cast<size_t>(k)] / run_ : 0);
          scales[run + c] = weights_.scales[scale];
          if (zeros_)
            zeros[run + c] = static_cast<float>(zero_bytes ? value(zero_bytes[scale]) : -centre);
          for (int64_t i = begin; i < end; ++i, ++k) {
            const int q = value(bytes[channel * row + order[static_cast<size_t>(k)]]);
            if (four) {
              uint8_t& byte = integers[at + (i - begin) / 2 * panel.width + c];
              byte = static_cast<uint8_t>(byte | (q + 8) << ((i - begin) % 2 * 4));
            } else {
              integers[at + (i - begin) * panel.width + c] = static_cast<uint8_t>(q);
            }
          }
          at += (four ? divide_up(end - begin, 2) : end - begin) * panel.width;
        }
      }
    }
  }
  memory_ = held_once(std::move(memory_));
}

PackedBlock PackedWeights::block(size_t panel, size_t depth_block) const {
  const int64_t width = panels_[panel].width, runs = padded_ * runs_;
  const auto* scales = reinterpret_cast<const float*>(memory_->data());
  const auto* integers = reinterpret_cast<const uint8_t*>(scales + runs * (zeros_ ? 2 : 1));
  const int64_t run = first_[panel] * runs_ + runs_at_[depth_block] * width;
  return {integers + first_[panel] * bytes_ + integers_at_[depth_block] * width, scales + run,
          zeros_ ? scales + runs + run : nullptr, depths_[depth_block],
          std::min(run_, depths_[depth_block])};
}

}  // namespace octavo::cpu
