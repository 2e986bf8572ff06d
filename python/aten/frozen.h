// A program without gradients whose weights are constants, packed once: a module's parameters and
// buffers while nobody writes to them. What was written since the last call is found before the
// program runs, which is then made anew.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <vector>

#include "program.h"
#include "write_watch.h"

namespace octavo::aten {

class Frozen {
 public:
  /// `held`: for each input, whether a module holds it. `graph` must outlive this.
  Frozen(const Graph& graph, std::vector<bool> held) : graph_(graph), held_(std::move(held)) {}

  /// The program for these inputs, and in `others` those of them that it takes. Null where there
  /// is none: nothing can be held constant, or weights change too often for it to pay.
  std::shared_ptr<const Program> program(const std::vector<at::Tensor>& inputs,
                                         std::vector<at::Tensor>& others);
  /// Of the program that was made last.
  Program::Summary summary() const;
  std::size_t constants() const;  ///< inputs that are constants of it
  std::size_t made() const;       ///< programs made so far

 private:
  struct Weight {
    std::size_t input;
    std::int64_t offset;
    WriteWatch watch;
  };
  struct Made {
    std::shared_ptr<const Program> program;
    std::vector<Weight> weights;
    std::vector<std::size_t> others;
  };
  static bool holds(const Made& made, const std::vector<at::Tensor>& inputs);
  std::shared_ptr<const Made> make(const std::vector<at::Tensor>& inputs) const;

  using Clock = std::chrono::steady_clock;
  const Graph& graph_;
  const std::vector<bool> held_;
  mutable std::mutex mutex_;
  std::shared_ptr<const Made> made_;
  bool given_up_ = false;
  int short_lives_ = 0;  // programs that were hardly used, one after the other
  std::size_t count_ = 0;
  Clock::time_point made_at_;
  Clock::duration making_{};
};

}  // namespace octavo::aten
