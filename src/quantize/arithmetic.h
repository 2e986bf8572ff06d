// The three arithmetics. They differ in the last bit for about a third of all values, so each is
// named; each is bit-exact within itself on every instruction set. One float32 rounding each step:
//
//   nvidia  q = clamp(round_half_even(x * s)),            x' = (float)q / s,   s = bound / amax
//   onnx    q = clamp(round_half_even(x / s) + z),        x' = (float)(q - z) * s
//   torch   q = clamp(round_half_even(x * (1 / s)) + z),  x' = (float)(q - z) * s
//
// nvidia has affine schemes too, as its affine fake quantization: there s is a step and the
// arithmetic is onnx's. NaN counts as 0 everywhere; infinities and what overflows saturate.
// f16 and bf16 inputs are computed in float32.
//
// References: pytorch-quantization 2.2 (tensor_quant), ONNX QuantizeLinear-21, torch's
// fake_quantize_per_tensor_affine.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "graph/tensor.h"
#include "quantize/scheme.h"

namespace octavo {

enum class Arithmetic { nvidia, onnx, torch };
const char* arithmetic_name(Arithmetic arithmetic);
// UserError on an unknown name.
Arithmetic parse_arithmetic(const std::string& name);

// As many of each as Scheme::parameter_count says.
struct QuantizationParameters {
  std::vector<float> scales;         // s above; of symmetric nvidia, 0 where amax counts as 0
  std::vector<int32_t> zero_points;  // z; empty: zeros
};

// From the ranges [least[i], most[i]] that the integers shall cover, each widened to hold 0.
// Symmetric: amax = max(|least|, |most|), of unsigned integers `most`.
//   nvidia      s = bound / amax; amax <= 2^-24 counts as zero: s = 0, every q is 0, x' = 0 / 1
//   onnx        step = amax / bound; 1 where that is 0
//   torch       step = amax / (levels / 2 - 0.5), unsigned amax / bound; at least float32's epsilon
// Affine: step = (most - least) / (levels - 1), 1 if that is 0 (torch: float32's epsilon at least);
//   z = clamp(least_q - round_half_even(least / step))
// UserError: bounds that are NaN, infinite or out of order; a negative range for unsigned symmetric
// integers; a count of ranges that differs.
QuantizationParameters parameters_from_ranges(Arithmetic arithmetic, const Scheme& scheme,
                                              std::span<const float> least,
                                              std::span<const float> most);

// x: f32, f16 or bf16; q: scheme.storage(), x's shape. UserError: another element type; a count of
// parameters that does not fit; a scale that is not positive and finite (symmetric nvidia: 0 or
// more); a zero point outside the integers, or not 0 in a symmetric scheme.
Tensor quantize_tensor(Arithmetic arithmetic, const Scheme& scheme, const Tensor& x,
                       const QuantizationParameters& parameters);
// q: i8, u8, i16 or u16 of scheme.storage(). Gives f32.
Tensor dequantize_tensor(Arithmetic arithmetic, const Scheme& scheme, const Tensor& q,
                         const QuantizationParameters& parameters);
// dequantize(quantize(x)) without the integers in between, bit for bit. Gives x's type: f16 and
// bf16 are rounded at the end.
Tensor fake_quantize_tensor(Arithmetic arithmetic, const Scheme& scheme, const Tensor& x,
                            const QuantizationParameters& parameters);

}  // namespace octavo
