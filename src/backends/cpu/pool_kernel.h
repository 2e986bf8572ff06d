// pool.h over a `Vec` of vec_*.h, which must come first.
#pragma once
#include "backends/cpu/parallel.h"
#include "backends/cpu/pool.h"
#include "backends/cpu/quantized_kernel.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

// The taps of one output pixel that lie inside the image.
struct Taps {
  int64_t pixel;  // of the first, in the batch
  int64_t rows, columns;
  int64_t row_step, column_step;  // in pixels
  int64_t count;                  // that an average divides by
};

// First and last + 1 of the taps k with 0 <= at + k * dilation < size.
inline void inside(int64_t at, int64_t taps, int64_t dilation, int64_t size, int64_t& begin,
                   int64_t& end) {
  begin = at < 0 ? (-at + dilation - 1) / dilation : 0;
  end = at < size ? (size - at + dilation - 1) / dilation : 0;
  if (end > taps) end = taps;
  if (begin > end) begin = end;
}

inline Taps taps_of(const PoolShape& s, int64_t n, int64_t oy, int64_t ox, bool padding_counts) {
  const int64_t top = oy * s.stride_h - s.pad_top, left = ox * s.stride_w - s.pad_left;
  int64_t y0, y1, x0, x1;
  inside(top, s.kh, s.dilation_h, s.h, y0, y1);
  inside(left, s.kw, s.dilation_w, s.w, x0, x1);
  Taps t{(n * s.h + top + y0 * s.dilation_h) * s.w + left + x0 * s.dilation_w,
         y1 - y0,
         x1 - x0,
         s.dilation_h * s.w,
         s.dilation_w,
         (y1 - y0) * (x1 - x0)};
  if (padding_counts) {  // but not what ceil_mode adds behind it
    int64_t py0, py1, px0, px1;
    inside(top + s.pad_top, s.kh, s.dilation_h, s.h + s.pad_top + s.pad_bottom, py0, py1);
    inside(left + s.pad_left, s.kw, s.dilation_w, s.w + s.pad_left + s.pad_right, px0, px1);
    t.count = (py1 - py0) * (px1 - px0);
  }
  return t;
}

// f(first output pixel's row, channels begin, end): rows of pixels, and blocks of channels where
// rows are few (a global pool).
template <class F>
void for_pool_tasks(const PoolShape& s, ThreadPool& pool, const F& f) {
  const int64_t rows = s.n * s.oh, block = rows >= 8 ? s.c : 4 * Vec::width;
  const int64_t blocks = s.c > 0 ? (s.c + block - 1) / block : 0;
  auto task = [&](int64_t i, int) {
    const int64_t begin = i % blocks * block, end = begin + block;
    f(i / blocks, begin, end < s.c ? end : s.c);
  };
  pool.run(rows * blocks, task);
}

template <class T, int bytes>
int64_t max_channels(const PoolShape& s, const Taps& t, const T* x, T* y, int64_t c, int64_t end,
                     T least) {
  typedef T V __attribute__((vector_size(bytes)));
  constexpr int64_t lanes = bytes / static_cast<int64_t>(sizeof(T));
  for (; c + lanes <= end; c += lanes) {
    V most;
    for (int64_t i = 0; i < lanes; ++i) most[i] = least;
    for (int64_t ky = 0; ky < t.rows; ++ky) {
      const T* p = x + (t.pixel + ky * t.row_step) * s.c + c;
      for (int64_t kx = 0; kx < t.columns; ++kx, p += t.column_step * s.c) {
        V v;
        __builtin_memcpy(&v, p, bytes);
        most = (v > most) | (v != v) ? v : most;  // NaN stays, as in torch
      }
    }
    __builtin_memcpy(y + c, &most, bytes);
  }
  return c;
}

template <class T>
void max_pool_of(const MaxPool& args, ThreadPool& pool, T least) {
  const PoolShape& s = args.shape;
  const T* x = static_cast<const T*>(args.x);
  constexpr int64_t few = 16 / sizeof(T);
  for_pool_tasks(s, pool, [&](int64_t row, int64_t begin, int64_t end) {
    for (int64_t ox = 0; ox < s.ow; ++ox) {
      const Taps t = taps_of(s, row / s.oh, row % s.oh, ox, false);
      T* y = static_cast<T*>(args.y) + (row * s.ow + ox) * s.c;
      int64_t c = max_channels<T, 4 * Vec::width>(s, t, x, y, begin, end, least);
      c = max_channels<T, 16>(s, t, x, y, c, end, least);
      if (c < end && end - begin >= few)  // the last ones, some of them again
        c = max_channels<T, 16>(s, t, x, y, end - few, end, least);
      c = max_channels<T, 8>(s, t, x, y, c, end, least);
      max_channels<T, sizeof(T)>(s, t, x, y, c, end, least);
    }
  });
}

void max_pool(const MaxPool& args, ThreadPool& pool) {
  switch (args.element) {
    case Element::f32:
      return max_pool_of<float>(args, pool, -__builtin_inff());
    case Element::u8:
      return max_pool_of<uint8_t>(args, pool, 0);
    case Element::s8:
      return max_pool_of<int8_t>(args, pool, -128);
  }
}

// The sum over the taps of V::width channels from c.
inline VecF average_sum(const AveragePool& args, const Taps& t, int64_t c, int n) {
  VecF sum = Vec::set(0);
  for (int64_t ky = 0; ky < t.rows; ++ky) {
    const float* p =
        static_cast<const float*>(args.x) + (t.pixel + ky * t.row_step) * args.shape.c + c;
    for (int64_t kx = 0; kx < t.columns; ++kx, p += t.column_step * args.shape.c)
      sum = Vec::add(sum, load_part(p, n));
  }
  return sum;
}

inline Vec::I average_sum_int(const AveragePool& args, const Taps& t, int64_t c, int n,
                              const ByteLoader& loader, int32_t offset) {
  Vec::I sum = Vec::set_int(offset);
  for (int64_t ky = 0; ky < t.rows; ++ky) {
    const uint8_t* p =
        static_cast<const uint8_t*>(args.x) + (t.pixel + ky * t.row_step) * args.shape.c + c;
    for (int64_t kx = 0; kx < t.columns; ++kx, p += t.column_step * args.shape.c)
      sum = Vec::add_int(sum, loader.flipped(p, n));
  }
  return sum;
}

void average_pool(const AveragePool& args, ThreadPool& pool) {
  const PoolShape& s = args.shape;
  const bool floats = args.x_element == Element::f32;
  const ByteLoader loader(args.x_element, args.x_zero_point);
  const Finish finish(args.clamp_lo, args.clamp_hi, args.y_element, args.y_zero_point);
  for_pool_tasks(s, pool, [&](int64_t row, int64_t begin, int64_t end) {
    for (int64_t ox = 0; ox < s.ow; ++ox) {
      const Taps t = taps_of(s, row / s.oh, row % s.oh, ox, args.count_include_pad);
      const int64_t pixel = (row * s.ow + ox) * s.c;
      if (floats) {
        const VecF count = Vec::set(static_cast<float>(t.count));
        for_vectors(begin, end, [&](int64_t c, int n) {
          finish.store(args.y, pixel + c, Vec::div(average_sum(args, t, c, n), count), n);
        });
      } else {
        const VecF multiplier = Vec::set(args.multipliers[t.count]);
        const int32_t offset = -loader.flipped_zero() * static_cast<int32_t>(t.rows * t.columns);
        for_vectors(begin, end, [&](int64_t c, int n) {
          const Vec::I sum = average_sum_int(args, t, c, n, loader, offset);
          finish.store(args.y, pixel + c, Vec::mul(Vec::to_float(sum), multiplier), n);
        });
      }
    }
  });
}

}  // namespace
}  // namespace octavo::cpu
