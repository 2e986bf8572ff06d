// The operators of torch.ops.octavo: one list for all registrations. Names that begin with an
// underscore are gradients.
#pragma once

namespace octavo::torch_ops {

inline constexpr const char* schemas[] = {
    "fake_tensor_quant(Tensor inputs, Tensor amax, int num_bits=8, bool unsigned=False, "
    "bool narrow_range=True) -> Tensor",
    "fake_tensor_quant.out(Tensor inputs, Tensor amax, int num_bits=8, bool unsigned=False, "
    "bool narrow_range=True, *, Tensor(a!) out) -> Tensor(a!)",
    "tensor_quant(Tensor inputs, Tensor amax, int num_bits=8, bool unsigned=False, "
    "bool narrow_range=True) -> (Tensor outputs, Tensor scale)",
    "fake_affine_tensor_quant(Tensor inputs, Tensor min_range, Tensor max_range, int num_bits=8) "
    "-> Tensor",
    "scaled_e4m3(Tensor inputs, Tensor? amax, int exponent_bits=4, int mantissa_bits=3) -> Tensor",
    "quantize(Tensor x, Tensor scale, Tensor? zero_point, int axis, int group_size, int bits, "
    "bool is_signed, bool narrow, str arithmetic) -> Tensor",
    "dequantize(Tensor q, Tensor scale, Tensor? zero_point, int axis, int group_size, int bits, "
    "bool is_signed, bool narrow, str arithmetic) -> Tensor",
    "fake_quantize(Tensor x, Tensor scale, Tensor? zero_point, int axis, int group_size, int bits, "
    "bool is_signed, bool narrow, str arithmetic) -> Tensor",
    "learnable_clip(Tensor x, Tensor low, Tensor high) -> Tensor",
    "learnable_step(Tensor x, Tensor step, Tensor? zero_point, int axis, int bits, "
    "bool is_signed, bool narrow, float grad_scale) -> Tensor",
    "_inside_gradient(Tensor grad, Tensor x, Tensor low, Tensor high) -> Tensor",
    "_fake_quantize_gradient(Tensor grad, Tensor x, Tensor scale, Tensor? zero_point, int axis, "
    "int group_size, int bits, bool is_signed, bool narrow, str arithmetic) -> Tensor",
    "_learnable_clip_gradient(Tensor grad, Tensor x, Tensor low, Tensor high) -> "
    "(Tensor, Tensor, Tensor)",
    "_learnable_step_gradient(Tensor grad, Tensor x, Tensor step, Tensor? zero_point, int axis, "
    "int bits, bool is_signed, bool narrow, float grad_scale) -> (Tensor, Tensor)",
};

}  // namespace octavo::torch_ops
