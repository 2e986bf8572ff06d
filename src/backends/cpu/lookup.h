// Internal to lookup_kernels(). Plain: sources compiled for wide instruction sets include this.
#pragma once
#include <cstdint>

namespace octavo::cpu {

void look_up_avx512(const uint8_t* table, const uint8_t* x, uint8_t* y, int64_t count);

}  // namespace octavo::cpu
