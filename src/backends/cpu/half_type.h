// The float types of 16 bits. Plain data only, as conv_f32_data.h says.
#pragma once
#include <cstdint>

namespace octavo::cpu {

enum class HalfType : uint8_t { none, f16, bf16 };

}  // namespace octavo::cpu
