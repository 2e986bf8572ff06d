// One kernel call of a program.
#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "support/cpu.h"
#include "support/thread_pool.h"

namespace octavo {

struct StepContext {
  ThreadPool& pool;
  std::byte* scratch;  // scratch_bytes(pool.size()) bytes, 64-byte aligned
};

class StepKernel {
 public:
  virtual ~StepKernel() = default;
  virtual const char* name() const = 0;  // "conv_int8_gemm", "reference", …
  virtual Isa isa() const = 0;
  virtual size_t scratch_bytes(int threads) const {
    (void)threads;
    return 0;
  }
  virtual size_t packed_bytes() const { return 0; }
  // Whether an output may be the memory of this input, if its elements are of one type and number.
  virtual bool may_overwrite(size_t input) const {
    (void)input;
    return false;
  }
  // `in` has a null for each input left out. Must not depend on pool.size(); allocates nothing
  // unless it is the reference kernel.
  virtual void run(std::span<const void* const> in, std::span<void* const> out,
                   StepContext context) const = 0;
};

}  // namespace octavo
