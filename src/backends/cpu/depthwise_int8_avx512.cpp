#include "backends/cpu/depthwise_int8_kernel.h"
#include "backends/cpu/depthwise_int8_vectors.h"

namespace octavo::cpu {

void depthwise_int8_avx512(const DepthwiseInt8Tile& tile) {
  if (tile.width == 64)
    depthwise_tile<Channels64<Dot::madd>>(tile);
  else
    depthwise_tile<Channels32<Dot::madd>>(tile);
}

}  // namespace octavo::cpu
