// A Graph run by torch's own operators, one after the other.
#pragma once

#include <ATen/core/stack.h>

#include <vector>

#include "graph.h"

namespace octavo::aten {

class Replay {
 public:
  explicit Replay(const Graph& graph);

  /// The graph's outputs; then the inputs of Graph::writes hold their new values. Autograd sees
  /// nothing of it. Thread-safe.
  std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs) const;

 private:
  struct Place {
    std::size_t argument;
    std::vector<std::optional<ValueId>> values;
    enum class Form : std::uint8_t { tensor, list, optional_list } form;
  };
  struct Step {
    c10::OperatorHandle op;
    torch::jit::Stack arguments;  // tensors left out
    std::vector<Place> places;
    std::vector<ValueId> outputs;
    std::vector<ValueId> last;  // values that nothing needs afterwards
    std::optional<InPlace> in_place;
  };
  std::size_t values_;
  std::vector<ValueId> inputs_, outputs_;
  std::vector<std::pair<ValueId, at::Tensor>> constants_;
  std::vector<std::pair<std::size_t, ValueId>> writes_;
  std::vector<Step> steps_;
};

}  // namespace octavo::aten
