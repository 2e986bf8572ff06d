#include "text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <sstream>

namespace octavo::aten {
namespace {

std::string described(const Graph& graph, ValueId value) {
  const ValueInfo& info = graph.values[static_cast<size_t>(value)];
  return fmt::format("%{}: {}[{}]", value, c10::toString(info.dtype), fmt::join(info.sizes, ", "));
}

std::string described(const Argument& argument) {
  if (const auto* value = std::get_if<ValueId>(&argument)) return fmt::format("%{}", *value);
  if (const auto* list = std::get_if<std::vector<std::optional<ValueId>>>(&argument)) {
    std::string text;
    for (const auto& item : *list)
      text += (text.empty() ? "" : ", ") + (item ? fmt::format("%{}", *item) : std::string("None"));
    return "[" + text + "]";
  }
  std::ostringstream stream;
  const auto& constant = std::get<c10::IValue>(argument);
  if (constant.isTensor())
    stream << "None";  // an undefined one; the others are values
  else
    stream << constant;
  return stream.str();
}

}  // namespace

std::string to_text(const Graph& graph) {
  std::string text;
  for (const ValueId input : graph.inputs) text += "input " + described(graph, input) + "\n";
  for (const auto& [value, tensor] : graph.constants)
    text += "constant " + described(graph, value) + "\n";
  for (const Node& node : graph.nodes) {
    std::string outputs, arguments;
    for (const ValueId output : node.outputs)
      outputs += (outputs.empty() ? "" : ", ") + described(graph, output);
    for (const Argument& argument : node.arguments)
      arguments += (arguments.empty() ? "" : ", ") + described(argument);
    text +=
        fmt::format("{} = {}({})\n", outputs, c10::toString(node.op.operator_name()), arguments);
  }
  for (const auto& [input, value] : graph.writes)
    text += fmt::format("write %{} -> input {}\n", value, input);
  std::string outputs;
  for (const ValueId output : graph.outputs)
    outputs += fmt::format("{}%{}", outputs.empty() ? "" : ", ", output);
  return text + "return " + outputs + "\n";
}

}  // namespace octavo::aten
