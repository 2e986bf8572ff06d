#include "backends/cpu/gemm_int8_kernel.h"
#include "backends/cpu/int8_zmm.h"

namespace octavo::cpu {

void gemm_int8_vnni(const GemmInt8Tile& tile) { gemm_tile<Zmm<true>>(tile); }

}  // namespace octavo::cpu
