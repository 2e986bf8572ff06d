// Casts to float16 and bfloat16 and back against the definition in float64: every half, floats of
// every exponent, and what lies on, just above and just below the middle of two halves.
#include "backends/cpu/cast_half.h"

#include <bit>

#include "backends/cpu/elementwise.h"
#include "backends/cpu/kernel_test.h"
#include "graph/tensor.h"

namespace octavo::cpu {
namespace {

struct Format {
  HalfType type;
  int fraction, least_exponent;  // bits behind the point; of the least normal number
  float overflow;                // from here on the magnitude rounds to infinity
  uint16_t infinity;
  float (*widen)(uint16_t);
  uint16_t (*narrow)(float);
  UnaryOp round;
};
constexpr Format formats[] = {
    {HalfType::f16, 10, -14, 65520.0f, 0x7c00, half_to_float, float_to_half, UnaryOp::round_f16},
    {HalfType::bf16, 7, -126, 0x1.ffp127f, 0x7f80, bfloat16_to_float, float_to_bfloat16,
     UnaryOp::round_bf16},
};

// By the definition of the format.
double meaning(const Format& f, uint16_t bits) {
  const int fraction = bits & ((1 << f.fraction) - 1), exponent = (bits & 0x7fff) >> f.fraction;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, f.least_exponent - f.fraction)
                                         : std::ldexp(fraction + (1 << f.fraction),
                                                      f.least_exponent - f.fraction + exponent - 1);
  return bits & 0x8000 ? -magnitude : magnitude;
}
bool is_nan(const Format& f, uint16_t bits) { return (bits & 0x7fff) > f.infinity; }
bool is_infinite(const Format& f, uint16_t bits) { return (bits & 0x7fff) == f.infinity; }

// The nearest multiple of the step that the format has there, halves to even.
double nearest(const Format& f, float value) {
  if (std::isnan(value) || std::isinf(value)) return static_cast<double>(value);
  if (std::abs(value) >= f.overflow) return std::copysign(INFINITY, static_cast<double>(value));
  const int exponent =
      std::max(value == 0 ? f.least_exponent : std::ilogb(value), f.least_exponent);
  const double step = std::ldexp(1, exponent - f.fraction);
  return std::nearbyint(static_cast<double>(value) / step) * step;
}

class CastHalves : public KernelTest {
 protected:
  std::vector<float> floats(const Format& f) {
    std::vector<float> all;
    for (int i = 0; i < 200000; ++i)
      all.push_back(std::bit_cast<float>(static_cast<uint32_t>(random_())));
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
      const auto half = static_cast<uint16_t>(bits);
      if (is_nan(f, half) || is_infinite(f, half)) continue;
      const double next =
          is_infinite(f, static_cast<uint16_t>(half + 1))
              ? static_cast<double>(half & 0x8000 ? -f.overflow : f.overflow)
              : (meaning(f, half) + meaning(f, static_cast<uint16_t>(half + 1))) / 2;
      const auto middle = static_cast<float>(next);
      all.insert(all.end(),
                 {middle, std::nextafter(middle, INFINITY), std::nextafter(middle, -INFINITY)});
    }
    for (const uint32_t bits : {0x7f800000u, 0xff800000u, 0x7fc00000u, 0x7f800001u, 0xffbfffffu,
                                0x7fffffffu, 0x80000000u, 0x00000001u, 0x807fffffu})
      all.push_back(std::bit_cast<float>(bits));
    return all;
  }
};

TEST_F(CastHalves, EveryHalfIsTheFloatThatItMeans) {
  for (const Format& f : formats) {
    std::vector<uint16_t> x(0x10000 + 3);  // a tail too
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint16_t>(i);
    std::vector<float> y(x.size());
    const CastHalf args{f.type, true, static_cast<int64_t>(x.size()), x.data(), y.data()};
    check_kernels(cast_half_kernels(), args, y, [&] {
      for (size_t i = 0; i < x.size(); ++i) {
        const auto bits = std::bit_cast<uint32_t>(y[i]);
        ASSERT_EQ(bits, std::bit_cast<uint32_t>(f.widen(x[i]))) << x[i];
        if (is_nan(f, x[i]))
          ASSERT_TRUE(std::isnan(y[i])) << x[i];
        else if (is_infinite(f, x[i]))
          ASSERT_EQ(y[i], x[i] & 0x8000 ? -INFINITY : INFINITY);
        else
          ASSERT_EQ(bits, std::bit_cast<uint32_t>(static_cast<float>(meaning(f, x[i])))) << x[i];
      }
    });
  }
}

TEST_F(CastHalves, EveryFloatIsTheNearestHalf) {
  for (const Format& f : formats) {
    const std::vector<float> x = floats(f);
    std::vector<uint16_t> y(x.size());
    const CastHalf args{f.type, false, static_cast<int64_t>(x.size()), x.data(), y.data()};
    check_kernels(cast_half_kernels(), args, y, [&] {
      for (size_t i = 0; i < x.size(); ++i) {
        ASSERT_EQ(y[i], f.narrow(x[i])) << x[i];
        ASSERT_EQ(y[i] >> 15, std::signbit(x[i])) << x[i];
        if (std::isnan(x[i]))
          ASSERT_TRUE(is_nan(f, y[i])) << x[i];
        else if (is_infinite(f, y[i]))
          ASSERT_TRUE(std::isinf(nearest(f, x[i]))) << x[i];
        else
          ASSERT_EQ(meaning(f, y[i]), nearest(f, x[i])) << x[i];
      }
    });
  }
}

TEST_F(CastHalves, RoundingIsACastAndBack) {
  for (const Format& f : formats) {
    const std::vector<float> x = floats(f);
    std::vector<float> y(x.size());
    Unary args{.op = f.round, .count = static_cast<int64_t>(x.size())};
    args.x = x.data(), args.y = y.data();
    check_kernels(unary_kernels(), args, y, [&] {
      for (size_t i = 0; i < x.size(); ++i)
        ASSERT_EQ(std::bit_cast<uint32_t>(y[i]), std::bit_cast<uint32_t>(f.widen(f.narrow(x[i]))))
            << x[i];
    });
  }
}

}  // namespace
}  // namespace octavo::cpu
