// FP32 products of two activations, batch by batch: y [m, n] = a [m, k] b [k, n], dense rows.
// Products of weights are conv.h's.
#pragma once
#include <vector>

#include "backends/cpu/kernel.h"

namespace octavo::cpu {

struct MatmulProblem {
  int64_t m = 1, k = 1, n = 1;
  std::vector<int64_t> a_at, b_at;        // where each batch's operands begin, in elements
  bool trans_a = false, trans_b = false;  // a lies as [k, m], b as [n, k]
};

struct MatmulArgs {
  const float* a = nullptr;
  const float* b = nullptr;
  float* y = nullptr;
  void* scratch = nullptr;
};

class MatmulKernel {
 public:
  virtual ~MatmulKernel() = default;
  virtual const char* name() const = 0;
  virtual Isa isa() const = 0;
  virtual size_t scratch_bytes(int threads) const = 0;
  // Allocates nothing; the answer does not depend on pool.size().
  virtual void run(const MatmulArgs& args, ThreadPool& pool) const = 0;
};

struct MatmulImplementation {
  const char* name;
  Isa isa;
  std::unique_ptr<MatmulKernel> (*create)(const MatmulProblem& problem);
};

// Best first; the last one is portable. All take everything.
std::span<const MatmulImplementation> matmul_list();
std::unique_ptr<MatmulKernel> make_matmul(const MatmulProblem& problem);

}  // namespace octavo::cpu
