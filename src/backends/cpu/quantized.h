// INT8 arithmetic outside convolutions, and the way in and out of it. Every operation is one
// float32 rounding, so all kernels of a list are equal bit for bit.
#pragma once
#include <limits>

#include "backends/cpu/kernel_list.h"

namespace octavo::cpu {

// u8 or s8 operands of one shape; y in f32, u8 or s8.
//   add: f = (float)(a - a_zero_point) * a_multiplier + (float)(b - b_zero_point) * b_multiplier
//   mul: f = (float)((a - a_zero_point) * (b - b_zero_point)) * a_multiplier
// then conv.h's clamp, round, saturate.
struct QuantizedBinary {
  int64_t count = 0;
  Element a_element = Element::u8, b_element = Element::u8, y_element = Element::u8;
  int32_t a_zero_point = 0, b_zero_point = 0, y_zero_point = 0;
  float a_multiplier = 1, b_multiplier = 1;
  float clamp_lo = -std::numeric_limits<float>::infinity();
  float clamp_hi = std::numeric_limits<float>::infinity();
  const void* a = nullptr;
  const void* b = nullptr;
  void* y = nullptr;  // may be a or b if of bytes
};
KernelList<QuantizedBinary> quantized_add_kernels();
KernelList<QuantizedBinary> quantized_mul_kernels();

// y = table[x as an unsigned byte], over rows that may lie apart (a part of a concat).
struct Lookup {
  int64_t rows = 1, row = 0, x_pitch = 0, y_pitch = 0;  // bytes
  const uint8_t* table = nullptr;                       // [256]
  const void* x = nullptr;
  void* y = nullptr;
};
KernelList<Lookup> lookup_kernels();

// The table of y = saturate(round_half_even((float)(x - x_zero_point) * multiplier) +
// y_zero_point).
void make_requantize_table(Element x, int32_t x_zero_point, float multiplier, Element y,
                           int32_t y_zero_point, uint8_t table[256]);

// The `onnx` arithmetic over [rows, channels]:
//   q = saturate(round_half_even(x / step) + zero_point), NaN counts as 0;  x = (float)(q -
//   zero_point) * step
// One step and zero point for all (`per_channel` false; then rows may be 1), or one each channel.
struct Quantize {
  int64_t rows = 1, channels = 0;
  bool per_channel = false;
  bool reciprocal = false;  // x * (1 / step): the `torch` arithmetic; not per channel
  Element element = Element::u8;
  const float* step = nullptr;
  const int32_t* zero_point = nullptr;
  const float* x = nullptr;
  void* q = nullptr;
};
struct Dequantize {
  int64_t rows = 1, channels = 0;
  bool per_channel = false;
  Element element = Element::u8;
  const float* step = nullptr;
  const int32_t* zero_point = nullptr;
  const void* q = nullptr;
  float* x = nullptr;
};
KernelList<Quantize> quantize_kernels();
KernelList<Dequantize> dequantize_kernels();

// ops/dynamic_quantize.cpp's arithmetic: u8 over the range of all of x and 0, or of each row.
struct DynamicQuantize {
  int64_t rows = 1, columns = 0;
  bool by_row = false;
  const float* x = nullptr;
  uint8_t* q = nullptr;
  float* scale = nullptr;  // one, or one for each row
  uint8_t* zero_point = nullptr;
  float* scratch = nullptr;  // dynamic_quantize_scratch floats
};
KernelList<DynamicQuantize> dynamic_quantize_kernels();
constexpr int64_t dynamic_quantize_grain = 8192;  // elements of a task
int64_t dynamic_quantize_scratch(int64_t rows, int64_t columns);

// f32 [n, channels, pixels] to u8 or s8 [n, pixels, channels], one step: a network's input.
struct QuantizeToNhwc {
  int64_t n = 1, channels = 1, pixels = 1;
  Element element = Element::u8;
  float step = 1;
  int32_t zero_point = 0;
  const float* x = nullptr;
  void* q = nullptr;
};
KernelList<QuantizeToNhwc> quantize_to_nhwc_kernels();

}  // namespace octavo::cpu
