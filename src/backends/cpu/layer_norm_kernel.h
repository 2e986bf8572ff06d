// layer_norm.h over a `Vec` of vec_*.h, which must come first.
#pragma once
#include "backends/cpu/elementwise_kernel.h"
#include "backends/cpu/layer_norm.h"
#include "backends/cpu/parallel.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

// The sum over f(part of x, lanes in it) in 64 lanes; lanes beyond the end are not added.
template <class F>
float sum_lanes(const float* x, int64_t count, const F& f) {
  constexpr int W = Vec::width, parts = 64 / W;
  VecF sums[parts];
  for (int k = 0; k < parts; ++k) sums[k] = Vec::set(0);
  int64_t i = 0;
  for (; i + 64 <= count; i += 64)
    for (int k = 0; k < parts; ++k) sums[k] = Vec::add(sums[k], f(Vec::load(x + i + k * W)));
  alignas(64) float lanes[64];
  for (int k = 0; k < parts; ++k) Vec::store(lanes + k * W, sums[k]);
  if (i < count) {
    alignas(64) float last[64];
    for (int k = 0; i + k * W < count; ++k) {
      const auto n = static_cast<int>(count - i - k * W < W ? count - i - k * W : W);
      Vec::store(last + k * W, f(load_part(x + i + k * W, n)));
    }
    for (int lane = 0; i + lane < count; ++lane) lanes[lane] += last[lane];
  }
  for (int width = 32; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  return lanes[0];
}

void layer_norm(const LayerNorm& args, ThreadPool& pool) {
  const float lo = args.clamp_lo, hi = args.clamp_hi;
  const bool u8 = args.q_element == Element::u8;
  // Saturation as one more clamp, to integers.
  const float least = static_cast<float>((u8 ? 0 : -128) - args.q_zero_point);
  const VecF lo_v = Vec::set(lo > least ? (lo < least + 255 ? lo : least + 255) : least);
  const VecF hi_v = Vec::set(hi < least + 255 ? (hi > least ? hi : least) : least + 255);
  const VecF multiplier = Vec::set(args.multiplier);
  const Vec::I zero = Vec::set_int(args.q_zero_point);
  const auto n = static_cast<float>(args.count);
  const int64_t grain =
      args.count > 0 && args.count < elementwise_grain / 4 ? elementwise_grain / 4 / args.count : 1;
  parallel_chunks(pool, args.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = args.x + row * args.count;
      const float mean = sum_lanes(x, args.count, [](VecF v) { return v; }) / n;
      const VecF mean_v = Vec::set(mean);
      const float square = sum_lanes(x, args.count, [&](VecF v) {
        const VecF d = Vec::sub(v, mean_v);
        return Vec::mul(d, d);
      });
      const VecF inverse = Vec::set(1 / __builtin_sqrtf(square / n + args.epsilon));
      float* y = args.y ? args.y + row * args.count : nullptr;
      auto* q = args.q ? static_cast<uint8_t*>(args.q) + row * args.count : nullptr;
      for_vectors(0, args.count, [&](int64_t i, int lanes) {
        VecF v = Vec::mul(Vec::sub(load_part(x + i, lanes), mean_v), inverse);
        v = Vec::mul(v, load_part(args.scale + i, lanes));
        if (args.bias) v = Vec::add(v, load_part(args.bias + i, lanes));
        if (y) store_part(y + i, v, lanes);
        if (!q) return;
        const VecF f = Vec::min(Vec::max(Vec::mul(v, multiplier), lo_v), hi_v);
        const Vec::I steps = Vec::add_int(Vec::round(f), zero);
        if (lanes == Vec::width)
          Vec::store_byte(q + i, steps);
        else
          Vec::store_byte_n(q + i, steps, lanes);
      });
    }
  });
}

}  // namespace
}  // namespace octavo::cpu
