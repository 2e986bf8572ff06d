// Shapes and types of the operators' results, for tracing: what can be known without values.
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "parameters.h"

namespace octavo::torch_ops {
namespace {

using OptionalTensor = std::optional<Tensor>;

// As the operators allocate: the strides of what is dense, and of a dense copy else.
Tensor like(const Tensor& x) { return at::empty_like(x); }
Tensor in_rows(const Tensor& x, int64_t group_size) {
  return group_size > 0 ? at::empty_like(x, at::MemoryFormat::Contiguous) : like(x);
}

Tensor fake_tensor_quant(const Tensor& x, const Tensor&, int64_t, bool, bool) {
  check_float(x, "fake_tensor_quant", "inputs");
  return like(x);
}
Tensor& fake_tensor_quant_out(const Tensor&, const Tensor&, int64_t, bool, bool, Tensor& out) {
  return out;
}
std::tuple<Tensor, Tensor> tensor_quant(const Tensor& x, const Tensor& amax, int64_t, bool, bool) {
  check_float(x, "tensor_quant", "inputs");
  return {like(x), at::empty_like(amax, x.scalar_type(), {}, {}, {}, at::MemoryFormat::Contiguous)};
}
Tensor fake_affine_tensor_quant(const Tensor& x, const Tensor&, const Tensor&, int64_t) {
  check_float(x, "fake_affine_tensor_quant", "inputs");
  return like(x);
}
Tensor scaled_e4m3(const Tensor& x, const OptionalTensor&, int64_t, int64_t) {
  check_float(x, "scaled_e4m3", "inputs");
  return like(x);
}
Tensor quantize(const Tensor& x, const Tensor&, const OptionalTensor& zero_point, int64_t axis,
                int64_t group_size, int64_t bits, bool is_signed, bool narrow,
                c10::string_view arithmetic) {
  check_float(x, "quantize", "x");
  return translated([&] {
    const auto type = storage_type(checked_scheme(
        {axis, group_size, bits, is_signed, narrow, arithmetic}, !zero_point.has_value()));
    return in_rows(x, group_size).to(type);
  });
}
Tensor dequantize(const Tensor& q, const Tensor& scale, const OptionalTensor&, int64_t,
                  int64_t group_size, int64_t, bool, bool, c10::string_view) {
  return in_rows(q, group_size).to(scale.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
}
Tensor fake_quantize(const Tensor& x, const Tensor&, const OptionalTensor&, int64_t,
                     int64_t group_size, int64_t, bool, bool, c10::string_view) {
  check_float(x, "fake_quantize", "x");
  return in_rows(x, group_size);
}
Tensor learnable_clip(const Tensor& x, const Tensor&, const Tensor&) {
  check_float(x, "learnable_clip", "x");
  return like(x);
}
Tensor learnable_step(const Tensor& x, const Tensor&, const OptionalTensor&, int64_t, int64_t, bool,
                      bool, double) {
  check_float(x, "learnable_step", "x");
  return like(x);
}
Tensor inside_gradient_op(const Tensor&, const Tensor& x, const Tensor&, const Tensor&) {
  return like(x);
}
Tensor fake_quantize_gradient_op(const Tensor&, const Tensor& x, const Tensor&,
                                 const OptionalTensor&, int64_t, int64_t group_size, int64_t, bool,
                                 bool, c10::string_view) {
  return in_rows(x, group_size);
}
Tensor sums_like(const Tensor& x) { return at::empty_like(x, at::MemoryFormat::Contiguous); }
std::tuple<Tensor, Tensor, Tensor> learnable_clip_gradient(const Tensor&, const Tensor& x,
                                                           const Tensor& low, const Tensor& high) {
  return {like(x), sums_like(low), sums_like(high)};
}
std::tuple<Tensor, Tensor> learnable_step_gradient(const Tensor&, const Tensor& x,
                                                   const Tensor& step, const OptionalTensor&,
                                                   int64_t, int64_t, bool, bool, double) {
  return {like(x), sums_like(step)};
}

}  // namespace

TORCH_LIBRARY_IMPL(octavo, Meta, m) {
  m.impl("fake_tensor_quant", fake_tensor_quant);
  m.impl("fake_tensor_quant.out", fake_tensor_quant_out);
  m.impl("tensor_quant", tensor_quant);
  m.impl("fake_affine_tensor_quant", fake_affine_tensor_quant);
  m.impl("scaled_e4m3", scaled_e4m3);
  m.impl("quantize", quantize);
  m.impl("dequantize", dequantize);
  m.impl("fake_quantize", fake_quantize);
  m.impl("learnable_clip", learnable_clip);
  m.impl("learnable_step", learnable_step);
  m.impl("_inside_gradient", inside_gradient_op);
  m.impl("_fake_quantize_gradient", fake_quantize_gradient_op);
  m.impl("_learnable_clip_gradient", learnable_clip_gradient);
  m.impl("_learnable_step_gradient", learnable_step_gradient);
}

}  // namespace octavo::torch_ops
