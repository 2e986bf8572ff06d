#include "backends/cpu/quantized.h"

#include <cmath>

#include "backends/cpu/lookup.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/vector_kernels.h"

namespace octavo::cpu {
namespace {

void look_up_plain(const uint8_t* table, const uint8_t* x, uint8_t* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) y[i] = table[x[i]];
}

template <void (*look_up)(const uint8_t*, const uint8_t*, uint8_t*, int64_t)>
void lookup(const Lookup& args, ThreadPool& pool) {
  const auto* x = static_cast<const uint8_t*>(args.x);
  auto* y = static_cast<uint8_t*>(args.y);
  const bool dense = args.x_pitch == args.row && args.y_pitch == args.row;
  const int64_t rows = dense ? 1 : args.rows, row = dense ? args.rows * args.row : args.row;
  parallel_rows(pool, rows, row, 32768, [&](int64_t i, int64_t begin, int64_t end) {
    look_up(args.table, x + i * args.x_pitch + begin, y + i * args.y_pitch + begin, end - begin);
  });
}

}  // namespace

KernelList<QuantizedBinary> quantized_add_kernels() {
  static const Kernel<QuantizedBinary> list[] = {
      {"quantized_add_avx512", Isa::avx512, vector_kernels_avx512().quantized_add},
      {"quantized_add_avx2", Isa::avx2, vector_kernels_avx2().quantized_add},
      {"quantized_add_portable", Isa::portable, vector_kernels_portable().quantized_add},
  };
  return list;
}

KernelList<QuantizedBinary> quantized_mul_kernels() {
  static const Kernel<QuantizedBinary> list[] = {
      {"quantized_mul_avx512", Isa::avx512, vector_kernels_avx512().quantized_mul},
      {"quantized_mul_avx2", Isa::avx2, vector_kernels_avx2().quantized_mul},
      {"quantized_mul_portable", Isa::portable, vector_kernels_portable().quantized_mul},
  };
  return list;
}

KernelList<Lookup> lookup_kernels() {
  static const Kernel<Lookup> list[] = {
      {"lookup_avx512", Isa::avx512, lookup<look_up_avx512>},
      {"lookup_portable", Isa::portable, lookup<look_up_plain>},
  };
  return list;
}

KernelList<Quantize> quantize_kernels() {
  static const Kernel<Quantize> list[] = {
      {"quantize_avx512", Isa::avx512, vector_kernels_avx512().quantize},
      {"quantize_avx2", Isa::avx2, vector_kernels_avx2().quantize},
      {"quantize_portable", Isa::portable, vector_kernels_portable().quantize},
  };
  return list;
}

KernelList<Dequantize> dequantize_kernels() {
  static const Kernel<Dequantize> list[] = {
      {"dequantize_avx512", Isa::avx512, vector_kernels_avx512().dequantize},
      {"dequantize_avx2", Isa::avx2, vector_kernels_avx2().dequantize},
      {"dequantize_portable", Isa::portable, vector_kernels_portable().dequantize},
  };
  return list;
}

KernelList<DynamicQuantize> dynamic_quantize_kernels() {
  static const Kernel<DynamicQuantize> list[] = {
      {"dynamic_quantize_avx512", Isa::avx512, vector_kernels_avx512().dynamic_quantize},
      {"dynamic_quantize_avx2", Isa::avx2, vector_kernels_avx2().dynamic_quantize},
      {"dynamic_quantize_portable", Isa::portable, vector_kernels_portable().dynamic_quantize},
  };
  return list;
}

int64_t dynamic_quantize_scratch(int64_t rows, int64_t columns) {
  return 2 * ((rows * columns + dynamic_quantize_grain - 1) / dynamic_quantize_grain);
}

KernelList<QuantizeToNhwc> quantize_to_nhwc_kernels() {
  static const Kernel<QuantizeToNhwc> list[] = {
      {"quantize_to_nhwc_avx512", Isa::avx512, vector_kernels_avx512().quantize_to_nhwc},
      {"quantize_to_nhwc_avx2", Isa::avx2, vector_kernels_avx2().quantize_to_nhwc},
      {"quantize_to_nhwc_portable", Isa::portable, vector_kernels_portable().quantize_to_nhwc},
  };
  return list;
}

void make_requantize_table(Element x, int32_t x_zero_point, float multiplier, Element y,
                           int32_t y_zero_point, uint8_t table[256]) {
  const float least = y == Element::u8 ? 0.0f : -128.0f, most = least + 255.0f;
  for (int byte = 0; byte < 256; ++byte) {
    const int value = x == Element::u8 ? byte : static_cast<int8_t>(byte);
    const float f = static_cast<float>(value - x_zero_point) * multiplier;
    float r = std::nearbyint(f) + static_cast<float>(y_zero_point);
    r = r > least ? r : least;
    r = r < most ? r : most;
    table[byte] = static_cast<uint8_t>(static_cast<int32_t>(r));
  }
}

}  // namespace octavo::cpu
