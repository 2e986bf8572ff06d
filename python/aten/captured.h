// A captured graph as a callable: forward by one program, backward by another.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../capture/object.h"

namespace octavo::aten {

class Captured {
 public:
  /// Traces `forward` on tensors like the examples. What cannot be traced is left to torch, and
  /// `reason` says why. `held`: for each example, whether it is a module's parameter or buffer,
  /// which are constants of a program without gradients while nobody writes to them. Needs the GIL.
  Captured(capture::Ref forward, const capture::Ref& examples, std::vector<bool> held);
  ~Captured();

  /// The graph's outputs, a tuple. Needs the GIL.
  capture::Ref call(PyObject* const* args, std::size_t count) const;

  const std::string& reason() const { return reason_; }
  std::size_t forward_ops() const;
  std::size_t backward_ops() const;
  std::size_t stages() const;  // programs of the backward pass
  std::size_t saved() const;
  std::string replayed() const;   // why torch runs each operator of a program by itself, if it does
  std::size_t lowered() const;    // operators that are Octavo's own
  std::size_t in_place() const;   // inputs that the program writes without a copy
  std::size_t constants() const;  // inputs that are constants of the program
  std::size_t regions() const;    // programs of Octavo's that they lie in
  std::map<std::string, std::size_t> opaque() const;  // calls of torch, by operator
  int python_rules() const;

  struct State;

 private:
  template <class F>
  void each_runner(const F& visit) const;
  bool fits(const std::vector<at::Tensor>& inputs) const;
  bool written_input_shares_memory(const std::vector<at::Tensor>& inputs) const;

  capture::Ref forward_;
  std::string reason_;
  std::shared_ptr<const State> state_;
};

}  // namespace octavo::aten
