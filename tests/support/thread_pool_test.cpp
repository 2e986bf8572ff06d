#include "support/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

namespace octavo {
namespace {

TEST(ThreadPool, RunsEveryIndexOnceForEverySize) {
  for (int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    for (int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> hits(static_cast<size_t>(count));
      auto task = [&](int64_t i, int thread) {
        EXPECT_LT(thread, threads);
        hits[static_cast<size_t>(i)]++;
      };
      pool.run(count, task);
      for (auto& hit : hits) EXPECT_EQ(hit.load(), 1);
    }
  }
}

TEST(ThreadPool, RethrowsATasksExceptionAndStaysUsable) {
  ThreadPool pool(2);
  auto bad = [](int64_t i, int) {
    if (i == 3) throw std::runtime_error("three");
  };
  EXPECT_THROW(pool.run(100, bad), std::runtime_error);
  std::atomic<int> sum{0};
  auto good = [&](int64_t i, int) { sum += static_cast<int>(i); };
  pool.run(100, good);
  EXPECT_EQ(sum.load(), 4950);
}

TEST(ThreadPool, NestedCallsRunOnTheCallingThread) {
  ThreadPool pool(2);
  std::atomic<int> calls{0};
  auto inner = [&](int64_t, int) { calls++; };
  auto outer = [&](int64_t, int) { pool.run(10, inner); };
  pool.run(10, outer);
  EXPECT_EQ(calls.load(), 100);
}

TEST(ThreadPool, CallersFromManyThreadsTakeTurns) {
  ThreadPool pool(2);
  std::atomic<int> calls{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 4; ++t)
    callers.emplace_back([&] {
      for (int n = 0; n < 200; ++n) {
        auto task = [&](int64_t, int) { calls++; };
        pool.run(8, task);
      }
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(calls.load(), 4 * 200 * 8);
}

}  // namespace
}  // namespace octavo
