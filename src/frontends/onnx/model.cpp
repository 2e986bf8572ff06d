#include "frontends/onnx/model.h"

#include <algorithm>
#include <queue>

#include "frontends/onnx/compose.h"
#include "frontends/onnx/reader.h"
#include "graph/op_def.h"
#include "support/error.h"

namespace octavo::onnx_import {
namespace {

constexpr int64_t oldest_ir = 3, newest_ir = 14;        // ONNX 1.0 to 1.23
constexpr int64_t oldest_opset = 7, newest_opset = 28;  // of domain ai.onnx
constexpr int most_nodes = 1'000'000;

[[noreturn]] void fail(const std::string& message, const std::string& hint = unsound_hint) {
  throw UserError(ErrorKind::file, "", message, hint);
}

std::string_view shown(std::string_view domain) { return domain.empty() ? "ai.onnx" : domain; }

struct RuleKey {
  std::string_view domain, op_type;
  friend bool operator==(const RuleKey&, const RuleKey&) = default;
};
struct RuleHash {
  size_t operator()(const RuleKey& key) const {
    return std::hash<std::string_view>()(key.op_type) * 31 +
           std::hash<std::string_view>()(key.domain);
  }
};

// Every op's rules, for all opsets.
std::span<const OnnxImportRule* const> rules_for(const RuleKey& key) {
  static const auto table = [] {
    std::unordered_map<RuleKey, std::vector<const OnnxImportRule*>, RuleHash> rules;
    for (const OpDef& op : all_ops())
      for (const OnnxImportRule& rule : op.impl->onnx_import)
        rules[{canonical_domain(rule.domain), rule.op_type}].push_back(&rule);
    for (const auto list : composed_rules())
      for (const OnnxImportRule& rule : list)
        rules[{canonical_domain(rule.domain), rule.op_type}].push_back(&rule);
    return rules;
  }();
  const auto it = table.find(key);
  if (it == table.end()) return {};
  return it->second;
}

bool has_subgraph(const ::onnx::NodeProto& node) {
  return std::any_of(node.attribute().begin(), node.attribute().end(),
                     [](const auto& a) { return a.has_g() || a.graphs_size() > 0; });
}

bool is_control(const RuleKey& key) {
  return key.domain.empty() &&
         (key.op_type == "If" || key.op_type == "Loop" || key.op_type == "Scan");
}

// The ops of a model that no rule reads, each once.
class Missing {
 public:
  void add(const ::onnx::NodeProto& node, int64_t opset, std::string why) {
    const std::string_view domain = shown(canonical_domain(node.domain()));
    const std::string op = fmt::format("{} (domain {}, opset {})", node.op_type(), domain, opset);
    for (Row& row : rows_)
      if (row.op == op) return void(++row.count);
    rows_.push_back({op, node_label(node), std::move(why), 1});
  }

  void throw_if_any() const {
    if (rows_.empty()) return;
    std::string list;
    for (size_t i = 0; i < rows_.size() && i < 20; ++i) {
      const Row& row = rows_[i];
      list += fmt::format("{}{} at node '{}'", i ? "; " : "", row.op, row.node);
      if (row.count > 1) list += fmt::format(" and {} more", row.count - 1);
      if (!row.why.empty()) list += fmt::format(" ({})", row.why);
    }
    if (rows_.size() > 20) list += fmt::format("; and {} more ops", rows_.size() - 20);
    throw UserError(ErrorKind::unsupported, "",
                    fmt::format("{} not supported: {}",
                                rows_.size() == 1 ? "this op is" : "these ops are", list),
                    cut_hint);
  }

 private:
  struct Row {
    std::string op, node, why;
    int count;
  };
  std::vector<Row> rows_;
};

}  // namespace

std::set<std::string> free_names(const ::onnx::GraphProto& graph) {
  std::set<std::string> defined{""}, read;
  for (const auto& tensor : graph.initializer()) defined.insert(tensor.name());
  for (const auto& input : graph.input()) defined.insert(input.name());
  for (const auto& node : graph.node()) defined.insert(node.output().begin(), node.output().end());
  for (const auto& output : graph.output()) read.insert(output.name());
  for (const auto& node : graph.node()) {
    read.insert(node.input().begin(), node.input().end());
    for (const auto& attribute : node.attribute())
      if (attribute.has_g()) read.merge(free_names(attribute.g()));
  }
  for (const std::string& name : defined) read.erase(name);
  return read;
}

Model::Model(::onnx::ModelProto& proto)
    : graph_(*proto.mutable_graph()),
      proto_(proto),
      outer_([](const std::string&) { return false; }) {
  check_versions(proto);
  resolve();
}

Model::Model(::onnx::GraphProto& subgraph, const Model& parent,
             std::function<bool(const std::string&)> outer)
    : graph_(subgraph), proto_(parent.proto_), outer_(std::move(outer)), opsets_(parent.opsets_) {
  resolve();
}

void Model::resolve() {
  if (graph_.node_size() > most_nodes)
    fail(fmt::format("{} nodes are more than {}", graph_.node_size(), most_nodes));
  define_names();
  find_rules(sorted(needed_nodes()));
}

// The names that a node reads, its subgraphs too.
std::vector<std::string> Model::reads(int node) const {
  const auto& proto = graph_.node(node);
  std::vector<std::string> names(proto.input().begin(), proto.input().end());
  for (const auto& attribute : proto.attribute())
    if (attribute.has_g())
      for (const std::string& name : free_names(attribute.g())) names.push_back(name);
  std::erase(names, "");
  return names;
}

void Model::check_versions(const ::onnx::ModelProto& proto) {
  if (!proto.has_ir_version() || !proto.has_graph())
    fail("not an ONNX model: it has no graph or no IR version");
  const auto outside = [](const char* what, int64_t version, int64_t oldest, int64_t newest) {
    throw UserError(
        ErrorKind::unsupported, "",
        fmt::format("{} {} is not supported, only {} to {}", what, version, oldest, newest),
        "onnx.version_converter changes a model's opset");
  };
  if (proto.ir_version() < oldest_ir || proto.ir_version() > newest_ir)
    outside("ONNX IR version", proto.ir_version(), oldest_ir, newest_ir);
  for (const auto& import : proto.opset_import()) {
    const auto [it, fresh] =
        opsets_.emplace(std::string(canonical_domain(import.domain())), import.version());
    if (!fresh && it->second != import.version())
      fail(fmt::format("domain {} is imported at two versions", shown(it->first)));
  }
  const auto main = opsets_.find("");
  if (main == opsets_.end()) {
    if (opsets_.empty()) fail("the model imports no opset; the file may be truncated");
  } else if (main->second < oldest_opset || main->second > newest_opset) {
    outside("opset", main->second, oldest_opset, newest_opset);
  }
}

void Model::define_names() {
  for (auto& tensor : *graph_.mutable_initializer()) {
    if (tensor.name().empty()) fail("an initializer has no name");
    if (!initializers_.emplace(tensor.name(), &tensor).second)
      fail(fmt::format("initializer '{}' is defined twice", tensor.name()));
  }
  for (const auto& input : graph_.input()) {
    if (input.name().empty()) fail("a graph input has no name");
    if (!input_names_.emplace(input.name(), &input).second)
      fail(fmt::format("graph input '{}' is defined twice", input.name()));
    // Files before IR 4 list initializers as inputs too; since then those are defaults.
    if (!initializers_.contains(input.name())) inputs_.push_back(&input);
  }
  for (int i = 0; i < graph_.node_size(); ++i)
    for (const std::string& output : graph_.node(i).output()) {
      if (output.empty()) continue;
      if (!producers_.emplace(output, i).second || initializers_.contains(output) ||
          input_names_.contains(output))
        fail(fmt::format("value '{}' is defined twice, by node '{}' and elsewhere", output,
                         node_label(graph_.node(i))));
    }
}

::onnx::TensorProto* Model::initializer(std::string_view name) const {
  const auto it = initializers_.find(name);
  return it == initializers_.end() ? nullptr : it->second;
}

std::vector<int> Model::needed_nodes() const {
  std::vector<bool> seen(static_cast<size_t>(graph_.node_size()));
  std::vector<int> stack, needed;
  const auto want = [&](const std::string& value, const std::string& reader) {
    if (const auto it = producers_.find(value); it != producers_.end()) {
      if (seen[static_cast<size_t>(it->second)]) return;
      seen[static_cast<size_t>(it->second)] = true;
      stack.push_back(it->second);
    } else if (!initializers_.contains(value) && !input_names_.contains(value) && !outer_(value)) {
      for (const auto& sparse : graph_.sparse_initializer())
        if (sparse.values().name() == value)
          throw UserError(ErrorKind::unsupported, "",
                          fmt::format("initializer '{}' is sparse, which is not supported", value),
                          "store it as a dense tensor");
      fail(fmt::format("{} '{}', which nothing defines", reader, value));
    }
  };
  if (graph_.output_size() == 0) fail("the model has no outputs");
  std::unordered_map<std::string_view, int> outputs;
  for (const auto& output : graph_.output()) {
    if (!outputs.emplace(output.name(), 0).second)
      fail(fmt::format("graph output '{}' is listed twice", output.name()));
    want(output.name(), "the graph outputs");
  }
  while (!stack.empty()) {
    const int i = stack.back();
    stack.pop_back();
    needed.push_back(i);
    for (const std::string& input : reads(i))
      want(input, fmt::format("node '{}' reads", node_label(graph_.node(i))));
  }
  return needed;
}

// Kahn's algorithm, the earliest node of the file first: a sorted file keeps its order.
std::vector<int> Model::sorted(const std::vector<int>& needed) const {
  std::unordered_map<int, int> waits;  // inputs not yet defined
  std::unordered_map<int, std::vector<int>> readers;
  std::priority_queue<int, std::vector<int>, std::greater<>> ready;
  for (const int i : needed) {
    int& count = waits[i];
    for (const std::string& input : reads(i))
      if (const auto it = producers_.find(input); it != producers_.end()) {
        ++count;
        readers[it->second].push_back(i);
      }
    if (count == 0) ready.push(i);
  }
  std::vector<int> order;
  while (!ready.empty()) {
    const int i = ready.top();
    ready.pop();
    order.push_back(i);
    for (const int reader : readers[i])
      if (--waits[reader] == 0) ready.push(reader);
  }
  if (order.size() == needed.size()) return order;
  // What waits forever is on a cycle or after one; following producers ends on the cycle itself.
  int at = *std::find_if(needed.begin(), needed.end(), [&](int i) { return waits[i] > 0; });
  std::vector<int> path;
  while (std::find(path.begin(), path.end(), at) == path.end()) {
    path.push_back(at);
    for (const std::string& input : reads(at))
      if (const auto it = producers_.find(input); it != producers_.end() && waits[it->second] > 0) {
        at = it->second;
        break;
      }
  }
  std::string names;
  const auto begin = std::find(path.begin(), path.end(), at);
  for (auto it = path.end(); it != begin && path.end() - it < 8;)
    names += fmt::format("'{}' → ", node_label(graph_.node(*--it)));
  fail(fmt::format("the graph has a cycle: {}'{}'", names, node_label(graph_.node(path.back()))));
}

int64_t Model::opset_of(const ::onnx::NodeProto& node) const {
  const auto it = opsets_.find(canonical_domain(node.domain()));
  if (it == opsets_.end())
    fail(fmt::format("node '{}' ({}) is of domain {}, which the model does not import",
                     node_label(node), node.op_type(), shown(canonical_domain(node.domain()))));
  return it->second;
}

void Model::check_attributes(const ::onnx::NodeProto& node, int64_t opset) const {
  for (int i = 0; i < node.attribute_size(); ++i) {
    const auto& attribute = node.attribute(i);
    if (attribute.has_ref_attr_name() && !attribute.ref_attr_name().empty())
      throw UserError(
          ErrorKind::file, node_where(node, opset),
          fmt::format("attribute '{}' refers to a function's attribute, outside a function",
                      attribute.name()),
          unsound_hint);
    for (int j = 0; j < i; ++j)
      if (node.attribute(j).name() == attribute.name())
        throw UserError(ErrorKind::file, node_where(node, opset),
                        fmt::format("attribute '{}' is given twice", attribute.name()),
                        unsound_hint);
  }
}

void Model::find_rules(const std::vector<int>& order) {
  Missing missing;
  for (const int i : order) {
    auto& node = *graph_.mutable_node(i);
    const int64_t opset = opset_of(node);
    check_attributes(node, opset);
    const RuleKey key{canonical_domain(node.domain()), node.op_type()};
    const Builtin builtin = find_builtin(key.domain, key.op_type);
    const bool is_function = std::any_of(
        proto_.functions().begin(), proto_.functions().end(), [&](const ::onnx::FunctionProto& f) {
          return f.name() == key.op_type && canonical_domain(f.domain()) == key.domain;
        });
    const auto rules = rules_for(key);
    const auto rule = std::find_if(rules.begin(), rules.end(), [&](const OnnxImportRule* r) {
      return r->since <= opset && opset <= r->until;
    });
    if (is_control(key)) {
      steps_.push_back({&node, opset, nullptr, nullptr, true});
    } else if (has_subgraph(node)) {
      missing.add(node, opset, "it holds a subgraph");
    } else if (is_function) {
      missing.add(node, opset, "a function of the model; onnx.inliner expands it");
    } else if (rule == rules.end() && !builtin) {
      missing.add(node, opset, rules.empty() ? "" : "other opsets are");
    } else {
      steps_.push_back({&node, opset, builtin, rule == rules.end() ? nullptr : *rule});
    }
  }
  missing.throw_if_any();
}

}  // namespace octavo::onnx_import
