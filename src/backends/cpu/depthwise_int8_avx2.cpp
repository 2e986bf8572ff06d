#include "backends/cpu/depthwise_int8_kernel.h"
#include "backends/cpu/depthwise_int8_vectors.h"

namespace octavo::cpu {

void depthwise_int8_avx2(const DepthwiseInt8Tile& tile) {
  depthwise_tile<Channels32<Dot::madd>>(tile);
}

}  // namespace octavo::cpu
