#include "backends/cpu/recurrent_int8.h"

#include <algorithm>

#include "backends/cpu/vector_kernels.h"

namespace octavo::cpu {

KernelList<RecurrentStep> recurrent_step_kernels() {
  static const Kernel<RecurrentStep> list[] = {
      {"recurrent_step_avx512", Isa::avx512, vector_kernels_avx512().recurrent_step},
      {"recurrent_step_avx2", Isa::avx2, vector_kernels_avx2().recurrent_step},
      {"recurrent_step_portable", Isa::portable, vector_kernels_portable().recurrent_step},
  };
  return list;
}

bool run_recurrent_int8(const RecurrentInt8& args, ThreadPool& pool) {
  // Products of x for several steps at a time: many enough that weights are read once for many
  // rows, few enough to stay in the cache until their steps come.
  constexpr int64_t block_rows = 64;
  const int64_t width = args.h_layer->k(), gates = args.h_layer->n();
  const auto steps = static_cast<int64_t>(args.sizes.size());
  std::vector<int64_t> first{0};  // row of each step
  for (const int64_t size : args.sizes) first.push_back(first.back() + size);
  if (first.back() == 0) return true;
  const int64_t most = args.sizes[0];
  LinearInt8::DynamicRows x, h;
  if (!args.x_layer->quantize_rows(first.back(), args.x, x, pool)) return false;
  AlignedArray<float> x_gates(std::min(block_rows + most, first.back()) * gates);
  AlignedArray<float> h_gates(most * gates);
  LinearInt8Output x_out, h_out;
  x_out.y = x_gates.data();
  h_out.y = h_gates.data();
  const auto& kernel = best_kernel(recurrent_step_kernels());
  for (int64_t done = 0; done < steps;) {
    // Steps [low, high) in the order of time, of at least block_rows rows if there are as many.
    int64_t low = args.reverse ? steps - done : done, high = low;
    while (done < steps && first[high] - first[low] < block_rows) {
      args.reverse ? --low : ++high;
      ++done;
    }
    args.x_layer->multiply_rows(first[low], first[high] - first[low], x, x_out, pool);
    for (int64_t i = 0; i < high - low; ++i) {
      const int64_t step = args.reverse ? high - 1 - i : low + i, rows = args.sizes[step];
      if (!args.h_layer->quantize_rows(rows, args.h, h, pool)) return false;
      args.h_layer->multiply_rows(0, rows, h, h_out, pool);
      kernel.run({args.mode, rows, width, x_gates.data() + (first[step] - first[low]) * gates,
                  h_gates.data(), args.h, args.c, args.y + first[step] * width},
                 pool);
    }
  }
  return true;
}

}  // namespace octavo::cpu
