#include "graph/verify.h"

#include <cmath>
#include <unordered_set>
#include <utility>

#include "graph/op_def.h"
#include "support/error.h"

namespace octavo {
namespace {

std::string label(const Value* value) {
  if (!value->name().empty()) return fmt::format("value '{}'", value->name());
  return value->producer() ? "the output of " + value->producer()->where() : "an unnamed value";
}

class Verifier {
  // What was met of a value, so far.
  struct Known {
    bool defined = false;
    size_t uses = 0;
  };

 public:
  Verifier(const Graph& graph, Stage stage) : graph_(graph), stage_(stage) {}

  std::vector<std::string> run() {
    known_.reserve(2 * graph_.node_count());
    nodes_.reserve(graph_.node_count());
    for (const Value* input : graph_.inputs()) define(input, nullptr);
    for (const Value* constant : graph_.constants()) {
      define(constant, nullptr);
      if (!(constant->type() == constant->constant().type()))
        fail(label(constant),
             fmt::format("its type {} is not its tensor's {}", constant->type().str(),
                         constant->constant().type().str()));
    }
    if (check_list())
      for (Node* node = graph_.first(); node; node = node->next()) check_node(*node);
    check_uses();
    if (graph_.outputs().empty()) fail("graph", "it has no outputs");
    for (const Value* output : graph_.outputs())
      if (!output || !known_[output].defined)
        fail("graph", "an output is not a value of this graph");
    return std::move(found_);
  }

 private:
  void fail(const std::string& where, const std::string& rule) {
    found_.push_back(where + ": " + rule);
  }
  void fail(const Node& node, const std::string& rule) { fail(node.where(), rule); }

  void define(const Value* value, const Node* producer) {
    if (std::exchange(known_[value].defined, true)) fail(label(value), "it is defined twice");
    if (value->producer() != producer) fail(label(value), "it names another producer");
    if (!value->name().empty() && graph_.find_value(value->name()) != value)
      fail(label(value), "its name is not unique, or not known to the graph");
    for (const Dim& dim : value->shape())
      if (!dim.is_static() && dim.symbol().empty())
        fail(label(value), "a dimension is neither a number nor a symbol");
  }

  // The links of the node list; what follows must end.
  bool check_list() {
    const Node* previous = nullptr;
    size_t count = 0;
    for (const Node* node = graph_.first(); node; previous = node, node = node->next()) {
      if (node->previous() != previous || ++count > graph_.node_count()) {
        fail("graph", "the list of nodes is broken");
        return false;
      }
    }
    if (count == graph_.node_count() && graph_.last() == previous) return true;
    fail("graph", "the list of nodes is broken");
    return false;
  }

  void check_node(const Node& node) {
    nodes_.insert(&node);
    const OpDef& op = node.op();
    if (!allowed_in(op.stage, stage_))
      fail(node, fmt::format("{} is an op of the {} stage, the graph is {}", op.name,
                             stage_name(op.stage), stage_name(stage_)));

    bool sound = check_inputs(node);
    sound = check_attributes(node) && sound;
    if (sound) check_types(node);  // shape functions rely on inputs and attributes
    for (size_t i = 0; i < node.outputs().size(); ++i) {
      const Value* output = node.output(i);
      define(output, &node);
      if (output->output_index() != i) fail(node, fmt::format("output {} has another index", i));
      if (output->is_constant()) fail(node, "an output is a constant");
    }
    if (sound && op.kind == OpKind::quantization && stage_ != Stage::captured)
      check_quantization(node);
  }

  bool check_inputs(const Node& node) {
    const size_t before = found_.size();
    const OpImpl& impl = *node.op().impl;
    size_t count = node.inputs().size();
    while (count > 0 && !node.input(count - 1)) --count;
    if (count < impl.min_inputs || count > impl.max_inputs)
      fail(node, fmt::format("it has {} inputs instead of {} to {}", count, impl.min_inputs,
                             impl.max_inputs));
    for (size_t i = 0; i < node.inputs().size(); ++i) {
      const Value* input = node.input(i);
      if (!input) {
        if (i < impl.min_inputs) fail(node, fmt::format("input {} is missing", i));
        continue;
      }
      Known& known = known_[input];
      ++known.uses;
      if (!known.defined)
        fail(node, fmt::format("input {} is defined after it, or not in this graph", i));
    }
    return found_.size() == before;
  }

  bool check_attributes(const Node& node) {
    const size_t before = found_.size();
    for (const auto& [name, value] : node.attributes()) {
      const AttributeSpec* spec = node.op().attribute(name);
      if (!spec)
        fail(node, fmt::format("attribute '{}' is unknown", name));
      else if (static_cast<size_t>(spec->kind) != value.index())
        fail(node, fmt::format("attribute '{}' is {} instead of {}", name,
                               attribute_kind_name(static_cast<AttributeKind>(value.index())),
                               attribute_kind_name(spec->kind)));
    }
    for (const AttributeSpec& spec : node.op().impl->attributes)
      if (spec.required && !node.has(spec.name))
        fail(node, fmt::format("attribute '{}' is missing", spec.name));
    return found_.size() == before;
  }

  void check_types(const Node& node) {
    std::vector<TensorType> types;
    try {
      types = node.op().impl->infer(node);
    } catch (const std::exception& e) {
      fail(node, fmt::format("its types cannot be inferred: {}", e.what()));
      return;
    }
    if (types.size() != node.outputs().size()) {
      fail(node,
           fmt::format("it has {} outputs instead of {}", node.outputs().size(), types.size()));
      return;
    }
    for (size_t i = 0; i < types.size(); ++i)  // or as text: ? is equal to ? there
      if (const auto& type = node.output(i)->type();
          !(type == types[i]) && type.str() != types[i].str())
        fail(node, fmt::format("output {} is {} instead of {}", i, type.str(), types[i].str()));
  }

  void check_quantization(const Node& node) {
    const Value *scale = node.input(1), *zero = node.input(2);
    if (scale && scale->is_constant())
      for (const double s : scale->constant().to_doubles())
        if (!(s > 0 && std::isfinite(s))) {
          fail(node, fmt::format("the scale {} is not positive and finite", s));
          break;
        }
    if (!zero) return;
    if (!is_integer(zero->dtype())) {
      fail(node, "the zero point is no integer");
      return;
    }
    if (!zero->is_constant()) return;
    // Of quantize and dequantize it has the integers' own type, which their shape functions check.
    if (!node.is("fake_quantize")) return;
    for (const int64_t z : zero->constant().to_ints())
      if (z < node.integer("least") || z > node.integer("most")) {
        fail(node, fmt::format("the zero point {} is outside [{}, {}]", z, node.integer("least"),
                               node.integer("most")));
        break;
      }
  }

  void check_uses() {
    for (const auto& [value, seen] : known_) {
      if (!seen.defined) continue;
      const std::vector<Use>& said = value->uses();
      bool right = said.size() == seen.uses;
      for (size_t i = 0; right && i < said.size(); ++i)
        right = nodes_.contains(said[i].node) && said[i].node->input(said[i].index) == value;
      if (!right || repeats(said))
        fail(label(value), fmt::format("it lists {} uses and has {}", said.size(), seen.uses));
    }
  }

  static bool repeats(std::vector<Use> uses) {
    if (uses.size() < 2) return false;
    const auto by_address = [](const Use& a, const Use& b) {
      return std::tie(a.node, a.index) < std::tie(b.node, b.index);
    };
    std::sort(uses.begin(), uses.end(), by_address);
    return std::adjacent_find(uses.begin(), uses.end()) != uses.end();
  }

  const Graph& graph_;
  const Stage stage_;
  std::vector<std::string> found_;
  std::unordered_map<const Value*, Known> known_;
  std::unordered_set<const Node*> nodes_;
};

}  // namespace

bool allowed_in(Stage first, Stage stage) {
  if (stage == Stage::captured) return true;
  return first != Stage::captured && first <= stage;
}

std::vector<std::string> violations(const Graph& graph, Stage stage) {
  return Verifier(graph, stage).run();
}

void verify(const Graph& graph, Stage stage, const std::string& after) {
  const std::vector<std::string> found = violations(graph, stage);
  if (found.empty()) return;
  std::string message = fmt::format("graph '{}' is not a sound {} graph{}{}", graph.name,
                                    stage_name(stage), after.empty() ? "" : " after ", after);
  constexpr size_t most = 5;
  for (size_t i = 0; i < std::min(most, found.size()); ++i) message += "\n  " + found[i];
  if (found.size() > most) message += fmt::format("\n  and {} more", found.size() - most);
  throw InternalError(message);
}

}  // namespace octavo
