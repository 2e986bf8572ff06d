// AMX's tiles in plain code, for tests on machines without AMX.
#include "backends/cpu/gemm_int8_tiles.h"
#include "backends/cpu/int8_zmm.h"

namespace octavo::cpu {
namespace {

class EmulatedTiles {
 public:
  void configure(const TileConfig& config) {
    config_ = config;
    __builtin_memset(data_, 0, sizeof data_);  // as LDTILECFG does
  }
  template <int tile>
  void load(const void* p, int64_t stride) {
    __builtin_memset(data_[tile], 0, sizeof data_[tile]);
    for (int r = 0; r < config_.rows[tile]; ++r)
      __builtin_memcpy(data_[tile][r], static_cast<const char*>(p) + r * stride,
                       config_.row_bytes[tile]);
  }
  template <int tile>
  void store(void* p, int64_t stride) {
    for (int r = 0; r < config_.rows[tile]; ++r)
      __builtin_memcpy(static_cast<char*>(p) + r * stride, data_[tile][r], config_.row_bytes[tile]);
  }
  template <int sums, int a, int b>
  void dot() {
    // What the processor faults on.
    if (config_.rows[sums] != config_.rows[a] || config_.row_bytes[sums] != config_.row_bytes[b] ||
        config_.row_bytes[a] != config_.rows[b] * 4)
      __builtin_trap();
    for (int m = 0; m < config_.rows[sums]; ++m)
      for (int n = 0; n < config_.row_bytes[sums] / 4; ++n) {
        uint32_t sum;
        __builtin_memcpy(&sum, data_[sums][m] + 4 * n, 4);
        for (int k = 0; k < config_.row_bytes[a]; ++k)
          sum += static_cast<uint32_t>(data_[a][m][k] *
                                       static_cast<int8_t>(data_[b][k / 4][4 * n + k % 4]));
        __builtin_memcpy(data_[sums][m] + 4 * n, &sum, 4);
      }
  }

 private:
  TileConfig config_;
  uint8_t data_[8][16][64];
};

}  // namespace

void gemm_int8_emulated(const GemmInt8Tile& tile) { gemm_tiles<EmulatedTiles, Zmm<true>>(tile); }

}  // namespace octavo::cpu
