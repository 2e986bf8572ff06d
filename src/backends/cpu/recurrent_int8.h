// One direction of a recurrent layer over all its steps, both products in INT8 (linear_int8.h): x
// quantized once for all steps, the state at each step, over the rows of that step.
#pragma once
#include <span>

#include "backends/cpu/linear_int8.h"
#include "backends/cpu/recurrent_step.h"

namespace octavo::cpu {

struct RecurrentInt8 {
  RecurrentMode mode = RecurrentMode::lstm;
  bool reverse = false;  // the last step first
  const LinearInt8* x_layer = nullptr;
  const LinearInt8* h_layer = nullptr;
  // Rows of each step, never more than the step before has: the states of the others stay.
  std::span<const int64_t> sizes;
  const float* x = nullptr;  // [sum of sizes][x_layer->k()]
  float* y = nullptr;        // [sum of sizes][h_layer->k()]
  float* h = nullptr;        // [sizes[0]][h_layer->k()]: the first state in, the last out
  float* c = nullptr;        // lstm
};

// False if x or a state holds NaN or infinity: what is written then means nothing.
bool run_recurrent_int8(const RecurrentInt8& args, ThreadPool& pool);

}  // namespace octavo::cpu
