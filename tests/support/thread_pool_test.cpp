#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "support/team.h"

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

// A team of its own threads, at most two of them, that counts its runs.
std::atomic<int> team_runs{0};
void run_two(int threads, TaskRef body) {
  team_runs++;
  std::vector<std::thread> others;
  for (int t = 1; t < std::min(threads, 2); ++t) others.emplace_back([=] { body(0, t); });
  body(0, 0);
  for (std::thread& other : others) other.join();
}

TEST(ThreadPool, RunsOnATeamThatIsGiven) {
  ThreadPool pool(4);
  const int before = team_runs;
  use_team(run_two);
  for (int64_t count : {2, 7, 1000}) {
    std::vector<std::atomic<int>> hits(static_cast<size_t>(count));
    auto task = [&](int64_t i, int thread) {
      EXPECT_LT(thread, 2);
      hits[static_cast<size_t>(i)]++;
      auto inner = [&](int64_t, int inner_thread) { EXPECT_EQ(inner_thread, 0); };
      pool.run(3, inner);
    };
    pool.run(count, task);
    for (auto& hit : hits) EXPECT_EQ(hit.load(), 1);
  }
  auto bad = [](int64_t i, int) {
    if (i == 3) throw std::runtime_error("three");
  };
  EXPECT_THROW(pool.run(100, bad), std::runtime_error);
  EXPECT_EQ(team_runs - before, 4);
  use_team(nullptr);
  auto task = [](int64_t, int) {};
  pool.run(100, task);
  EXPECT_EQ(team_runs - before, 4);
}

}  // namespace
}  // namespace octavo
