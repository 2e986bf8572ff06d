// Dynamic products, into a graph that apply_quantization made.
#pragma once
#include <string>
#include <vector>

#include "quantize/placement/placement.h"

namespace octavo {

struct ProductOptions {
  std::string weights = "mse";        // max or mse: the scale of each channel's weights
  std::string activation = "tensor";  // of dynamic products: one scale for all, or for each "row"
};

struct ProductReport {
  const Node* node;  // of the placement
  double weight_sqnr_db;
};

// Each placed dynamic product becomes
//            q, s, z = dynamic_quantize(x);  y = float(matmul_integer(q, w, z)) * (s * w_scale) +
//            b,
//            where products of one x share the first node; conv_integer in the same way
std::vector<ProductReport> apply_products(Graph& graph, const Placement& placement,
                                          const ProductOptions& options);

}  // namespace octavo
