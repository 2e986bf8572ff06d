#include <unordered_set>

#include "graph/op_def.h"
#include "graph/text.h"
#include "graph/text_lexer.h"
#include "graph/text_tensor.h"
#include "support/error.h"
#include "support/hash.h"

namespace octavo {
namespace {

class Printer {
 public:
  Printer(const Graph& graph, const PrintOptions& options) : graph_(graph), options_(options) {}

  std::string print() {
    out_ = fmt::format("graph {} {} {{\n", quote(graph_.name), stage_name(graph_.stage));
    for (const Value* input : graph_.inputs()) {
      out_ += "  input " + reference(input) + " : " + print_type(input->type()) + "\n";
    }
    for (const Value* constant : constants_in_order()) {
      out_ += "  const " + reference(constant) + " : " + print_type(constant->type()) + " = ";
      print_elements(out_, constant->constant(), options_);
      out_ += "\n";
    }
    graph_.for_each([&](const Node& node) { print_node(node); });
    out_ += "  return";
    for (size_t i = 0; i < graph_.outputs().size(); ++i)
      out_ += (i == 0 ? " " : ", ") + reference(graph_.outputs()[i]);
    return out_ + "\n}\n";
  }

 private:
  std::string reference(const Value* value) {
    if (!value) return "_";
    if (value->name().empty())
      return fmt::format("%{}", numbers_.emplace(value, numbers_.size()).first->second);
    return is_plain_value_name(value->name()) ? "%" + value->name() : "%" + quote(value->name());
  }

  std::vector<const Value*> constants_in_order() {
    std::vector<const Value*> order;
    std::unordered_set<const Value*> seen;
    const auto visit = [&](const Value* value) {
      if (value && value->is_constant() && seen.insert(value).second) order.push_back(value);
    };
    graph_.for_each([&](const Node& node) {
      for (const Value* input : node.inputs()) visit(input);
    });
    for (const Value* output : graph_.outputs()) visit(output);
    // Those that nothing reads, in an order that memory addresses have no part in.
    std::vector<Value*> unread;
    for (Value* constant : graph_.constants())
      if (!seen.contains(constant)) unread.push_back(constant);
    const auto key = [](const Value* v) {
      const Tensor& t = v->constant();
      return std::tuple(v->name(), print_type(v->type()), fnv1a({t.data(), t.bytes()}));
    };
    std::sort(unread.begin(), unread.end(),
              [&](const Value* a, const Value* b) { return key(a) < key(b); });
    order.insert(order.end(), unread.begin(), unread.end());
    return order;
  }

  void print_node(const Node& node) {
    const auto outputs = node.outputs();
    out_ += "  ";
    for (size_t i = 0; i < outputs.size(); ++i) out_ += (i ? ", " : "") + reference(outputs[i]);
    out_ += fmt::format(" = {}(", node.op_name());
    auto inputs = node.inputs();
    while (!inputs.empty() && !inputs.back()) inputs = inputs.first(inputs.size() - 1);
    for (size_t i = 0; i < inputs.size(); ++i) out_ += (i ? ", " : "") + reference(inputs[i]);
    out_ += ")";
    if (!node.attributes().empty()) {
      const char* separator = " {";
      for (const auto& [name, value] : node.attributes()) {
        out_ += separator + name + " = ";
        print_attribute(value);
        separator = ", ";
      }
      out_ += "}";
    }
    for (size_t i = 0; i < outputs.size(); ++i)
      out_ += (i ? ", " : " : ") + print_type(outputs[i]->type());
    if (node.name() != outputs[0]->name()) out_ += " @ " + quote(node.name());
    out_ += "\n";
  }

  void print_attribute(const Attribute& attribute) {
    const auto list = [&](const auto& values, auto&& print_one) {
      out_ += "[";
      for (size_t i = 0; i < values.size(); ++i) out_ += (i ? ", " : "") + print_one(values[i]);
      out_ += "]";
    };
    switch (static_cast<AttributeKind>(attribute.index())) {
      case AttributeKind::integer:
        out_ += std::to_string(std::get<int64_t>(attribute));
        return;
      case AttributeKind::real:
        out_ += print_real(std::get<double>(attribute));
        return;
      case AttributeKind::text:
        out_ += quote(std::get<std::string>(attribute));
        return;
      case AttributeKind::integers:
        return list(std::get<Ints>(attribute), [](int64_t v) { return std::to_string(v); });
      case AttributeKind::reals:
        return list(std::get<Floats>(attribute), print_real);
      case AttributeKind::tensor: {
        const Tensor& tensor = std::get<Tensor>(attribute);
        out_ += print_type(tensor.type()) + " ";
        print_elements(out_, tensor, options_);
        return;
      }
    }
  }

  const Graph& graph_;
  const PrintOptions& options_;
  std::string out_;
  std::unordered_map<const Value*, size_t> numbers_;
};

}  // namespace

std::string print_graph(const Graph& graph, const PrintOptions& options) {
  return Printer(graph, options).print();
}

}  // namespace octavo
