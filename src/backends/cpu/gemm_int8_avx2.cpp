#include "backends/cpu/gemm_int8_kernel.h"
#include "backends/cpu/int8_ymm.h"

namespace octavo::cpu {

void gemm_int8_avx2(const GemmInt8Tile& tile) { gemm_tile<Ymm>(tile); }

}  // namespace octavo::cpu
