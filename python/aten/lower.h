#pragma once

// From ATen operators to Octavo's ops: one rule for each operator, in a table for each family.

#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "../torch_dtypes.h"
#include "graph.h"
#include "graph/graph.h"

namespace octavo::aten {

using IrGraph = octavo::Graph;
using IrValue = octavo::Value;

/// What rules ask of the whole graph, found once.
struct Facts {
  explicit Facts(const Graph& source);
  const Graph& graph;
  std::vector<int> uses;                        ///< of each value: by nodes, as outputs, as writes
  std::unordered_map<ValueId, double> numbers;  ///< constants without dimensions
};

/// A node with its arguments by name.
class Call {
 public:
  Call(const Facts& facts, const Node& node) : facts_(facts), graph_(facts.graph), node_(node) {}
  const Node& node() const { return node_; }
  std::string name() const;  ///< "aten::add.Tensor"

  /// The place of an argument in the schema; -1 if there is none of the name.
  int find(std::string_view name) const;
  bool given(std::string_view name) const;  ///< there, and not None
  bool is_tensor(std::string_view name) const;
  ValueId id(std::string_view name) const;
  const ValueInfo& info(std::string_view name) const { return graph_.values[at(id(name))]; }
  const std::vector<std::optional<ValueId>>& list(std::string_view name) const;
  const c10::IValue& constant(std::string_view name) const;

  double real(std::string_view name) const;                   ///< int, float, bool or Scalar
  double real(std::string_view name, double fallback) const;  ///< where None or not there
  std::int64_t integer(std::string_view name) const;
  bool flag(std::string_view name) const;
  std::string text(std::string_view name) const;
  std::vector<std::int64_t> integers(std::string_view name) const;  ///< empty for None

  const ValueInfo& output(std::size_t i = 0) const { return graph_.values[at(node_.outputs[i])]; }
  /// The one number that a constant tensor without dimensions holds; the tensor may be an argument
  /// of any type.
  std::optional<double> number(ValueId value) const;
  const Graph& graph() const { return graph_; }
  bool unused(std::size_t output) const { return facts_.uses[at(node_.outputs[output])] == 0; }
  static std::size_t at(ValueId value) { return static_cast<std::size_t>(value); }

  /// f(value) for each tensor among the arguments.
  template <class F>
  void for_each_tensor(const F& f) const {
    for (const Argument& argument : node_.arguments) {
      if (const auto* value = std::get_if<ValueId>(&argument)) f(*value);
      if (const auto* values = std::get_if<std::vector<std::optional<ValueId>>>(&argument))
        for (const auto& value : *values)
          if (value) f(*value);
    }
  }

 private:
  const Argument* argument(std::string_view name) const;
  const Facts& facts_;
  const Graph& graph_;
  const Node& node_;
};

/// The graph of one region while it is written.
class Lowering {
 public:
  explicit Lowering(IrGraph& graph) : graph_(graph) {}
  IrGraph& graph() { return graph_; }

  void set(ValueId id, IrValue* value) { values_[id] = value; }
  bool has(ValueId id) const { return values_.contains(id); }
  IrValue* get(ValueId id) const { return values_.at(id); }

  /// A tensor argument, as it is.
  IrValue* tensor(const Call& call, std::string_view name) const { return get(call.id(name)); }
  /// A tensor or a number as f32; a number has no dimensions.
  IrValue* f32(const Call& call, std::string_view name);
  IrValue* f32(const Call& call, ValueId value);
  IrValue* scalar(double value);
  IrValue* apply(std::string_view op, std::vector<IrValue*> inputs, Attributes attributes = {}) {
    return graph_.apply(op, std::move(inputs), std::move(attributes));
  }
  IrValue* add(IrValue* a, IrValue* b) { return apply("add", {a, b}); }
  IrValue* sub(IrValue* a, IrValue* b) { return apply("sub", {a, b}); }
  IrValue* mul(IrValue* a, IrValue* b) { return apply("mul", {a, b}); }
  IrValue* mul(IrValue* a, double b) { return b == 1 ? a : mul(a, scalar(b)); }
  IrValue* add(IrValue* a, double b) { return b == 0 ? a : add(a, scalar(b)); }
  IrValue* div(IrValue* a, IrValue* b) { return apply("div", {a, b}); }
  IrValue* where(IrValue* condition, IrValue* yes, IrValue* no) {
    return apply("where", {condition, yes, no});
  }
  IrValue* reshape(IrValue* x, const std::vector<std::int64_t>& sizes);
  IrValue* expand(IrValue* x, const std::vector<std::int64_t>& sizes);
  IrValue* transpose(IrValue* x, std::vector<std::int64_t> perm);
  IrValue* swap_last(IrValue* x);  ///< the last two axes
  IrValue* reduce(std::string_view op, IrValue* x, std::vector<std::int64_t> axes, bool keep);
  IrValue* cast(IrValue* x, DType to);
  static std::vector<std::int64_t> sizes(const IrValue* x) { return x->shape().dims(); }

 private:
  IrGraph& graph_;
  std::unordered_map<ValueId, IrValue*> values_;
  std::vector<std::pair<double, IrValue*>> scalars_;
};

struct Rule {
  std::string_view name;
  /// Whether Octavo's ops can express the call.
  bool (*accepts)(const Call&);
  /// Writes it; one value for each output, null for those that `accepts` found unused.
  std::vector<IrValue*> (*lower)(Lowering&, const Call&);
  /// The result is the input's memory in another form: torch can make it without a copy.
  bool view = false;
};

std::span<const Rule> pointwise_rules();
std::span<const Rule> matmul_rules();
std::span<const Rule> shape_rules();
std::span<const Rule> reduce_rules();
std::span<const Rule> backward_rules();
std::span<const Rule> nn_rules();
std::span<const Rule> attention_rules();
std::span<const Rule> batch_norm_rules();

/// Null where the operator has no rule.
const Rule* find_rule(const c10::OperatorHandle& op);

// ---- what rules accept

/// Every tensor argument is float32, or stands for a number; so are all outputs.
bool floats(const Call& call);
/// The tensors are of types whose elements can be moved.
bool movable(const Call& call);
/// May stand for a float32 operand.
bool float_operand(const Call& call, ValueId value);
bool is_f32(const ValueInfo& info);

/// The axis in [0, rank).
std::int64_t wrap(std::int64_t axis, std::size_t rank);

}  // namespace octavo::aten
