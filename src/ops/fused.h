// What the ops of the lowered stage share: the integer arithmetic after the accumulator. One
// definition for the reference kernels; every fast kernel must equal it bit for bit.
//   f = (float)acc * multiplier                      int32 to float32: half to even
//   f = f + (float)(residual - residual_zero_point) * residual_multiplier
//   f = f < 0 ? f * negative_slope : f
//   f = min(max(f, clamp_lo), clamp_hi)
//   y = saturate(round_half_even(f) + y_zero_point)  u8, i8 outputs; y = f for f32 outputs
// Where x comes with a scale and zero point (dynamic products, acc = sum (x - x_zero) w, y f32):
//   f = (float)acc * (x_scale * multiplier), then f = f + bias, then f = f + residual …
// Every operation is one float32 rounding. Multipliers and clamps are in units of the output step.
#pragma once
#include <cmath>
#include <optional>

#include "graph/op_def.h"

namespace octavo::ops {

// clamp_lo, clamp_hi, y_zero_point, output.
std::vector<AttributeSpec> epilogue_attributes();

struct Epilogue {
  float lo, hi;
  int32_t zero_point;
  DType output;
};
Epilogue epilogue_of(const Node& node);  // UserError unless output is f32, u8 or i8

// Integer or float element i of a u8, i8 or f32 tensor, minus `zero_point`, as float.
float centred(const Tensor& tensor, size_t i, int32_t zero_point);
// Clamps, rounds, saturates and stores.
void store(const Epilogue& epilogue, float f, Tensor& out, size_t i);

}  // namespace octavo::ops
