#include "quantize/placement/products.h"

namespace octavo {

std::optional<int64_t> product_weight_axis(const Node& node, std::string& why) {
  const Value *x = node.input(0), *w = node.input(1);
  if (!w || !w->is_constant()) {
    why = "its weights are not constant";
  } else if (node.input(2) && !node.input(2)->is_constant()) {
    why = "its bias is not constant";
  } else if (x->is_constant()) {
    why = "its input is constant";
  } else if (node.is("conv")) {
    if (w->shape().rank() == 4) return 0;
    why = "only 2-D convolutions have integer kernels";
  } else if (node.is("gemm")) {
    const int64_t channels = w->shape()[node.integer("trans_b") ? 0 : 1].value();
    if (const Value* bias = node.input(2);
        bias && bias->constant().size() != 1 &&
        !(bias->constant().size() == channels && bias->constant().dims().back() == channels))
      why = "its addend is no bias: one value per output channel";
    else if (node.real("alpha") == 1 && node.real("beta") == 1 && node.integer("trans_a") == 0)
      return node.integer("trans_b") ? 0 : 1;
    else
      why = "alpha, beta or trans_a are not 1, 1, 0";
  } else if (node.is("matmul")) {
    if (w->shape().rank() == 2 && x->shape().rank() >= 2) return 1;
    why = "its weights are not a matrix";
  } else {
    why = "no integer kernel";
  }
  return std::nullopt;
}

}  // namespace octavo
