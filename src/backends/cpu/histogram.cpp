#include "backends/cpu/histogram.h"

#include "backends/cpu/vector_kernels.h"

namespace octavo::cpu {

const HistogramKernels& histogram_kernels() { return best_vector_kernels().histogram; }

}  // namespace octavo::cpu
