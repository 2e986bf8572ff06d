// What attention does to one row of scores and one row of sums, for each instruction set. Plain
// data only: sources compiled for wide instruction sets include this.
#pragma once
#include <cstdint>

#include "backends/cpu/int8_data.h"

namespace octavo::cpu {

struct AttentionRows {
  // y = round_half_even(255 * 2^(x - max x)) over `count`, zeros up to `padded`; the sum of y.
  // 2^t: t = max(t, -30), n = round_half_even(t), r = t - n, Horner's scheme of
  // ((c4 * r + c3) * r + c2) * r + c1) * r + 1, products and sums rounded apart; 255 * that, times
  // 2^n.
  int32_t (*exp2_steps)(const float* x, int64_t count, int64_t padded, uint8_t* y);
  // x = exp(x * multiplier + mask - max); the sum of x. No mask: null.
  float (*exp_row)(float* x, int64_t count, float multiplier, const float* mask);
  // ((float)sums - correction) * multiplier, then the epilogue's clamp, rounding and saturation;
  // sums are int32 that were turned into float. y: bytes or floats.
  void (*finish_steps)(const float* sums, int64_t count, float correction, float multiplier,
                       const Int8Epilogue& epilogue, void* y);
  // y = sums / divisor.
  void (*divide)(const float* sums, int64_t count, float divisor, float* y);
};

const AttentionRows& attention_rows_portable();
const AttentionRows& attention_rows_avx2();
const AttentionRows& attention_rows_avx512();

// Of 2^r on [-0.5, 0.5], relative error below 3e-6.
static constexpr float exp2_c1 = 0.6931242346763611f, exp2_c2 = 0.24024099111557007f,
                       exp2_c3 = 0.05590631067752838f, exp2_c4 = 0.00958279613405466f;

}  // namespace octavo::cpu
