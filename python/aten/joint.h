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
    view_of_result,  ///< `views` of results[index]
    object           ///< `object`, whatever it is
  };
  Kind kind = Kind::result;
  std::size_t index = 0;
  ViewMetas views;
  bool requires_grad = false;
  bool view = false;  ///< of a tensor that does not come out: torch lets less be done to it
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

struct Joint {
  Graph graph;  ///< inputs: the captured graph's, then tangents
  std::size_t primals = 0;
  std::size_t forward_nodes = 0;  ///< of graph.nodes; the others are the backward pass
  std::vector<Output> outputs;
  std::vector<Result> results;
  std::vector<Write> writes;
  std::vector<std::optional<ValueId>> gradients;  ///< one per primal
  int python_rules = 0;
};

/// The incoming gradient of a result: absent (undefined), or with these strides.
struct TangentForm {
  bool defined = true;
  std::vector<std::int64_t> strides;  ///< empty: the result's own
  bool operator==(const TangentForm&) const = default;
};

/// Traces a call of `forward` (a GraphModule's) on tensors like `inputs`, and where grad mode is
/// on and an input requires grad, its backward pass; `tangents` has one entry for each result that
/// requires grad, or is empty for gradients as the results are. Needs the GIL.
/// Throws Untraceable.
Joint trace_joint(PyObject* forward, const std::vector<at::Tensor>& inputs,
                  const std::vector<TangentForm>& tangents = {});

}  // namespace octavo::aten
