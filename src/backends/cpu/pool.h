// Pooling over windows of NHWC images. A global pool is a window as large as the image.
#pragma once
#include <limits>

#include "backends/cpu/kernel_list.h"

namespace octavo::cpu {

struct PoolShape {
  int64_t n = 1, h = 1, w = 1, c = 1, oh = 1, ow = 1;
  int64_t kh = 1, kw = 1, stride_h = 1, stride_w = 1;
  int64_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
  int64_t dilation_h = 1, dilation_w = 1;
};

// The input's element type; taps outside the image never win.
struct MaxPool {
  PoolShape shape;
  Element element = Element::f32;
  const void* x = nullptr;
  void* y = nullptr;
};

// A window's count: its taps inside the image, or with `count_include_pad` inside the padded image.
//   f32:     y = clamp(sum x / count)
//   u8, s8:  f = (float)(sum (x - x_zero_point)) * multipliers[count], then conv.h's clamp, round,
//            saturate; y in f32, u8 or s8
struct AveragePool {
  PoolShape shape;
  bool count_include_pad = false;
  Element x_element = Element::f32, y_element = Element::f32;
  int32_t x_zero_point = 0, y_zero_point = 0;
  const float* multipliers = nullptr;  // [kh * kw + 1], bytes only
  float clamp_lo = -std::numeric_limits<float>::infinity();
  float clamp_hi = std::numeric_limits<float>::infinity();
  const void* x = nullptr;
  void* y = nullptr;
};

KernelList<MaxPool> max_pool_kernels();
KernelList<AveragePool> average_pool_kernels();

}  // namespace octavo::cpu
