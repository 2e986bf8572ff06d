// The FP32 convolutions that conv_f32_list() offers; internal to it.
#pragma once
#include "backends/cpu/conv.h"
#include "backends/cpu/conv_f32_data.h"
#include "backends/cpu/packed_weights_data.h"

namespace octavo::cpu {

// Any shape: a matrix product over packed weights that gathers its rows by pointers.
// Integer weights need `packed`, and stay integers.
std::unique_ptr<ConvKernel> make_gemm_f32(const ConvProblem& problem, const char* name, Isa isa,
                                          const ConvF32Kernels& kernels,
                                          const PackedKernels* packed = nullptr);
// One input channel for each output channel, vectorised over channels.
std::unique_ptr<ConvKernel> make_depthwise_f32(const ConvProblem& problem, const char* name,
                                               Isa isa, const ConvF32Kernels& kernels);

}  // namespace octavo::cpu
