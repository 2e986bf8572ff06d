// Weights of FP32 products that stay integers of 8 or 4 bits in memory: w = (q - z) * s in float,
// one rounding, is made on the way to the multiplication. Plain data only, as conv_f32_data.h.
#pragma once
#include "backends/cpu/conv_f32_data.h"

namespace octavo::cpu {

// Of one panel, a depth block: cut into runs, stretches that have one scale for each channel.
struct PackedBlock {
  // 8 bits: [length][width], signed. 4 bits: of each run [(run + 1) / 2][width], two steps of the
  // depth in a byte, the first one low, plus 8.
  const uint8_t* integers;
  const float* scales;  // [runs][width]
  const float* zeros;   // [runs][width], or null
  int64_t length, run;
};

struct PackedKernels {
  static constexpr int max_rows = 4;
  // To floats [length][vectors * Vec::width]; [4 bits]
  void (*unpack[2])(const PackedBlock& block, int vectors, float* out);
  // As ConvF32Kernels::gemm, bit for bit the same as over the unpacked floats; the tile has one
  // segment. [4 bits][vectors][rows]
  void (*gemm[2][5][max_rows + 1])(const GemmF32Tile& tile, const PackedBlock& block);
};

const PackedKernels& packed_kernels_portable();
const PackedKernels& packed_kernels_avx2();
const PackedKernels& packed_kernels_avx512();

}  // namespace octavo::cpu
