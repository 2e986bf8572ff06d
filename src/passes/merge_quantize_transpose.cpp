#include "passes/layout.h"
#include "passes/match.h"
#include "passes/passes.h"

namespace octavo {

void merge_quantize_transpose(Graph& graph) {
  graph.for_each([&](Node& node) {
    if (!is_transpose(&node, to_nhwc)) return;
    const Node* quantize = node.input(0)->producer();
    if (!quantize || !quantize->is("quantize") || only_user(graph, node.input(0)) != &node) return;
    if (quantize->input(0)->dtype() != DType::f32) return;
    const auto info = quant_info(*quantize);
    if (!info || !info->per_tensor() || (info->dtype != DType::u8 && info->dtype != DType::i8))
      return;
    Value* y = graph.apply("quantize_to_nhwc", {quantize->input(0)},
                           {{"scale", static_cast<double>(info->scale())},
                            {"y_zero_point", int64_t{info->zero_point()}},
                            {"output", std::string(dtype_name(info->dtype))}},
                           quantize->name(), &node);
    take_over(graph, &node, y);
  });
}

}  // namespace octavo
