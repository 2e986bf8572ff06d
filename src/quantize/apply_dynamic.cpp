#include "quantize/apply_dynamic.h"

#include <map>
#include <unordered_map>

#include "graph/op_def.h"
#include "graph/transposed.h"
#include "quantize/weights.h"
#include "support/error.h"

namespace octavo {
namespace {

class Applier {
 public:
  Applier(Graph& graph, const DynamicOptions& options) : graph_(graph), options_(options) {
    graph_.for_each([&](Node& node) { nodes_[node.name()] = &node; });
  }

  double apply(const PlacedProduct& placed) {
    const auto it = nodes_.find(placed.node->name());
    OCTAVO_CHECK(it != nodes_.end());
    return make_dynamic(*it->second, placed);
  }

 private:
  Node* quantized(Value* x, bool by_row, Node* before) {
    Node*& node = quantized_[{x, by_row}];
    if (!node) {
      // Right behind the definition, where every reader finds it.
      if (!x->producer()) before = graph_.first();
      if (x->producer()) before = x->producer()->next();
      const std::string granularity = by_row ? "row" : "tensor";
      node = graph_.add("dynamic_quantize", {x}, {{"granularity", granularity}},
                        x->name() + (by_row ? "/dynamic_rows" : "/dynamic"), before);
    }
    return node;
  }

  double make_dynamic(Node& node, const PlacedProduct& placed) {
    const Tensor w = node.input(1)->constant();
    const WeightRows rows = weight_rows(w, placed.axis);
    WeightParams params;
    params.scales = options_.weights == "max" ? max_scales(rows) : mse_scales(rows);
    for (float& scale : params.scales)
      if (!(scale > 0)) scale = 1;  // of weights that are all 0
    params.values = integer_tensor(round_to_nearest(rows, params.scales), w, placed.axis);
    const double sqnr = weight_sqnr_db({placed.node, placed.axis}, params);

    const bool conv = node.is("conv");
    const auto channels = static_cast<int64_t>(params.scales.size());
    const std::string name = node.name(), w_name = node.input(1)->name();
    const Node* q = quantized(node.input(0), placed.by_row, &node);
    const bool transposed = !conv && placed.axis == 0;
    Value* weights = graph_.add_constant(
        w_name + "/quantized", transposed ? transposed_matrix(params.values) : params.values);
    Value* zero = graph_.add_constant(w_name + "/zero_point", Tensor::scalar(int8_t{0}));
    Attributes a;
    if (conv) a = node.attributes();
    Node* product = graph_.add(conv ? "conv_integer" : "matmul_integer",
                               {q->output(0), weights, q->output(2), zero}, std::move(a),
                               name + "/integer", &node);
    // One for each channel, before the spatial axes of a convolution.
    Dims dims{channels};
    if (conv) dims = {1, channels, 1, 1};
    Value* w_scale = graph_.add_constant(w_name + "/scale", Tensor::from(dims, params.scales));
    Value* scale = graph_.apply("mul", {q->output(1), w_scale}, {}, name + "/scale", &node);
    Value* y = graph_.apply("cast", {product->output()}, {{"to", std::string("f32")}},
                            name + "/float", &node);
    y = graph_.apply("mul", {y, scale}, {}, name + "/scaled", &node);
    if (node.input(2)) {
      const auto bias = bias_of(node, params.scales.size());
      Value* b = graph_.add_constant(node.input(2)->name() + "/bias", Tensor::from(dims, bias));
      y = graph_.apply("add", {y, b}, {}, name + "/biased", &node);
    }
    const std::string output = node.output()->name();
    graph_.replace_all_uses(node.output(), y);
    graph_.erase(&node);
    graph_.rename(y, output);
    product->set_name(name);
    return sqnr;
  }

  Graph& graph_;
  const DynamicOptions& options_;
  std::unordered_map<std::string, Node*> nodes_;
  std::map<std::pair<const Value*, bool>, Node*> quantized_;  // dynamic_quantize by input, by_row
};

}  // namespace

std::vector<DynamicReport> apply_dynamic(Graph& graph, const Placement& placement,
                                         const DynamicOptions& options) {
  std::vector<DynamicReport> reports;
  Applier applier(graph, options);
  for (const PlacedProduct& placed : placement.products)
    if (placed.precision == Precision::dynamic)
      reports.push_back({placed.node, applier.apply(placed)});
  graph.remove_dead();
  graph.stage = Stage::quantized;
  return reports;
}

}  // namespace octavo
