#include "support/thread_pool.h"

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "support/cpu.h"
#include "support/env.h"
#include "support/error.h"
#include "support/float_mode.h"
#include "support/team.h"

namespace octavo {
namespace {

constexpr int spin_turns = 4000;  // about 50 to 150 µs of _mm_pause, then sleep
thread_local bool inside_task = false;
std::atomic<TeamRun> team_run{nullptr};

int requested_threads(int threads) {
  if (threads > 0) return threads;
  const std::string text = env_string("OCTAVO_NUM_THREADS", "");
  if (text.empty()) return available_cpus();
  try {
    size_t end = 0;
    const int value = std::stoi(text, &end);
    if (end == text.size() && value >= 1 && value <= 1024) return value;
  } catch (const std::exception&) {  // falls through to the error below
  }
  throw UserError(ErrorKind::value, "OCTAVO_NUM_THREADS",
                  fmt::format("'{}' is not a whole number from 1 to 1024", text));
}

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> workers;
  std::mutex turn;  // one job at a time

  // The job: published by bumping `epoch` after the fields are written.
  alignas(64) std::atomic<uint64_t> epoch{0};
  const TaskRef* task = nullptr;
  int64_t count = 0;
  FloatMode mode;  // the caller's
  alignas(64) std::atomic<int64_t> next{0};
  // The job's number, whether workers may still join it, and how many are in it: a worker that was
  // not running when the job began is not waited for.
  static constexpr uint64_t open = 1ULL << 31, one_job = 1ULL << 32, inside = open - 1;
  alignas(64) std::atomic<uint64_t> gate{0};
  std::atomic<bool> stop{false};
  std::exception_ptr error;
  std::atomic<bool> failed{false};

  std::mutex sleep_mutex;
  std::condition_variable wake;
  std::atomic<int> sleeping{0};

  void work(int thread) {
    const KeepFloatMode keep;
    mode.apply();
    inside_task = true;
    try {
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;)
        (*task)(i, thread);
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
      next.store(count, std::memory_order_relaxed);
    }
    inside_task = false;
  }

  void rethrow() {
    if (failed.load()) std::rethrow_exception(std::exchange(error, nullptr));
  }

  void worker(int thread) {
    uint64_t seen = 0;
    for (;;) {
      for (int turns = 0; epoch.load(std::memory_order_acquire) == seen && turns < spin_turns;
           ++turns)
        _mm_pause();
      if (epoch.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(sleep_mutex);
        sleeping.fetch_add(1);
        wake.wait(lock, [&] { return epoch.load(std::memory_order_seq_cst) != seen; });
        sleeping.fetch_sub(1);
      }
      seen = epoch.load(std::memory_order_acquire);
      if (stop.load()) return;
      if (!join()) continue;
      work(thread);
      gate.fetch_sub(1, std::memory_order_release);
    }
  }

  bool join() {
    uint64_t value = gate.load(std::memory_order_acquire);
    while (value & open)
      if (gate.compare_exchange_weak(value, value + 1, std::memory_order_acq_rel)) return true;
    return false;
  }

  void publish() {
    epoch.fetch_add(1, std::memory_order_seq_cst);
    if (sleeping.load(std::memory_order_seq_cst) > 0) {
      const std::lock_guard lock(sleep_mutex);
      wake.notify_all();
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  const int count = requested_threads(threads);
  for (int i = 1; i < count; ++i) state_->workers.emplace_back([this, i] { state_->worker(i); });
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true);
  state_->publish();
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::size() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::run(int64_t count, TaskRef task) {
  if (count <= 0) return;
  State& s = *state_;
  if (count == 1 || s.workers.empty() || inside_task) {
    for (int64_t i = 0; i < count; ++i) task(i, 0);
    return;
  }
  const std::lock_guard turn(s.turn);
  s.task = &task;
  s.count = count;
  s.mode = FloatMode();
  s.failed.store(false);
  s.next.store(0, std::memory_order_relaxed);
  if (const TeamRun team = team_run.load(std::memory_order_acquire)) {
    auto work = [&s](int64_t, int thread) { s.work(thread); };
    team(static_cast<int>(std::min<int64_t>(size(), count)), work);
    s.rethrow();
    return;
  }
  const uint64_t last = s.gate.load(std::memory_order_relaxed) & ~State::open;
  s.gate.store(last + State::one_job + State::open, std::memory_order_release);
  s.publish();
  s.work(0);
  s.gate.fetch_and(~State::open, std::memory_order_acq_rel);
  for (int turns = 0; (s.gate.load(std::memory_order_acquire) & State::inside) > 0;) {
    _mm_pause();
    if (++turns == spin_turns) {  // a worker lost its core: give ours away
      std::this_thread::yield();
      turns = 0;
    }
  }
  s.rethrow();
}

void use_team(TeamRun run) { team_run.store(run, std::memory_order_release); }

ThreadPool& default_pool() {
  static ThreadPool pool;
  return pool;
}

}  // namespace octavo
