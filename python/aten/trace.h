// Recording of ATen operators, by the dispatch key Fake: below autograd and functionalisation, so
// that what is recorded is functional and includes the backward pass.
//
// A traced tensor has no data. It reports the CPU, so that autograd and composite operators decide
// as on real tensors, and knows its value's number in the graph.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "graph.h"

namespace octavo::aten {

/// The program cannot be traced; eager runs it. The text says why.
struct Untraceable : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Foreach;

/// Records the operators of the thread between construction and destruction. Tracings nest.
class Tracing {
 public:
  Tracing();
  Tracing(const Tracing&) = delete;
  Tracing& operator=(const Tracing&) = delete;
  ~Tracing();

  /// A traced tensor like `example`, the graph's next input.
  at::Tensor input(const at::Tensor& example);
  /// The value that a traced tensor holds now; a real tensor becomes a constant.
  ValueId value(const at::Tensor& tensor);

  Graph& graph() { return graph_; }
  /// Operators whose shape rule ran in Python.
  int python_rules() const { return python_rules_; }

  static Tracing* current();
  void record(const c10::OperatorHandle& op, torch::jit::Stack& stack);

 private:
  at::Tensor traced(at::Tensor twin, ValueId value);
  ValueId add_value(const at::Tensor& like);
  bool record_batch_norm(const c10::OperatorHandle& op, torch::jit::Stack& stack);
  void call(const c10::OperatorHandle& op, torch::jit::Stack& stack);
  void lay_out(Node& node, at::Tensor& made);
  void call_each(const Foreach& each, const c10::OperatorHandle& op, torch::jit::Stack& stack);

  Graph graph_;
  std::uint64_t serial_;
  int python_rules_ = 0;
  struct Tried {
    c10::OperatorHandle op;
    at::Tensor written;  // on meta, with the strides of the tensor that it stands for
  };
  std::optional<Tried> tried_;          // the last operator that functionalisation tried in place
  std::unordered_set<ValueId> relaid_;  // written in place, with strides that are not the tensor's
  std::unordered_map<const c10::TensorImpl*, ValueId> constants_;
  Tracing* outer_;
  c10::impl::IncludeDispatchKeyGuard include_;
};

}  // namespace octavo::aten
