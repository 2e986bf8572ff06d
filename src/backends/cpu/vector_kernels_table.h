// All that vector_kernels.h lists, over the `Vec` of a vec_*.h, which must come first.
#pragma once
#include "backends/cpu/affine_kernel.h"
#include "backends/cpu/cast_half_kernel.h"
#include "backends/cpu/dynamic_quantize_kernel.h"
#include "backends/cpu/elementwise_kernel.h"
#include "backends/cpu/histogram_kernel.h"
#include "backends/cpu/layer_norm_kernel.h"
#include "backends/cpu/pool_kernel.h"
#include "backends/cpu/quantized_kernel.h"
#include "backends/cpu/recurrent_step_kernel.h"
#include "backends/cpu/reduce_kernel.h"
#include "backends/cpu/vector_kernels.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

constexpr VectorKernels vector_kernels_table{
    max_pool,
    average_pool,
    binary,
    unary,
    quantized_add,
    quantized_mul,
    quantize,
    dequantize,
    dynamic_quantize,
    quantize_to_nhwc,
    reduce,
    softmax,
    affine_table<Vec>,
    affine_table<VecDouble>,
    {histogram_extremes, histogram_count, histogram_count_magnitudes, histogram_keep_large},
    layer_norm,
    cast_half,
    recurrent_step,
};

}  // namespace
}  // namespace octavo::cpu
