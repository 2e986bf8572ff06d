// What the FP32 convolutions of every instruction set share. Plain data only: sources compiled for
// wide instruction sets include this, and must not leave inline functions for others to link to.
#pragma once
#include <cstdint>

#include "backends/cpu/half_type.h"

namespace octavo::cpu {

// A few output pixels ("rows") times one panel of up to 4 vectors of output channels. The sum of a
// row runs over `segments` contiguous stretches of the input.
struct GemmF32Tile {
  const float* const* a;  // a[s * a_step + r]: segment s of row r
  int64_t a_step;
  int64_t segments, offset, length;  // of each segment: length floats from offset
  const float* weights;              // [segments * length][vectors * width]
  const float* ahead;                // 64 bytes for each float of the sum are fetched from here on
  const float* start;                // [vectors * width] a row: the bias, or sums so far
  int64_t start_step;                // 0: all rows start from the same
  float* y;
  int64_t y_step;
  HalfType round = HalfType::none;  // what the sum is rounded to, before all that follows
  const float* residual;            // or null
  float slope = 1;                  // of what is negative
  float lo, hi;
  int channels;  // that exist, at most vectors * width
  bool last;     // else y takes the bare sums, padding included
};

// One row of output pixels of a depthwise convolution, all channels.
struct DepthwiseF32Row {
  const float* x;                             // the tap at ky = 0, kx = 0 of pixel 0, if it existed
  int64_t pixel_step, row_step, column_step;  // input floats between pixels; taps in y and in x
  int64_t ky_begin, ky_end;                   // taps inside the image
  int64_t kw;
  const float* weights;  // [kh * kw][padded_channels]
  const float* bias;     // [padded_channels]
  int64_t channels, padded_channels;
  int64_t pixels;
  int64_t inner_begin, inner_end;  // pixels whose columns are all inside the image
  int64_t w, x_first;              // image width; column of pixel 0's first tap
  int64_t stride, dilation;        // in columns
  float* y;
  HalfType round = HalfType::none;  // what the sum is rounded to
  const float* residual;            // or null
  float slope = 1;                  // of what is negative
  float lo, hi;
};

struct ConvF32Kernels {
  static constexpr int max_rows = 8;
  int width;        // channels in a vector
  int max_vectors;  // in a panel
  int rows[5];      // that a panel of so many vectors takes at most
  void (*gemm[5][max_rows + 1])(const GemmF32Tile&);  // [vectors][rows]
  void (*depthwise)(const DepthwiseF32Row&);
};

const ConvF32Kernels& conv_f32_portable();
const ConvF32Kernels& conv_f32_avx2();
const ConvF32Kernels& conv_f32_avx512();

}  // namespace octavo::cpu
