// A layer's weights in INT8, packed: torch.classes.octavo.LinearInt8.
#pragma once
#include <ATen/ATen.h>
#include <torch/custom_class.h>

#include "backends/cpu/linear_int8.h"

namespace octavo::torch_ops {

class LinearInt8 : public torch::CustomClassHolder {
 public:
  // A quantized weight [n, k], a bias [n]. ValueError if they are something else.
  LinearInt8(const at::Tensor& weight, const std::optional<at::Tensor>& bias);

  const cpu::LinearInt8& layer() const { return layer_; }

 private:
  cpu::LinearInt8 layer_;
};

}  // namespace octavo::torch_ops
