// fused_layer_norm: layer normalization over the last axis with its quantize.
#include <cmath>

#include "ops/fused.h"
#include "ops/op.h"

namespace octavo::ops {
namespace {

std::vector<TensorType> infer(const Node& node) {
  const TensorType& x = node.input(0)->type();
  require(node, x.dtype == DType::f32 && x.shape.rank() >= 1, "x must be f32 with an axis");
  for (size_t i : {1u, 2u})
    if (const Value* p = node.input(i))
      require(node,
              p->dtype() == DType::f32 && p->shape().rank() == 1 && p->shape()[0] == x.shape.back(),
              "scale and bias must be one f32 per element of the last axis");
  const DType output = epilogue_of(node).output;
  if (output == DType::f32 || node.integer("keep_float") == 0) return {{output, x.shape}};
  return {{output, x.shape}, x};
}

void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto x = in[0]->values<float>(), scale = in[1]->values<float>();
  const Tensor* bias = in.size() > 2 ? in[2] : nullptr;
  const auto count = static_cast<size_t>(in[0]->dims().back());
  const Epilogue e = epilogue_of(node);
  const auto multiplier = static_cast<float>(node.real("multiplier"));
  for (size_t at = 0; at < x.size(); ++at) {
    const auto row = x.subspan(at / count * count, count);
    double mean = 0, square = 0;
    for (float v : row) mean += v;
    mean /= static_cast<double>(count);
    for (float v : row) square += (v - mean) * (v - mean);
    double y = (x[at] - mean) /
               std::sqrt(square / static_cast<double>(count) + node.real("epsilon")) *
               scale[at % count];
    if (bias) y += bias->values<float>()[at % count];
    if (e.output == DType::f32) {
      out[0].mutable_values<float>()[at] = static_cast<float>(y);
      continue;
    }
    store(e, static_cast<float>(y) * multiplier, out[0], at);
    if (out.size() > 1) out[1].mutable_values<float>()[at] = static_cast<float>(y);
  }
}

}  // namespace

const OpImpl op_fused_layer_norm{
    .doc =
        "y = (x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis; bytes are "
        "epilogue(y * multiplier), and with keep_float y itself is the second output.",
    .min_inputs = 2,
    .max_inputs = 3,
    .attributes =
        [] {
          auto specs = epilogue_attributes();
          specs.push_back({"epsilon", AttributeKind::real, false, 1e-5});
          specs.push_back({"multiplier", AttributeKind::real, false, 1.0});
          specs.push_back({"keep_float", AttributeKind::integer, false, int64_t{0}});
          return specs;
        }(),
    .infer = infer,
    .reference = reference};

}  // namespace octavo::ops
