// What a graph that raises has changed, put back: Python then runs the code instead, so that the
// error comes from the instruction that makes it, inside its own `try`, with the effects before it.
#pragma once
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/edge.h>

#include <optional>
#include <vector>

#include "graph.h"
#include "source.h"

namespace octavo::capture {

// How a graph can fail half done.
struct Risk {
  // An operator whose kernel may refuse what the shape rule took stands at or behind a write. What
  // it refuses depends on types and sizes, which the guards hold: once it ran, it runs.
  bool by_type = false;
  // One that looks at values, as an index does, stands at or behind a write.
  bool by_value = false;
  // One that looks at values, anywhere: the random state may have moved when it fails.
  bool looks_at_values = false;
};
// Not `in_order`: the backend may run the graph in another order than Python would.
Risk risk_of(const Graph& graph, bool in_order);

// Among the piece's inputs is one of inference mode.
bool reads_inference_tensors(const Sources& sources);

// The tensors that a graph writes into, and the random state, as they were before it.
class Before {
 public:
  void keep_tensor(const at::Tensor& tensor);
  bool keeps_tensors() const { return !tensors_.empty(); }
  void keep_random_state();
  bool random_state_moved() const;
  void put_back() const;

 private:
  struct Kept {
    at::Tensor tensor, values;
    std::vector<int64_t> sizes, strides;
    int64_t offset, version;
    bool requires_grad;
    torch::autograd::Edge edge;
  };
  void keep_history(const at::Tensor& tensor, Kept& kept);
  std::vector<Kept> tensors_;
  at::Tensor random_state_;
};

}  // namespace octavo::capture
