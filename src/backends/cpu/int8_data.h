// What the INT8 kernels of every instruction set share. Plain data only: sources compiled for wide
// instruction sets include this, and must not leave inline functions for others to link to.
//
// Kernels see unsigned activations: s8 is turned into u8 by x ^ 0x80, with zero points moved by
// 128, on the way in and out ("flip"). -x_zero_point * sum(w) is part of the packed bias.
#pragma once
#include <cstdint>

namespace octavo::cpu {

enum class Int8Residual : uint8_t { none, byte, f32 };

// conv.h's arithmetic after the accumulator. For byte outputs the clamp is narrowed at pack time to
// what the output can hold, so that saturation follows from it.
struct Int8Epilogue {
  float lo, hi;
  float slope = 1;  // of what is negative
  float residual_multiplier;
  int32_t residual_zero;  // of the flipped byte
  int32_t y_zero;         // of the flipped byte
  uint8_t y_flip, residual_flip;
  uint8_t byte_lo, byte_hi;  // the clamp, in flipped bytes
  bool y_float;
  // No value can leave int32 before the clamp, so that clamping after rounding is equal.
  bool narrow;
  Int8Residual residual;
};

// Output pixels in a row times one panel of up to 4 blocks of 16 channels.
// Weights: [segment][k4][block][16 channels][4 k], k beyond the segment's end zero.
struct GemmInt8Tile {
  const uint8_t* a;           // first pixel's first segment
  int64_t pixel_step;         // bytes between pixels
  const int64_t* segment_at;  // byte offset of each segment
  int64_t segments, k4;       // k4: groups of four bytes in a segment
  const int8_t* weights;
  const int8_t *ahead, *ahead_end;  // weights that come later, which are fetched; or null
  const int32_t* bias;              // [16 * blocks]
  const float* multiplier;          // [16 * blocks]
  void* y;
  int64_t y_step;  // bytes between pixels
  const void* residual;
  int64_t residual_step;
  int64_t pixels;
  int blocks;
  int channels;  // that exist, at most 16 * blocks
  const Int8Epilogue* epilogue;
  // Dynamic only, else null: scale and zero point of the first pixel's input, and how far the next
  // pixel's lie; [16 * blocks] sums of weights, and biases or null.
  const float* x_scale;
  const uint8_t* x_zero;
  int64_t x_step;
  const int32_t* weight_sums;
  const float* float_bias;
};
using GemmInt8Function = void (*)(const GemmInt8Tile&);

// Output rows of one block of up to 64 channels of a depthwise convolution.
// Vectors interleave four rows of a column of the window, so that one dot product is four taps.
// Interleaving leaves channel 16 * l + 4 * q + i in 32-bit element 4 * l + i of quarter q; packing
// to bytes undoes it. With n = width / 4:
//   weights: [ceil(kh / 4)][kw][quarter][n][4 rows] s8; without dot products s16, for each quarter
//   rows 0 and 2, then rows 1 and 3; portable: [kh][kw][width] s8
//   bias, multiplier: [quarter][n]; portable: [width]
struct DepthwiseInt8Tile {
  const uint8_t* const* pixels;  // where each input pixel of the band begins, pads included
  int64_t pixels_step;           // pointers in a row of the band
  int64_t first_channel;
  int width, channels;  // of the block; channels that exist
  int64_t rows, cols;   // of output
  int64_t kh, kw, stride_h, stride_w, dilation_h, dilation_w;
  uint8_t x_flip;
  const void* weights;
  const int32_t* bias;
  const float* multiplier;
  void* y;  // first pixel's first_channel
  int64_t y_step, y_row_step;
  const void* residual;
  int64_t residual_step, residual_row_step;
  const Int8Epilogue* epilogue;
  // Dynamic: bias is -x_zero_point * sum(w), in the order above; multiplier, which the scale of x
  // is part of, and float_bias, null if there is none, are [width] in the order of the channels.
  bool dynamic;
  const float* float_bias;
};
using DepthwiseInt8Function = void (*)(const DepthwiseInt8Tile&);

void depthwise_int8_portable(const DepthwiseInt8Tile& tile);
void depthwise_int8_avx2(const DepthwiseInt8Tile& tile);
void depthwise_int8_avx512(const DepthwiseInt8Tile& tile);
void depthwise_int8_vnni(const DepthwiseInt8Tile& tile);

void gemm_int8_portable(const GemmInt8Tile& tile);
void gemm_int8_avx2(const GemmInt8Tile& tile);
void gemm_int8_avx512(const GemmInt8Tile& tile);
void gemm_int8_vnni(const GemmInt8Tile& tile);
void gemm_int8_amx(const GemmInt8Tile& tile);
void gemm_int8_emulated(const GemmInt8Tile& tile);

// How many of a segment's k4 groups one tile holds: the largest divisor up to 16, so that every
// step has one shape.
static inline int tile_k_step(int64_t k4) {
  int step = k4 < 16 ? static_cast<int>(k4) : 16;
  while (k4 % step != 0) --step;
  return step;
}

}  // namespace octavo::cpu
