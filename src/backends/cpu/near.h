// Runs tasks so that a thread's tasks are neighbours: each thread takes from a share of its own, in
// order, and from others' when that is empty. Layers that split their work alike then find in a
// core's cache what the layer before left there.
#pragma once
#include <atomic>

#include "support/thread_pool.h"

namespace octavo::cpu {

template <class F>  // void(int64_t i, int thread)
void run_near(ThreadPool& pool, int64_t count, F&& task) {
  constexpr int most = 32;
  const int threads = pool.size();
  if (threads == 1 || threads > most || count <= 1) {
    pool.run(count, task);
    return;
  }
  struct alignas(64) Share {
    std::atomic<int64_t> next;
    int64_t end;
  };
  Share shares[most];
  for (int t = 0; t < threads; ++t) {
    shares[t].next.store(count * t / threads, std::memory_order_relaxed);
    shares[t].end = count * (t + 1) / threads;
  }
  // As many calls as tasks, so each call finds one.
  auto call = [&](int64_t, int thread) {
    for (int t = thread;; t = t + 1 == threads ? 0 : t + 1) {
      Share& share = shares[t];
      if (share.next.load(std::memory_order_relaxed) >= share.end) continue;
      const int64_t i = share.next.fetch_add(1, std::memory_order_relaxed);
      if (i < share.end) return task(i, thread);
    }
  };
  pool.run(count, call);
}

}  // namespace octavo::cpu
