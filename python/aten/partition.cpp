#include "partition.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <unordered_map>

namespace octavo::aten {
namespace {

template <class F>
void each_value(const Node& node, const F& visit) {
  for (const Argument& argument : node.arguments) {
    if (const auto* value = std::get_if<ValueId>(&argument)) visit(*value);
    if (const auto* list = std::get_if<std::vector<std::optional<ValueId>>>(&argument))
      for (const auto& item : *list)
        if (item) visit(*item);
  }
}

// The first argument's memory in another form.
bool is_view(const Node& node) {
  const auto& schema = node.op.schema();
  if (schema.arguments().empty() || schema.returns().size() != 1) return false;
  const auto* alias = schema.arguments()[0].alias_info();
  return alias && !alias->isWrite() && schema.returns()[0].alias_info();
}

// Parts of the names of operators that look at values, and raise for some; capture/rollback.cpp has
// such a list for the names in FX graphs.
constexpr std::string_view value_words[] = {
    "index",     "gather", "scatter", "take",     "embedding", "nll_loss", "cross_entropy",
    "bincount",  "repeat", "solve",   "linalg",   "inverse",   "cholesky", "lu_unpack",
    "histc",     "unpool", "margin",  "ctc",      "assert",    "one_hot",  "floor_divide",
    "remainder", "fmod",   "segment", "put",      "geqrf",     "lstsq",    "eig",
    "bernoulli", "binary", "svd",     "_lu_with", "ldl",       "ormqr",    "triangular"};

// An operator that may raise, for values or for types that its shape rule does not look at: it
// runs even where nothing reads what it gives.
bool may_raise(const Graph& graph, const Node& node) {
  if (is_view(node)) return false;
  const std::string& name = node.op.operator_name().name;
  if (std::any_of(std::begin(value_words), std::end(value_words),
                  [&](std::string_view word) { return name.find(word) != std::string::npos; }))
    return true;
  for (const char* any_type : {"add", "sub", "mul", "eq", "ne", "lt", "le", "gt", "ge", "where",
                               "logical_and", "logical_or", "logical_not", "clone", "_to_copy"})
    if (name == std::string("aten::") + any_type) return false;
  std::optional<at::ScalarType> first;
  bool plain = true;
  each_value(node, [&](ValueId value) {
    const at::ScalarType dtype = graph.values[static_cast<std::size_t>(value)].dtype;
    plain = plain && at::isFloatingType(dtype) && first.value_or(dtype) == dtype;
    first = dtype;
  });
  return !plain;
}

class Partition {
 public:
  explicit Partition(const Joint& joint)
      : joint_(joint), graph_(joint.graph), maker_(graph_.values.size(), -1) {
    for (std::size_t n = 0; n < graph_.nodes.size(); ++n)
      for (const ValueId output : graph_.nodes[n].outputs) maker_[at(output)] = static_cast<int>(n);
  }

  Programs run() {
    std::vector<ValueId> results;
    for (const Result& result : joint_.results) results.push_back(result.value);
    const bool in_place = may_write_in_place();
    std::vector<std::size_t> returned = returned_results(in_place);
    Programs programs;
    for (const Stage& stage : joint_.stages) programs.backward.push_back(backward_of(stage));

    std::vector<bool> forward(graph_.nodes.size());
    for (std::size_t n = 0; n < joint_.forward_nodes; ++n)
      if (is_random(graph_.nodes[n].op) || may_raise(graph_, graph_.nodes[n]))
        take(n, forward, false);
    for (const ValueId result : results) need(result, forward, false);
    for (const ValueId value : saved_) need(value, forward, false);
    std::vector<ValueId> outputs;
    outputs.reserve(returned.size() + saved_.size());
    for (const std::size_t n : returned) outputs.push_back(results[n]);
    outputs.insert(outputs.end(), saved_.begin(), saved_.end());

    programs.forward =
        extract(forward, {graph_.inputs.begin(), graph_.inputs.begin() + long(joint_.primals)},
                outputs, in_place);
    programs.saved = saved_.size();
    programs.returned = std::move(returned);
    programs.writes_in_place = in_place;
    return programs;
  }

 private:
  static std::size_t at(ValueId value) { return static_cast<std::size_t>(value); }

  BackwardProgram backward_of(const Stage& stage) {
    needs_ = {};
    std::vector<ValueId> gradients;
    for (const auto& gradient : stage.gradients)
      if (gradient) gradients.push_back(*gradient);
    for (const InnerGradient& inner : stage.inner) gradients.push_back(inner.gradient);
    std::vector<bool> taken(graph_.nodes.size());
    for (std::size_t n = stage.first_node; n < stage.last_node; ++n)
      if (is_random(graph_.nodes[n].op)) take(n, taken, true);
    for (const ValueId gradient : gradients) need(gradient, taken, true);
    std::vector<ValueId> given;
    for (const std::size_t primal : needs_.saved_inputs) given.push_back(graph_.inputs[primal]);
    for (const std::size_t saved : needs_.saved) given.push_back(saved_[saved]);
    for (const std::size_t root : stage.roots) given.push_back(*joint_.results[root].tangent);
    needs_.graph = extract(taken, given, gradients);
    return std::move(needs_);
  }

  // Without a backward pass nothing needs what the inputs held before. Results that may lie in an
  // input's memory have to be kept apart from it first.
  bool may_write_in_place() const {
    if (joint_.writes.empty()) return false;
    for (const Result& result : joint_.results) {
      if (result.requires_grad) return false;
      const int maker = maker_[at(result.value)];
      if (maker < 0 || is_view(graph_.nodes[static_cast<std::size_t>(maker)])) return false;
    }
    return true;
  }

  std::vector<std::size_t> returned_results(bool in_place) const {
    std::vector<bool> wanted(joint_.results.size(), !in_place);
    for (const Output& output : joint_.outputs)
      if (output.kind == Output::Kind::result || output.kind == Output::Kind::view_of_result)
        wanted[output.index] = true;
    std::vector<std::size_t> returned;
    for (std::size_t n = 0; n < wanted.size(); ++n)
      if (wanted[n]) returned.push_back(n);
    return returned;
  }

  // Where the item is, now if not before.
  template <class Item>
  static std::size_t add(std::vector<Item>& items, Item item) {
    const auto at = std::find(items.begin(), items.end(), item);
    const auto place = static_cast<std::size_t>(at - items.begin());
    if (at == items.end()) items.push_back(item);
    return place;
  }

  void take(std::size_t node, std::vector<bool>& taken, bool backward) {
    if (taken[node]) return;
    taken[node] = true;
    each_value(graph_.nodes[node], [&](ValueId value) { need(value, taken, backward); });
  }

  // `backward`: values of the forward pass are saved, views of them made again.
  void need(ValueId value, std::vector<bool>& taken, bool backward) {
    const int maker = maker_[at(value)];
    if (maker < 0) {
      const auto primals = graph_.inputs.begin() + long(joint_.primals);
      const auto input = std::find(graph_.inputs.begin(), primals, value);
      if (backward && input != primals) {
        const auto place = static_cast<std::size_t>(input - graph_.inputs.begin());
        add(needs_.saved_inputs, place);
      }
      return;
    }
    const auto node = static_cast<std::size_t>(maker);
    if (backward && node < joint_.forward_nodes && !is_view(graph_.nodes[node])) {
      add(needs_.saved, add(saved_, value));
      return;
    }
    take(node, taken, backward);
  }

  Graph extract(const std::vector<bool>& taken, const std::vector<ValueId>& inputs,
                const std::vector<ValueId>& outputs, bool with_writes = false) const {
    Graph made;
    std::vector<ValueId> renamed(graph_.values.size(), -1);
    const auto name = [&](ValueId value) {
      ValueId& now = renamed[at(value)];
      if (now >= 0) return now;
      now = static_cast<ValueId>(made.values.size());
      made.values.push_back(graph_.values[at(value)]);
      return now;
    };
    for (const ValueId input : inputs) made.inputs.push_back(name(input));
    std::unordered_map<ValueId, const at::Tensor*> constants;
    for (const auto& [value, tensor] : graph_.constants) constants[value] = &tensor;
    const auto use = [&](ValueId value) {
      const auto constant = constants.find(value);
      const bool fresh = renamed[at(value)] < 0;
      const ValueId now = name(value);
      if (fresh && constant != constants.end()) made.constants.emplace_back(now, *constant->second);
      return now;
    };
    for (std::size_t n = 0; n < graph_.nodes.size(); ++n) {
      if (!taken[n]) continue;
      Node node = graph_.nodes[n];
      for (Argument& argument : node.arguments) {
        if (auto* value = std::get_if<ValueId>(&argument)) *value = use(*value);
        if (auto* list = std::get_if<std::vector<std::optional<ValueId>>>(&argument))
          for (auto& item : *list)
            if (item) *item = use(*item);
      }
      for (ValueId& output : node.outputs) output = name(output);
      made.nodes.push_back(std::move(node));
    }
    for (const ValueId output : outputs) made.outputs.push_back(use(output));
    if (with_writes)
      for (const Write& write : joint_.writes)
        made.writes.emplace_back(write.input, use(joint_.results[write.result].value));
    return made;
  }

  const Joint& joint_;
  const Graph& graph_;
  std::vector<int> maker_;
  std::vector<ValueId> saved_;  // by any stage
  BackwardProgram needs_;       // of the stage at hand
};

}  // namespace

Programs partition(const Joint& joint) { return Partition(joint).run(); }

}  // namespace octavo::aten
