// Rows of a table of integers, dequantized on the way: y = (q - zero_point) * scale.
#pragma once
#include "backends/cpu/kernel_list.h"

namespace octavo::cpu {

struct GatherIntegers {
  const uint8_t* x = nullptr;  // [rows, row_bytes]; two integers of 4 bits to a byte, the first low
  const void* indices = nullptr;
  const float* scales = nullptr;         // [rows, groups]
  const uint8_t* zero_points = nullptr;  // the same, i8 or u8; null: zeros
  float* y = nullptr;                    // [count, columns]
  int64_t rows = 0, columns = 0, row_bytes = 0;
  int64_t group = 1, groups = 1;  // columns that share a scale
  int64_t count = 0;
  int index_bytes = 8;  // 4 or 8
  bool four_bits = false, is_signed = true;
};

// UserError for an index outside the table.
KernelList<GatherIntegers> gather_integers_kernels();

}  // namespace octavo::cpu
