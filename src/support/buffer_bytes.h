// How much memory tensors hold, for tests of what a program keeps.
#pragma once
#include <cstdint>

namespace octavo {

// Of all buffers that are alive, views not counted.
int64_t buffer_bytes();

}  // namespace octavo
