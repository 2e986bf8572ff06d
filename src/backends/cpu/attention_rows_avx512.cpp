#include "backends/cpu/vec_avx512.h"
// The vector type comes first.
#include "backends/cpu/attention_rows_kernel.h"

namespace octavo::cpu {

const AttentionRows& attention_rows_avx512() { return attention_rows; }

}  // namespace octavo::cpu
