// A small fork-join pool. Workers spin for a bounded time after each job, then sleep, so that two
// pools on the same cores (ours, an OpenMP one) never starve each other for long.
#pragma once
#include <cstdint>
#include <memory>

namespace octavo {

// A reference to a callable; does not own or allocate.
class TaskRef {
 public:
  template <class F>
  TaskRef(F& f)  // NOLINT(google-explicit-constructor): meant to convert a local lambda
      : object_(&f),
        call_([](void* object, int64_t i, int thread) { (*static_cast<F*>(object))(i, thread); }) {}
  void operator()(int64_t i, int thread) const { call_(object_, i, thread); }

 private:
  void* object_;
  void (*call_)(void*, int64_t, int);
};

class ThreadPool {
 public:
  // `threads` workers in all, the calling thread included; 0: OCTAVO_NUM_THREADS, else
  // available_cpus().
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;

  // Calls task(i, thread) once for each i in [0, count), each i on an unspecified thread in
  // [0, size()), taken in increasing order from one shared counter; returns when all are done.
  // Tasks compute in the caller's FloatMode. Allocates nothing. The first exception thrown by a
  // task is rethrown here. Calls from several threads take turns; a call from inside a task runs
  // its tasks on the calling thread.
  void run(int64_t count, TaskRef task);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The pool that library functions use when none is given; made at first use.
ThreadPool& default_pool();

}  // namespace octavo
