// recurrent_step.h over a `Vec` of vec_*.h, which must come first.
#pragma once
#include "backends/cpu/parallel.h"
#include "backends/cpu/recurrent_step.h"
#include "backends/cpu/vec_math.h"
#include "backends/cpu/vec_parts.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

// f(gate, h, at, n): the state behind h at element `at` of a row's memory; gate(i) is x's and h's
// part of gate i.
template <class F>
void recurrent_rows(const RecurrentStep& s, int64_t gates, ThreadPool& pool, const F& f) {
  parallel_rows(pool, s.rows, s.width, 4096, [&](int64_t row, int64_t begin, int64_t end) {
    const float* x = s.x_gates + row * gates * s.width;
    const float* from_h = s.h_gates + row * gates * s.width;
    for_vectors(begin, end, [&](int64_t i, int n) {
      const int64_t at = row * s.width + i;
      const auto x_part = [&](int gate) { return load_part(x + gate * s.width + i, n); };
      const auto h_part = [&](int gate) { return load_part(from_h + gate * s.width + i, n); };
      const VecF h = f(x_part, h_part, at, n);
      store_part(s.h + at, h, n);
      store_part(s.y + at, h, n);
    });
  });
}

void recurrent_step(const RecurrentStep& s, ThreadPool& pool) {
  const auto sum = [](const auto& x, const auto& h, int gate) {
    return Vec::add(x(gate), h(gate));
  };
  switch (s.mode) {
    case RecurrentMode::lstm:
      return recurrent_rows(s, 4, pool, [&](const auto& x, const auto& h, int64_t at, int n) {
        const VecF kept = Vec::mul(sigmoid_f32(sum(x, h, 1)), load_part(s.c + at, n));
        const VecF taken = Vec::mul(sigmoid_f32(sum(x, h, 0)), tanh_f32(sum(x, h, 2)));
        const VecF c = Vec::add(kept, taken);
        store_part(s.c + at, c, n);
        return Vec::mul(sigmoid_f32(sum(x, h, 3)), tanh_f32(c));
      });
    case RecurrentMode::gru:
      return recurrent_rows(s, 3, pool, [&](const auto& x, const auto& h, int64_t at, int n) {
        const VecF r = sigmoid_f32(sum(x, h, 0)), z = sigmoid_f32(sum(x, h, 1));
        const VecF fresh = tanh_f32(Vec::add(x(2), Vec::mul(r, h(2))));
        return Vec::add(fresh, Vec::mul(z, Vec::sub(load_part(s.h + at, n), fresh)));
      });
    case RecurrentMode::tanh:
      return recurrent_rows(s, 1, pool, [&](const auto& x, const auto& h, int64_t, int) {
        return tanh_f32(sum(x, h, 0));
      });
    case RecurrentMode::relu:
      return recurrent_rows(s, 1, pool, [&](const auto& x, const auto& h, int64_t, int) {
        return Vec::max(Vec::set(0), sum(x, h, 0));
      });
  }
}

}  // namespace
}  // namespace octavo::cpu
