// What follows the two products of a step of a recurrent layer: gates and states. ops.def's lstm,
// gru and rnn with their usual functions; each operation is one float32 rounding, sigmoid and tanh
// are elementwise.h's.
#pragma once
#include "backends/cpu/kernel_list.h"

namespace octavo::cpu {

//   lstm  gates i, f, g, o: c = sigmoid(f) c + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c)
//   gru   gates r, z, n:    n = tanh(x_n + sigmoid(r) h_n), h = n + sigmoid(z) (h - n)
//   tanh, relu              h = f(x + h)
enum class RecurrentMode : uint8_t { lstm, gru, tanh, relu };

struct RecurrentStep {
  RecurrentMode mode = RecurrentMode::lstm;
  int64_t rows = 0, width = 0;
  const float* x_gates = nullptr;  // [rows][gate][width]
  const float* h_gates = nullptr;
  float* h = nullptr;  // [rows][width]: in and out
  float* c = nullptr;  // lstm
  float* y = nullptr;  // a copy of h
};
KernelList<RecurrentStep> recurrent_step_kernels();

constexpr int64_t recurrent_gates(RecurrentMode mode) {
  return mode == RecurrentMode::lstm ? 4 : mode == RecurrentMode::gru ? 3 : 1;
}

}  // namespace octavo::cpu
