#include "passes/match.h"

#include <cmath>
#include <limits>

#include "backends/reference/interpreter.h"
#include "graph/op_def.h"
#include "ops/packed.h"

namespace octavo {

std::optional<QuantInfo> quant_info(const Node& node) {
  if (!node.is("quantize") && !node.is("dequantize")) return std::nullopt;
  const Value *scale = node.input(1), *zero = node.input(2);
  if (!scale || !scale->is_constant() || (zero && !zero->is_constant())) return std::nullopt;
  if (node.integer("group_size") != 0) return std::nullopt;
  if (node.is("dequantize") && is_packed(node)) return std::nullopt;
  QuantInfo info;
  info.dtype = node.is("quantize") ? node.output()->dtype() : node.input(0)->dtype();
  for (double s : scale->constant().to_doubles()) info.scales.push_back(static_cast<float>(s));
  info.zero_points.assign(info.scales.size(), 0);
  if (zero) {
    const auto zeros = zero->constant().to_ints();
    if (zeros.size() != info.scales.size()) return std::nullopt;
    for (size_t i = 0; i < zeros.size(); ++i) info.zero_points[i] = static_cast<int32_t>(zeros[i]);
  }
  const int64_t rank = node.input(0)->shape().rank();
  if (!info.per_tensor()) info.axis = normalize_axis(node.integer("axis"), rank, node.where());
  return info;
}

const Node* byte_dequantize(const Value* value) {
  const Node* node = value ? value->producer() : nullptr;
  if (!node || !node->is("dequantize")) return nullptr;
  const DType dtype = node->input(0)->dtype();
  if (dtype != DType::u8 && dtype != DType::i8) return nullptr;
  const auto info = quant_info(*node);
  return info && info->per_tensor() ? node : nullptr;
}

Node* only_byte_quantize(const Graph& graph, const Value* value) {
  Node* node = only_user(graph, value);
  if (!node || !node->is("quantize") || node->input(0) != value) return nullptr;
  const auto info = quant_info(*node);
  return info && info->per_tensor() && (info->dtype == DType::u8 || info->dtype == DType::i8)
             ? node
             : nullptr;
}

std::optional<Bounds> clamp_bounds(const Node& node) {
  if (node.is("relu")) return Bounds{0, std::numeric_limits<double>::infinity()};
  if (node.is("clip")) return Bounds{node.real("min"), node.real("max")};
  return std::nullopt;
}

std::optional<double> fusible_slope(const Node& product, const Node& leaky_relu) {
  if (!leaky_relu.is("leaky_relu")) return std::nullopt;
  // Depthwise kernels have none.
  if (product.is("conv") && product.integer("group") != 1) return std::nullopt;
  const double slope = leaky_relu.real("alpha");
  if (!(slope > 0 && slope <= 1)) return std::nullopt;
  return slope;
}

std::optional<double> scalar_constant(const Value* value) {
  if (!value || !value->is_constant() || value->constant().size() != 1) return std::nullopt;
  return value->constant().to_doubles()[0];
}

Tensor float_constant(const Value* value) {
  if (value->is_constant()) return value->constant();
  const Node* node = value->producer();
  if (!node || !node->is("dequantize")) return {};
  std::vector<const Tensor*> inputs;
  for (const Value* input : node->inputs()) {
    if (input && !input->is_constant()) return {};
    inputs.push_back(input ? &input->constant() : nullptr);
  }
  return interpret_node(*node, inputs)[0];
}

}  // namespace octavo
