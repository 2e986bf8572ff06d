#pragma once

// A traced program of ATen operators, compiled: regions that Octavo's ops express run as Octavo's
// own programs, calls that they do not run in torch between them.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "graph.h"

namespace octavo::aten {

class Program {
 public:
  /// What became of the graph's nodes.
  struct Summary {
    std::size_t nodes = 0;    ///< in the graph
    std::size_t lowered = 0;  ///< of them in regions
    std::size_t views = 0;    ///< forms of other tensors, made by torch without a copy
    std::size_t regions = 0;
    std::map<std::string, std::size_t> opaque;   ///< calls of torch, by operator
    std::map<std::string, std::string> refused;  ///< operator: why a region could not be compiled
    std::size_t in_place = 0;                    ///< writes that need no copy
  };

  explicit Program(const Graph& graph);
  ~Program();
  Program(Program&&) noexcept;
  Program& operator=(Program&&) noexcept;

  /// One tensor for each input and output of the graph; then the inputs of Graph::writes hold
  /// their new values. UserError where the inputs are not of the graph's sizes and types. Autograd
  /// sees nothing of it. May be called from several threads.
  std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs) const;

  const Summary& summary() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace octavo::aten
