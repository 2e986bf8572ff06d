#include "graph/graph.h"

#include <algorithm>

#include "graph/op_def.h"
#include "support/error.h"

namespace octavo {
namespace {
constexpr const char* stage_names[] = {"captured", "canonical", "quantized", "lowered"};
constexpr const char* attribute_kind_names[] = {"integer",  "real",  "text",
                                                "integers", "reals", "tensor"};

void drop_use(std::vector<Use>& uses, Node* node, size_t index) {
  const auto it = std::find(uses.begin(), uses.end(), Use{node, index});
  OCTAVO_CHECK(it != uses.end());
  uses.erase(it);
}

thread_local uint64_t changes = 0;
}  // namespace

uint64_t graph_changes() { return changes; }

const char* stage_name(Stage stage) { return stage_names[static_cast<size_t>(stage)]; }

Stage parse_stage(std::string_view name) {
  for (size_t i = 0; i < std::size(stage_names); ++i)
    if (name == stage_names[i]) return static_cast<Stage>(i);
  throw UserError(ErrorKind::value, "stage", fmt::format("unknown stage '{}'", name));
}

const char* attribute_kind_name(AttributeKind kind) {
  return attribute_kind_names[static_cast<size_t>(kind)];
}

const AttributeSpec* OpDef::attribute(std::string_view attribute_name) const {
  for (const AttributeSpec& spec : impl->attributes)
    if (spec.name == attribute_name) return &spec;
  return nullptr;
}

void Value::set_type(TensorType type) {
  if (type == type_) return;
  type_ = std::move(type);
  ++changes;
}

// ---- Node

std::string_view Node::op_name() const { return op_->name; }

std::string Node::where() const {
  std::string label = name_;
  if (label.empty() && !outputs_.empty()) label = outputs_[0]->name();
  return label.empty() ? std::string(op_name()) : fmt::format("{} '{}'", op_name(), label);
}

void Node::set_input(size_t i, Value* value) {
  ++changes;
  if (i >= inputs_.size()) inputs_.resize(i + 1, nullptr);
  if (inputs_[i]) drop_use(inputs_[i]->uses_, this, i);
  inputs_[i] = value;
  if (value) value->uses_.push_back({this, i});
}

void Node::set(std::string attribute_name, Attribute value) {
  ++changes;
  attributes_[std::move(attribute_name)] = std::move(value);
}

void Node::trim_inputs() {
  ++changes;
  while (!inputs_.empty() && !inputs_.back()) inputs_.pop_back();
}

const Attribute& Node::attribute(std::string_view attribute_name) const {
  if (const auto it = attributes_.find(attribute_name); it != attributes_.end()) return it->second;
  const AttributeSpec* spec = op_->attribute(attribute_name);
  if (!spec || spec->required)
    throw InternalError(fmt::format("{}: no attribute '{}'", where(), attribute_name));
  return spec->fallback;
}

namespace {
template <class T>
const T& get(const Attribute& attribute, const Node& node, std::string_view name) {
  if (const T* value = std::get_if<T>(&attribute)) return *value;
  throw InternalError(fmt::format("{}: attribute '{}' has another kind", node.where(), name));
}
}  // namespace

int64_t Node::integer(std::string_view n) const { return get<int64_t>(attribute(n), *this, n); }
double Node::real(std::string_view n) const { return get<double>(attribute(n), *this, n); }
const std::string& Node::text(std::string_view n) const {
  return get<std::string>(attribute(n), *this, n);
}
const Ints& Node::integers(std::string_view n) const { return get<Ints>(attribute(n), *this, n); }
const Floats& Node::reals(std::string_view n) const { return get<Floats>(attribute(n), *this, n); }

// ---- Graph

struct Graph::Storage {
  std::unordered_map<const Node*, std::unique_ptr<Node>> nodes;
  std::unordered_map<const Value*, std::unique_ptr<Value>> values;
  std::unordered_map<std::string, Value*> by_name;
  std::unordered_map<std::string, int> suffixes;  // the last one tried, so that naming stays linear
  std::vector<Value*> inputs, outputs;
  Node *first = nullptr, *last = nullptr;

  Value* make_value(std::string value_name) {
    ++changes;
    auto value = std::make_unique<Value>();
    Value* raw = value.get();
    values.emplace(raw, std::move(value));
    raw->name_ = unique(std::move(value_name));
    if (!raw->name_.empty()) by_name[raw->name_] = raw;
    return raw;
  }

  std::string unique(std::string wanted) {
    if (wanted.empty() || !by_name.contains(wanted)) return wanted;
    for (int& i = suffixes[wanted];;) {
      std::string candidate = fmt::format("{}_{}", wanted, ++i);
      if (!by_name.contains(candidate)) return candidate;
    }
  }

  void forget(Value* value) {
    ++changes;
    if (!value->name_.empty()) by_name.erase(value->name_);
    values.erase(value);
  }

  void link(Node* node, Node* before) {
    ++changes;
    node->next_ = before;
    node->previous_ = before ? before->previous_ : last;
    (node->previous_ ? node->previous_->next_ : first) = node;
    (before ? before->previous_ : last) = node;
  }

  void unlink(Node* node) {
    (node->previous_ ? node->previous_->next_ : first) = node->next_;
    (node->next_ ? node->next_->previous_ : last) = node->previous_;
    node->previous_ = node->next_ = nullptr;
  }
};

Graph::Graph() : s_(std::make_unique<Storage>()) {}
Graph::~Graph() = default;
Graph::Graph(Graph&&) noexcept = default;
Graph& Graph::operator=(Graph&&) noexcept = default;

const std::vector<Value*>& Graph::inputs() const { return s_->inputs; }
const std::vector<Value*>& Graph::outputs() const { return s_->outputs; }
Node* Graph::first() const { return s_->first; }
Node* Graph::last() const { return s_->last; }
size_t Graph::node_count() const { return s_->nodes.size(); }

Value* Graph::add_input(std::string value_name, TensorType type) {
  Value* value = s_->make_value(std::move(value_name));
  value->type_ = std::move(type);
  s_->inputs.push_back(value);
  return value;
}

Value* Graph::add_constant(std::string value_name, Tensor tensor) {
  OCTAVO_CHECK(tensor);
  Value* value = s_->make_value(std::move(value_name));
  value->type_ = tensor.type();
  value->constant_ = std::move(tensor);
  return value;
}

void Graph::add_output(Value* value) {
  ++changes;
  s_->outputs.push_back(value);
}
void Graph::set_output(size_t i, Value* value) {
  ++changes;
  s_->outputs[i] = value;
}

bool Graph::is_output(const Value* value) const {
  return std::find(s_->outputs.begin(), s_->outputs.end(), value) != s_->outputs.end();
}

Node* Graph::add(std::string_view op, std::vector<Value*> inputs, Attributes attributes,
                 std::string node_name, Node* before) {
  const OpDef* def = find_op(op);
  if (!def) throw InternalError(fmt::format("no op '{}' in ops.def", op));
  while (!inputs.empty() && !inputs.back()) inputs.pop_back();
  auto owned = std::make_unique<Node>();
  Node* node = owned.get();
  node->op_ = def;
  node->name_ = std::move(node_name);
  node->attributes_ = std::move(attributes);
  node->inputs_ = std::move(inputs);  // no uses yet: nothing to undo if the checks below throw

  const OpImpl& impl = *def->impl;
  if (node->inputs_.size() > impl.max_inputs || node->inputs_.size() < impl.min_inputs)
    throw UserError(ErrorKind::value, node->where(),
                    fmt::format("takes {} to {} inputs, not {}", impl.min_inputs, impl.max_inputs,
                                node->inputs_.size()));
  for (size_t i = 0; i < impl.min_inputs; ++i)
    if (!node->inputs_[i])
      throw UserError(ErrorKind::value, node->where(), fmt::format("input {} is missing", i));
  for (const auto& [key, value] : node->attributes_) {
    const AttributeSpec* spec = def->attribute(key);
    if (!spec || static_cast<size_t>(spec->kind) != value.index())
      throw UserError(ErrorKind::value, node->where(),
                      fmt::format("attribute '{}' is unknown or of the wrong kind", key));
  }
  for (const AttributeSpec& spec : impl.attributes)
    if (spec.required && !node->has(spec.name))
      throw UserError(ErrorKind::value, node->where(),
                      fmt::format("attribute '{}' is missing", spec.name));
  std::vector<TensorType> types = impl.infer(*node);

  s_->nodes.emplace(node, std::move(owned));
  s_->link(node, before);
  for (size_t i = 0; i < node->inputs_.size(); ++i)
    if (node->inputs_[i]) node->inputs_[i]->uses_.push_back({node, i});
  for (size_t i = 0; i < types.size(); ++i) {
    const std::string& base = node->name_;
    Value* value = s_->make_value(base.empty() ? ""
                                  : i == 0     ? base
                                               : fmt::format("{}:{}", base, i));
    value->type_ = std::move(types[i]);
    value->producer_ = node;
    value->output_index_ = i;
    node->outputs_.push_back(value);
  }
  return node;
}

Value* Graph::apply(std::string_view op, std::vector<Value*> inputs, Attributes attributes,
                    std::string node_name, Node* before) {
  return add(op, std::move(inputs), std::move(attributes), std::move(node_name), before)->output();
}

void Graph::rename(Value* value, std::string value_name) {
  if (value->name_ == value_name) return;
  ++changes;
  if (!value->name_.empty()) s_->by_name.erase(value->name_);
  value->name_ = s_->unique(std::move(value_name));
  if (!value->name_.empty()) s_->by_name[value->name_] = value;
}

void Graph::replace_all_uses(Value* from, Value* to) {
  if (from == to) return;
  ++changes;
  const std::vector<Use> uses = from->uses_;
  for (const Use& use : uses) use.node->set_input(use.index, to);
  std::replace(s_->outputs.begin(), s_->outputs.end(), from, to);
}

void Graph::erase(Node* node) {
  for (Value* output : node->outputs_) OCTAVO_CHECK(output->uses_.empty() && !is_output(output));
  for (size_t i = 0; i < node->inputs_.size(); ++i) node->set_input(i, nullptr);
  for (Value* output : node->outputs_) s_->forget(output);
  s_->unlink(node);
  s_->nodes.erase(node);
}

void Graph::move_before(Node* node, Node* before) {
  s_->unlink(node);
  s_->link(node, before);
}

size_t Graph::remove_dead() {
  const std::set<const Value*> outputs(s_->outputs.begin(), s_->outputs.end());
  size_t removed = 0;
  for (Node* node = s_->last; node;) {
    Node* previous = node->previous_;
    if (std::all_of(node->outputs_.begin(), node->outputs_.end(),
                    [&](const Value* v) { return v->uses_.empty() && !outputs.contains(v); })) {
      erase(node);
      ++removed;
    }
    node = previous;
  }
  std::vector<Value*> dead;
  for (const auto& [key, value] : s_->values)
    if (value->is_constant() && value->uses_.empty() && !outputs.contains(key))
      dead.push_back(value.get());
  for (Value* value : dead) s_->forget(value);
  return removed;
}

void Graph::infer_types() {
  for (Node* node = s_->first; node; node = node->next_) {
    std::vector<TensorType> types = node->op_->impl->infer(*node);
    for (size_t i = 0; i < types.size(); ++i) node->outputs_[i]->set_type(std::move(types[i]));
  }
}

Value* Graph::find_value(std::string_view value_name) const {
  const auto it = s_->by_name.find(std::string(value_name));
  return it == s_->by_name.end() ? nullptr : it->second;
}

void Graph::for_each(const std::function<void(Node&)>& f) const {
  for (Node* node = s_->first; node;) {
    Node* next = node->next_;
    f(*node);
    node = next;
  }
}

std::vector<Value*> Graph::constants() const {
  std::vector<Value*> found;
  for (const auto& [key, value] : s_->values)
    if (value->is_constant()) found.push_back(value.get());
  std::sort(found.begin(), found.end(),
            [](const Value* a, const Value* b) { return a->name_ < b->name_; });
  return found;
}

Graph Graph::clone() const {
  Graph copy;
  copy.name = name;
  copy.stage = stage;
  std::unordered_map<const Value*, Value*> map{{nullptr, nullptr}};
  for (const Value* input : s_->inputs) map[input] = copy.add_input(input->name_, input->type_);
  const auto mapped = [&](const Value* value) {
    auto it = map.find(value);
    if (it == map.end()) {
      OCTAVO_CHECK(value->is_constant());
      it = map.emplace(value, copy.add_constant(value->name_, value->constant_)).first;
    }
    return it->second;
  };
  for (const Node* node = s_->first; node; node = node->next_) {
    std::vector<Value*> inputs;
    for (const Value* input : node->inputs_) inputs.push_back(mapped(input));
    Node* twin = copy.add(node->op_name(), std::move(inputs), node->attributes_, node->name_);
    for (size_t i = 0; i < node->outputs_.size(); ++i) {
      copy.rename(twin->outputs_[i], node->outputs_[i]->name_);
      map[node->outputs_[i]] = twin->outputs_[i];
    }
  }
  for (const Value* output : s_->outputs) copy.add_output(mapped(output));
  return copy;
}

}  // namespace octavo
