// DynamicQuantize of quantized.h over a `Vec` of vec_*.h, which must come first.
#pragma once
#include "backends/cpu/parallel.h"
#include "backends/cpu/quantized_kernel.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

struct LeastMost {
  float least = 0, most = 0;
};

// Of x and 0. The operand that may be NaN stands first: the second is taken then.
inline LeastMost least_and_most(const float* x, int64_t count) {
  constexpr int lanes = 4 * Vec::width;
  VecF least[4], most[4];
  for (int i = 0; i < 4; ++i) least[i] = most[i] = Vec::set(0);
  int64_t at = 0;
  for (; at + lanes <= count; at += lanes)
    for (int i = 0; i < 4; ++i) {
      const VecF v = Vec::load(x + at + i * Vec::width);
      least[i] = Vec::min(v, least[i]);
      most[i] = Vec::max(v, most[i]);
    }
  for_vectors(at, count, [&](int64_t i, int n) {
    const VecF v = load_part(x + i, n);  // 0 beyond
    least[0] = Vec::min(v, least[0]);
    most[0] = Vec::max(v, most[0]);
  });
  for (int i = 1; i < 4; ++i) {
    least[0] = Vec::min(least[i], least[0]);
    most[0] = Vec::max(most[i], most[0]);
  }
  alignas(64) float lows[Vec::width], highs[Vec::width];
  Vec::store(lows, least[0]);
  Vec::store(highs, most[0]);
  LeastMost all;
  for (int i = 0; i < Vec::width; ++i) {
    all.least = lows[i] < all.least ? lows[i] : all.least;
    all.most = highs[i] > all.most ? highs[i] : all.most;
  }
  return all;
}

struct DynamicStep {
  float scale;
  int32_t zero_point;
};

inline DynamicStep dynamic_step(LeastMost range) {
  float scale = (range.most - range.least) / 255.0f;
  if (!(scale > 0)) scale = 1;
  float zero = -range.least / scale;
  if (!(zero > 0)) zero = 0;  // NaN too
  if (zero > 255) zero = 255;
  return {scale, static_cast<int32_t>((zero + 8388608.0f) - 8388608.0f)};  // half to even
}

inline void quantize_bytes(const float* x, int64_t count, DynamicStep by, uint8_t* q) {
  const VecF step = Vec::set(by.scale);
  const Vec::I zero = Vec::set_int(by.zero_point);
  const VecF lo = Vec::set(static_cast<float>(-by.zero_point)),
             hi = Vec::set(static_cast<float>(255 - by.zero_point));
  for_vectors(0, count, [&](int64_t i, int n) {
    store_bytes_part(q, i, quantize_vector(load_part(x + i, n), step, zero, lo, hi), n);
  });
}

void dynamic_quantize(const DynamicQuantize& args, ThreadPool& pool) {
  constexpr int64_t grain = dynamic_quantize_grain;
  if (args.by_row) {
    const int64_t group = args.columns < grain ? grain / (args.columns > 0 ? args.columns : 1) : 1;
    parallel_chunks(pool, args.rows, group, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const float* x = args.x + row * args.columns;
        const DynamicStep step = dynamic_step(least_and_most(x, args.columns));
        args.scale[row] = step.scale;
        args.zero_point[row] = static_cast<uint8_t>(step.zero_point);
        quantize_bytes(x, args.columns, step, args.q + row * args.columns);
      }
    });
    return;
  }
  const int64_t count = args.rows * args.columns;
  auto* parts = reinterpret_cast<LeastMost*>(args.scratch);
  parallel_chunks(pool, count, grain, [&](int64_t begin, int64_t end) {
    parts[begin / grain] = least_and_most(args.x + begin, end - begin);
  });
  LeastMost range;
  for (int64_t i = 0; i * grain < count; ++i) {
    range.least = parts[i].least < range.least ? parts[i].least : range.least;
    range.most = parts[i].most > range.most ? parts[i].most : range.most;
  }
  const DynamicStep step = dynamic_step(range);
  *args.scale = step.scale;
  *args.zero_point = static_cast<uint8_t>(step.zero_point);
  parallel_chunks(pool, count, grain, [&](int64_t begin, int64_t end) {
    quantize_bytes(args.x + begin, end - begin, step, args.q + begin);
  });
}

}  // namespace
}  // namespace octavo::cpu
