#include "backends/cpu/gather_integers.h"

#include <algorithm>

#include "backends/cpu/parallel.h"
#include "support/error.h"

namespace octavo::cpu {
namespace {

template <bool Four, bool Signed>
void dequantize_row(const GatherIntegers& args, int64_t row, float* y) {
  const uint8_t* x = args.x + row * args.row_bytes;
  for (int64_t g = 0; g < args.groups; ++g) {
    const float scale = args.scales[row * args.groups + g];
    int zero = 0;
    if (args.zero_points) {
      const uint8_t byte = args.zero_points[row * args.groups + g];
      zero = Signed ? static_cast<int8_t>(byte) : int{byte};
    }
    const int64_t end = std::min((g + 1) * args.group, args.columns);
    for (int64_t c = g * args.group; c < end; ++c) {
      int q = 0;
      if constexpr (Four) {
        q = x[c / 2] >> (c % 2 * 4) & 15;
        if constexpr (Signed) q = (q ^ 8) - 8;
      } else {
        q = Signed ? static_cast<int8_t>(x[c]) : int{x[c]};
      }
      y[c] = static_cast<float>(q - zero) * scale;
    }
  }
}

template <class Index>
void gather_of(const GatherIntegers& args, ThreadPool& pool) {
  const auto* indices = static_cast<const Index*>(args.indices);
  for (int64_t i = 0; i < args.count; ++i)
    if (indices[i] < -args.rows || indices[i] >= args.rows)
      throw UserError(ErrorKind::value, "",
                      fmt::format("index {} is outside an axis of {}", indices[i], args.rows));
  const auto row = args.four_bits
                       ? args.is_signed ? dequantize_row<true, true> : dequantize_row<true, false>
                   : args.is_signed ? dequantize_row<false, true>
                                    : dequantize_row<false, false>;
  parallel_chunks(pool, args.count, std::max<int64_t>(8192 / (args.columns + 1), 1),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t i = begin; i < end; ++i)
                      row(args, indices[i] < 0 ? indices[i] + args.rows : indices[i],
                          args.y + i * args.columns);
                  });
}

void gather_integers(const GatherIntegers& args, ThreadPool& pool) {
  if (args.index_bytes == 4) return gather_of<int32_t>(args, pool);
  gather_of<int64_t>(args, pool);
}

}  // namespace

KernelList<GatherIntegers> gather_integers_kernels() {
  static const Kernel<GatherIntegers> list[] = {
      {"gather_integers_portable", Isa::portable, gather_integers}};
  return list;
}

}  // namespace octavo::cpu
