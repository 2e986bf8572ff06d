// Moving elements: transposes, slices, concatenation, padding, gather, resize.
#pragma once
#include "backends/cpu/kernel_list.h"

namespace octavo::cpu {

// [n, rows, columns] to [n, columns, rows] of elements of 1 or 4 bytes. NCHW to NHWC: rows = C,
// columns = H * W; back: rows = H * W, columns = C.
struct Transpose2d {
  int64_t n = 1, rows = 1, columns = 1;
  int element_bytes = 4;  // 1, 4
  const void* x = nullptr;
  void* y = nullptr;
};
KernelList<Transpose2d> transpose_2d_kernels();

// Elements of 1, 2, 4 or 8 bytes from one strided box to another: transposes of any rank, slices
// with any step, the inside of a padded tensor. Steps in elements, any sign; x and y point at index
// 0.
struct CopyStrided {
  static constexpr int max_rank = 8;
  int rank = 0;
  int64_t dims[max_rank] = {}, x_steps[max_rank] = {}, y_steps[max_rank] = {};
  int element_bytes = 4;
  const void* x = nullptr;
  void* y = nullptr;
};
KernelList<CopyStrided> copy_strided_kernels();

// Rows of bytes with a pitch on either side: a block of channels into a concat, or out of one.
struct CopyRows {
  int64_t rows = 1, row_bytes = 0, x_pitch = 0, y_pitch = 0;
  const void* x = nullptr;
  void* y = nullptr;
};
KernelList<CopyRows> copy_rows_kernels();

// `count` elements of 1, 2, 4 or 8 bytes, all equal to *value: pad with a constant is a fill and a
// CopyStrided.
struct Fill {
  int64_t count = 0;
  int element_bytes = 4;
  const void* value = nullptr;
  void* y = nullptr;
};
KernelList<Fill> fill_kernels();

// y[o, i] = x[o, indices[i]], rows of bytes; a negative index counts from the end. UserError if one
// is outside.
struct GatherRows {
  int64_t rows = 0, row_bytes = 0;  // of x
  int64_t count = 0;
  const void* indices = nullptr;
  const void* x = nullptr;
  void* y = nullptr;
  int64_t outer = 1;
  int index_bytes = 8;  // 4, 8
};
KernelList<GatherRows> gather_rows_kernels();

// y = condition ? a : b, elements of 1, 2, 4 or 8 bytes; element steps, 0 where an operand repeats.
struct Choose {
  static constexpr int max_rank = 8;
  int rank = 0;
  int64_t dims[max_rank] = {}, condition_steps[max_rank] = {}, a_steps[max_rank] = {},
          b_steps[max_rank] = {};
  int element_bytes = 4;
  const uint8_t* condition = nullptr;
  const void* a = nullptr;
  const void* b = nullptr;
  void* y = nullptr;  // densely packed
};
KernelList<Choose> choose_kernels();

// NHWC images, nearest: the source of each output row and column from tables made once.
struct ResizeNearest {
  int64_t n = 1, h = 1, w = 1, oh = 1, ow = 1;
  int64_t pixel_bytes = 0;
  const int32_t* rows = nullptr;     // [oh]
  const int32_t* columns = nullptr;  // [ow]
  const void* x = nullptr;
  void* y = nullptr;
};
KernelList<ResizeNearest> resize_nearest_kernels();

// y = (1 - weight) * x[low] + weight * x[high], along rows, then along columns. Bytes are rounded,
// half to even.
struct ResizeTap {
  int32_t low, high;
  float weight;
};
struct ResizeBilinear {
  int64_t n = 1, h = 1, w = 1, oh = 1, ow = 1, c = 1;
  const ResizeTap* rows = nullptr;     // [oh]
  const ResizeTap* columns = nullptr;  // [ow]
  const void* x = nullptr;
  void* y = nullptr;
  Element element = Element::f32;
};
KernelList<ResizeBilinear> resize_bilinear_kernels();

// ONNX's names for where output i lies in the input, and for how nearest rounds.
enum class ResizeCoordinate : uint8_t { half_pixel, pytorch_half_pixel, align_corners, asymmetric };
enum class ResizeRound : uint8_t { prefer_floor, prefer_ceil, floor, ceil };
// `scale`: output size over input size, as the model gives it. Both fill tables of `out` entries.
void make_nearest_table(int64_t in, int64_t out, float scale, ResizeCoordinate coordinate,
                        ResizeRound round, int32_t* table);
void make_bilinear_table(int64_t in, int64_t out, float scale, ResizeCoordinate coordinate,
                         ResizeTap* table);

}  // namespace octavo::cpu
