#include "backends/cpu/conv.h"

namespace octavo::cpu {

// Empty until the kernels land: every convolution then runs on the reference kernel.
std::span<const ConvImplementation> conv_f32_list() { return {}; }

}  // namespace octavo::cpu
