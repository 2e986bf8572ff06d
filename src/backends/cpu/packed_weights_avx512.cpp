#include "backends/cpu/vec_avx512.h"
// The vector type comes first.
#include "backends/cpu/packed_weights_kernel.h"

namespace octavo::cpu {

const PackedKernels& packed_kernels_avx512() {
  static constexpr PackedKernels kernels{{unpack<false>, unpack<true>},
                                         {{{},
                                           OCTAVO_PACKED_ROWS(false, 1),
                                           OCTAVO_PACKED_ROWS(false, 2),
                                           OCTAVO_PACKED_ROWS(false, 3),
                                           OCTAVO_PACKED_ROWS(false, 4)},
                                          {{},
                                           OCTAVO_PACKED_ROWS(true, 1),
                                           OCTAVO_PACKED_ROWS(true, 2),
                                           OCTAVO_PACKED_ROWS(true, 3),
                                           OCTAVO_PACKED_ROWS(true, 4)}}};
  return kernels;
}

}  // namespace octavo::cpu
