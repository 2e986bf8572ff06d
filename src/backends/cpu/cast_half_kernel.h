// cast_half.h over a `Vec` of vec_*.h, which must come first.
#pragma once
#include "backends/cpu/cast_half.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/vec_parts.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

template <class Load>
void widen_half(const CastHalf& args, int64_t begin, int64_t end, const Load& load) {
  const auto* x = static_cast<const uint16_t*>(args.x);
  auto* y = static_cast<float*>(args.y);
  for_vectors(begin, end, [&](int64_t i, int n) {
    if (n == Vec::width) return Vec::store(y + i, load(x + i));
    uint16_t part[Vec::width] = {};
    for (int k = 0; k < n; ++k) part[k] = x[i + k];
    Vec::store_n(y + i, load(part), n);
  });
}

template <class Store>
void narrow_half(const CastHalf& args, int64_t begin, int64_t end, const Store& store) {
  const auto* x = static_cast<const float*>(args.x);
  auto* y = static_cast<uint16_t*>(args.y);
  for_vectors(begin, end, [&](int64_t i, int n) {
    if (n == Vec::width) return store(y + i, Vec::load(x + i));
    uint16_t part[Vec::width];
    store(part, Vec::load_n(x + i, n));
    for (int k = 0; k < n; ++k) y[i + k] = part[k];
  });
}

void cast_half(const CastHalf& args, ThreadPool& pool) {
  parallel_chunks(pool, args.count, 16384, [&](int64_t begin, int64_t end) {
    const bool f16 = args.half == HalfType::f16;
    if (args.widen && f16)
      widen_half(args, begin, end, Vec::load_f16);
    else if (args.widen)
      widen_half(args, begin, end, Vec::load_bf16);
    else if (f16)
      narrow_half(args, begin, end, Vec::store_f16);
    else
      narrow_half(args, begin, end, Vec::store_bf16);
  });
}

}  // namespace
}  // namespace octavo::cpu
