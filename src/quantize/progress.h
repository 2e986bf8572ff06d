#pragma once
#include <cstddef>
#include <functional>

namespace octavo {

// Called between samples and layers: what is being done, how many are done, of how many. May throw
// to interrupt.
using Progress = std::function<void(const char* phase, size_t done, size_t total)>;

}  // namespace octavo
