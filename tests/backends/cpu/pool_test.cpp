#include "backends/cpu/pool.h"

#include "backends/cpu/kernel_test.h"

namespace octavo::cpu {
namespace {

class Pool : public KernelTest {
 protected:
  PoolShape random_shape() {
    PoolShape s;
    s.n = pick(1, 2), s.c = pick(0, 3) ? pick(1, 90) : pick(100, 300);
    s.kh = pick(1, 4), s.kw = pick(1, 4);
    s.stride_h = pick(1, 3), s.stride_w = pick(1, 3);
    s.dilation_h = pick(1, 2), s.dilation_w = pick(1, 2);
    s.pad_top = pick(0, s.kh - 1), s.pad_left = pick(0, s.kw - 1);
    s.pad_bottom = pick(0, s.kh - 1), s.pad_right = pick(0, s.kw - 1);
    s.h = (s.kh - 1) * s.dilation_h + pick(1, 6), s.w = (s.kw - 1) * s.dilation_w + pick(1, 6);
    const int64_t ceil_h = pick(0, 1) * (s.stride_h - 1), ceil_w = pick(0, 1) * (s.stride_w - 1);
    s.oh =
        (s.h + s.pad_top + s.pad_bottom - (s.kh - 1) * s.dilation_h - 1 + ceil_h) / s.stride_h + 1;
    s.ow =
        (s.w + s.pad_left + s.pad_right - (s.kw - 1) * s.dilation_w - 1 + ceil_w) / s.stride_w + 1;
    // A window that starts in the padding behind is left out.
    if ((s.oh - 1) * s.stride_h >= s.h + s.pad_top) --s.oh;
    if ((s.ow - 1) * s.stride_w >= s.w + s.pad_left) --s.ow;
    if (pick(0, 5) == 0) s = {.n = s.n, .h = s.h, .w = s.w, .c = s.c, .kh = s.h, .kw = s.w};
    return s;
  }
};

// f(index of x) for each tap inside; returns how many are inside the padded image.
template <class F>
int64_t for_taps(const PoolShape& s, int64_t at, const F& f) {
  const int64_t c = at % s.c, ox = at / s.c % s.ow, oy = at / s.c / s.ow % s.oh;
  const int64_t n = at / s.c / s.ow / s.oh;
  int64_t padded = 0;
  for (int64_t ky = 0; ky < s.kh; ++ky)
    for (int64_t kx = 0; kx < s.kw; ++kx) {
      const int64_t iy = oy * s.stride_h + ky * s.dilation_h - s.pad_top;
      const int64_t ix = ox * s.stride_w + kx * s.dilation_w - s.pad_left;
      padded += iy < s.h + s.pad_bottom && ix < s.w + s.pad_right;
      if (iy >= 0 && iy < s.h && ix >= 0 && ix < s.w)
        f(static_cast<size_t>(((n * s.h + iy) * s.w + ix) * s.c + c));
    }
  return padded;
}

TEST_F(Pool, Max) {
  for (int i = 0; i < 90; ++i) {
    MaxPool args{.shape = random_shape(), .element = i % 3 == 0 ? Element::f32 : byte_element()};
    const PoolShape& s = args.shape;
    const bool floats = args.element == Element::f32;
    const int64_t size = s.n * s.h * s.w * s.c;
    const std::vector<float> xf = values(floats ? size : 0);
    const std::vector<uint8_t> xb = bytes(floats ? 0 : size);
    std::vector<uint8_t> y(static_cast<size_t>(s.n * s.oh * s.ow * s.c * (floats ? 4 : 1)));
    args.x = floats ? static_cast<const void*>(xf.data()) : xb.data();
    args.y = y.data();
    check_kernels(max_pool_kernels(), args, y, [&] {
      for (size_t at = 0; at < y.size() / (floats ? 4 : 1); ++at) {
        double most = floats ? -INFINITY : args.element == Element::u8 ? 0 : -128;
        for_taps(s, static_cast<int64_t>(at), [&](size_t k) {
          most = std::max<double>(most, floats ? xf[k] : byte_value(args.element, xb[k]));
        });
        ASSERT_EQ(element_at(args.element, y, at), most) << at;
      }
    });
    if (HasFatalFailure()) return;
  }
}

TEST_F(Pool, AverageOfBytesIsExact) {
  for (int i = 0; i < 90; ++i) {
    AveragePool args{.shape = random_shape(), .count_include_pad = pick(0, 1) > 0};
    const PoolShape& s = args.shape;
    args.x_element = byte_element();
    args.y_element = i % 4 == 0 ? Element::f32 : byte_element();
    args.x_zero_point = zero_point(args.x_element);
    args.y_zero_point = args.y_element == Element::f32 ? 0 : zero_point(args.y_element);
    if (pick(0, 1)) args.clamp_lo = -20.25f;
    if (pick(0, 1)) args.clamp_hi = 30.5f;
    const auto x = bytes(s.n * s.h * s.w * s.c);
    std::vector<float> multipliers;
    for (int64_t count = 0; count <= s.kh * s.kw; ++count)
      multipliers.push_back(real(0.5f, 1.5f) / static_cast<float>(std::max<int64_t>(1, count)));
    std::vector<uint8_t> y(
        static_cast<size_t>(s.n * s.oh * s.ow * s.c * (args.y_element == Element::f32 ? 4 : 1)));
    args.multipliers = multipliers.data();
    args.x = x.data(), args.y = y.data();
    check_kernels(average_pool_kernels(), args, y, [&] {
      for (int64_t at = 0; at < s.n * s.oh * s.ow * s.c; ++at) {
        int32_t sum = 0;
        int64_t count = 0;
        const int64_t padded = for_taps(s, at, [&](size_t k) {
          sum += byte_value(args.x_element, x[k]) - args.x_zero_point;
          ++count;
        });
        if (args.count_include_pad) count = padded;
        const float f = static_cast<float>(sum) * multipliers[static_cast<size_t>(count)];
        ASSERT_EQ(element_at(args.y_element, y, static_cast<size_t>(at)),
                  finish(f, args.clamp_lo, args.clamp_hi, args.y_element, args.y_zero_point))
            << at;
      }
    });
    if (HasFatalFailure()) return;
  }
}

TEST_F(Pool, AverageOfFloats) {
  for (int i = 0; i < 60; ++i) {
    AveragePool args{.shape = random_shape(), .count_include_pad = pick(0, 1) > 0};
    const PoolShape& s = args.shape;
    if (pick(0, 1)) args.clamp_lo = 0;
    const auto x = values(s.n * s.h * s.w * s.c);
    std::vector<float> y(static_cast<size_t>(s.n * s.oh * s.ow * s.c));
    args.x = x.data(), args.y = y.data();
    check_kernels(average_pool_kernels(), args, y, [&] {
      for (size_t at = 0; at < y.size(); ++at) {
        double sum = 0, magnitude = 0;
        int64_t count = 0;
        const int64_t padded = for_taps(s, static_cast<int64_t>(at), [&](size_t k) {
          sum += static_cast<double>(x[k]);
          magnitude += std::abs(static_cast<double>(x[k]));
          ++count;
        });
        const double roundings = static_cast<double>(count + 1);
        if (args.count_include_pad) count = padded;
        const double want = std::max<double>(args.clamp_lo, sum / static_cast<double>(count));
        ASSERT_LE(std::abs(y[at] - want),
                  roundings * FLT_EPSILON / 2 * 1.001 * magnitude / static_cast<double>(count));
      }
    });
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace octavo::cpu
