#include "backends/reference/interpreter.h"
#include "graph/op_def.h"
#include "passes/passes.h"

namespace octavo {

void quantize_constants(Graph& graph) {
  graph.for_each([&](Node& node) {
    if (!node.is("quantize")) return;
    std::vector<const Tensor*> inputs;
    for (const Value* input : node.inputs()) {
      if (input && !input->is_constant()) return;
      inputs.push_back(input ? &input->constant() : nullptr);
    }
    const std::string name = node.output()->name();
    Value* constant = graph.add_constant("", interpret_node(node, inputs)[0]);
    graph.replace_all_uses(node.output(), constant);
    graph.erase(&node);
    graph.rename(constant, name);
  });
}

}  // namespace octavo
