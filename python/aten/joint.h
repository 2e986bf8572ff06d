// Forward and backward of a captured graph as one program.
#pragma once

#include <ATen/FunctionalStorageImpl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "../capture/object.h"
#include "graph.h"

namespace octavo::aten {

using ViewMetas = std::vector<std::shared_ptr<at::functionalization::ViewMeta>>;

/// One thing that the captured graph returns.
struct Output {
  enum class Kind : std::uint8_t {
    result,          ///< results[index]
    input,           ///< the input `index` itself
    view_of_input,   ///< `views` of the input `index`, after its write
    view_of_result,  ///< `views`, or none, of results[index], as a view
    object           ///< `object`, whatever it is
  };
  Kind kind = Kind::result;
  std::size_t index = 0;
  ViewMetas views;
  bool requires_grad = false;
  capture::Ref object;
};

/// What the program computes for the outside: an output, what several outputs are views of, or
/// what an input holds afterwards.
struct Result {
  ValueId value = -1;
  bool requires_grad = false;
  std::optional<ValueId> tangent;  ///< its gradient, an input of the graph behind the primals
};

/// After the run the input holds results[result].
struct Write {
  std::size_t input = 0;
  std::size_t result = 0;
  bool differentiable = false;  ///< the input goes on with the result's history
};

/// The part that some results have in the gradient of an inner tensor: a result, or an output that
/// is a view, of which those are made.
struct InnerGradient {
  bool view = false;
  std::size_t index = 0;  ///< of Joint::results, for a view of Joint::outputs
  ValueId gradient = -1;
};

/// The gradients of some results. A result that others are made of has a stage of its own: whoever
/// asks for its gradient, hooks it or goes on from it does so between the stages.
struct Stage {
  std::vector<std::size_t> roots;                 ///< of Joint::results
  std::vector<std::size_t> views;                 ///< inner ones, to be made before
  std::vector<std::optional<ValueId>> gradients;  ///< one per primal
  std::vector<InnerGradient> inner;
  std::size_t first_node = 0, last_node = 0;  ///< of graph.nodes, one past the last
};

struct Joint {
  Graph graph;  ///< inputs: the captured graph's, then tangents
  std::size_t primals = 0;
  std::size_t forward_nodes = 0;  ///< of graph.nodes; the others are the backward pass
  std::vector<Output> outputs;
  std::vector<Result> results;
  std::vector<Write> writes;
  std::vector<Stage> stages;  ///< of a result before those of what is made of it
  int python_rules = 0;
};

/// Traces a call of `forward` (a GraphModule's) on tensors like `inputs`, and where grad mode is
/// on and an input requires grad, its backward pass, for gradients with the results' own strides.
/// Needs the GIL. Throws Untraceable.
Joint trace_joint(PyObject* forward, const std::vector<at::Tensor>& inputs);

}  // namespace octavo::aten
