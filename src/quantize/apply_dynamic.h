// Dynamic products, into a graph that apply_quantization made.
#pragma once
#include <string>
#include <vector>

#include "quantize/placement/placement.h"

namespace octavo {

struct DynamicOptions {
  std::string weights = "mse";  // max or mse: the scale of each channel's weights
};

struct DynamicReport {
  const Node* node;  // of the placement
  double weight_sqnr_db;
};

// Each placed dynamic product y = x w + b becomes
//   q, s, z = dynamic_quantize(x)
//   y = float(matmul_integer(q, w_integers, z)) * (s * w_scale) + b
// where products of one x and granularity share the first node; a convolution becomes conv_integer
// in the same way.
std::vector<DynamicReport> apply_dynamic(Graph& graph, const Placement& placement,
                                         const DynamicOptions& options);

}  // namespace octavo
