#include "backends/cpu/vec_portable.h"
// The vector type comes first.
#include "backends/cpu/attention_rows_kernel.h"

namespace octavo::cpu {

const AttentionRows& attention_rows_portable() { return attention_rows; }

}  // namespace octavo::cpu
