#include "quantize/names.h"

#include <unordered_set>

#include "support/error.h"

namespace octavo {

void name_uniquely(Graph& graph) {
  std::unordered_set<std::string> taken;
  graph.for_each([&](Node& node) { taken.insert(node.name()); });
  std::unordered_set<std::string> seen;
  graph.for_each([&](Node& node) {
    if (node.name().empty() || seen.contains(node.name())) {
      const std::string stem = node.name().empty() ? std::string(node.op_name()) : node.name();
      size_t i = 1;
      while (taken.contains(fmt::format("{}_{}", stem, i))) ++i;
      node.set_name(fmt::format("{}_{}", stem, i));
      taken.insert(node.name());
    }
    seen.insert(node.name());
    for (size_t i = 0; i < node.inputs().size(); ++i)
      if (Value* input = node.input(i); input && input->is_constant() && input->name().empty())
        graph.rename(input, fmt::format("{}/{}", node.name(), i));
    for (size_t i = 0; i < node.outputs().size(); ++i)
      if (node.output(i)->name().empty())
        graph.rename(node.output(i), i ? fmt::format("{}:{}", node.name(), i) : node.name());
  });
  for (Value* input : graph.inputs())
    if (input->name().empty()) graph.rename(input, "input");
}

}  // namespace octavo
