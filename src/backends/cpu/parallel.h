// Loops over the pool. In an anonymous namespace on purpose: each including source gets its own.
#pragma once
#include "support/thread_pool.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

// f(begin, end) over [0, count) in chunks of `grain`, which must not depend on the pool.
template <class F>
void parallel_chunks(ThreadPool& pool, int64_t count, int64_t grain, const F& f) {
  auto task = [&](int64_t i, int) {
    const int64_t begin = i * grain, end = begin + grain;
    f(begin, end < count ? end : count);
  };
  pool.run((count + grain - 1) / grain, task);
}

// f(row, begin, end) over rows cut into chunks, or over groups of whole rows where they are short.
template <class F>
void parallel_rows(ThreadPool& pool, int64_t rows, int64_t length, int64_t grain, const F& f) {
  if (length > grain) {
    const int64_t cuts = (length + grain - 1) / grain;
    auto task = [&](int64_t i, int) {
      const int64_t begin = i % cuts * grain, end = begin + grain;
      f(i / cuts, begin, end < length ? end : length);
    };
    pool.run(rows * cuts, task);
  } else {
    const int64_t group = length > 0 ? grain / length : rows;
    parallel_chunks(pool, rows, group > 0 ? group : 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) f(row, 0, length);
    });
  }
}

}  // namespace
}  // namespace octavo::cpu
