#pragma once
#include <ATen/core/Tensor.h>

namespace octavo::capture {

// The tensor wants gradients and is no leaf: an operator of the graph made it.
void set_made_here(const at::Tensor& meta);

}  // namespace octavo::capture
