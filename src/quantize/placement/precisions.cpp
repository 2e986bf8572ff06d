#include "quantize/placement/precisions.h"

#include <map>

#include "graph/op_def.h"
#include "quantize/placement/facts.h"
#include "support/error.h"

namespace octavo {
namespace {

bool is_product(const Node& node) {
  return node.op().quant == QuantTrait::weighted && node.output()->dtype() == DType::f32;
}

}  // namespace

void place_precisions(const Graph& graph, const Rules& rules, const TargetFacts& facts,
                      Placement& placement) {
  (void)placement;
  graph.for_each([&](Node& node) {
    if (!is_product(node)) return;
    const Precision precision = rules.precision_of(node);
    if (precision == Precision::int8 || precision == Precision::float32) return;
    throw UserError(ErrorKind::unsupported, node.where(),
                    fmt::format("precision {} is not implemented for target {}",
                                precision_name(precision), facts.name),
                    "use int8 or float");
  });
}

std::vector<ProductPrecision> product_precisions(const Graph& graph, const Placement& placement) {
  std::map<const Node*, ProductPrecision> placed;
  for (const PlacedWeights& w : placement.weights) placed[w.node] = {"", "", Precision::int8};
  for (const Node* node : placement.activation_products) placed[node] = {"", "", Precision::int8};
  for (const PlacedProduct& p : placement.products)
    placed[p.node] = {"", "", p.precision, p.group_size};
  std::vector<ProductPrecision> all;
  graph.for_each([&](Node& node) {
    if (!is_product(node)) return;
    const auto it = placed.find(&node);
    ProductPrecision one =
        it == placed.end() ? ProductPrecision{"", "", Precision::float32} : it->second;
    one.node = node.name();
    one.op = node.op_name();
    all.push_back(std::move(one));
  });
  return all;
}

}  // namespace octavo
