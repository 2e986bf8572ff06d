#include "passes/layout.h"
#include "passes/match.h"
#include "passes/passes.h"

namespace octavo {
namespace {

// Of these the elements of input 0 are copied, and only those.
bool copies_one(const Node& node) {
  for (const char* op : {"reshape", "squeeze", "unsqueeze", "transpose", "slice"})
    if (node.is(op)) return true;
  return false;
}

}  // namespace

void sink_dequantize(Graph& graph) {
  graph.for_each([&](Node& node) {
    if (!copies_one(node)) return;
    const Node* dequantize = byte_dequantize(node.input(0));
    if (!dequantize || only_user(graph, node.input(0)) != &node) return;
    std::vector<Value*> inputs(node.inputs().begin(), node.inputs().end());
    inputs[0] = dequantize->input(0);
    Value* moved =
        graph.apply(node.op_name(), std::move(inputs), node.attributes(), node.name(), &node);
    Value* y = graph.apply("dequantize", {moved, dequantize->input(1), dequantize->input(2)},
                           dequantize->attributes(), dequantize->name(), &node);
    take_over(graph, &node, y);
  });
}

}  // namespace octavo
