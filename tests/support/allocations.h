// Counts calls of operator new in the whole test program, the library included, for tests of code
// that must not allocate.
#pragma once
#include <cstdint>

namespace octavo {

int64_t allocations();

}  // namespace octavo
