// What training and FP8 need of affine.h, on every instruction set, against one value at a time.
#include "backends/cpu/affine.h"
#include "backends/cpu/kernel_test.h"
#include "backends/cpu/vector_kernels.h"

namespace octavo::cpu {
namespace {

struct Table {
  Isa isa;
  const VectorKernels& (*kernels)();
};
constexpr Table tables[] = {{Isa::portable, vector_kernels_portable},
                            {Isa::avx2, vector_kernels_avx2},
                            {Isa::avx512, vector_kernels_avx512}};

template <class T>
const AffineKernels<T>& of(const VectorKernels& kernels) {
  if constexpr (std::is_same_v<T, double>)
    return kernels.affine_f64;
  else
    return kernels.affine;
}

// Half to even among the 8-bit values, by looking at all of them.
double nearest_e4m3(double v) {
  if (std::isnan(v)) return v;
  double best = 0, distance = INFINITY;
  int best_code = 0;
  for (int code = 0; code < 0x7f; ++code) {  // 0x7f is NaN
    const int exponent = code >> 3, fraction = code & 7;
    const double value =
        exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
    const double d = std::abs(std::abs(v) - value);
    if (d < distance || (d == distance && best_code % 2 == 1 && code % 2 == 0))
      best = value, distance = d, best_code = code;
  }
  return std::isinf(v) ? std::copysign(448, v) : std::copysign(best, v);
}

class AffineTraining : public KernelTest {
 protected:
  template <class T>
  std::vector<T> random(int64_t count, float scale) {
    const std::vector<float> v = values(count, scale);
    std::vector<T> result(v.begin(), v.end());
    const T special[] = {NAN, INFINITY, -INFINITY, 0, T(-0.0), 1, -1, 448, T(0x1p-24)};
    for (T& x : result)
      if (pick(0, 20) == 0) x = special[pick(0, 8)];
    return result;
  }
  // f(kernels) for each instruction set.
  template <class T, class F>
  void each(const F& f) {
    for (const Table& table : tables) {
      if (table.isa > hardware_isa()) continue;
      SCOPED_TRACE(isa_name(table.isa));
      f(of<T>(table.kernels()));
    }
  }
  template <class T>
  void bounds();
  template <class T>
  void steps();
  template <class T>
  void fp8();
};

template <class T>
void AffineTraining::bounds() {
  for (int i = 0; i < 100; ++i) {
    BoundsRun<T> run;
    run.count = pick(1, 70);
    run.per_element = pick(0, 1) > 0;
    const auto count = static_cast<size_t>(run.count);
    std::vector<T> low(count), high(count);
    for (size_t k = 0; k < count; ++k) {
      low[k] = static_cast<T>(-pick(0, 2));
      high[k] = static_cast<T>(pick(0, 2));
    }
    run.low = low.data(), run.high = high.data();
    const auto x = random<T>(run.count, 1.5f), g = random<T>(run.count, 1);
    each<T>([&](const AffineKernels<T>& kernels) {
      std::vector<T> y(count), in(count), gx(count), gl(count), gh(count);
      kernels.clip(run, x.data(), y.data());
      kernels.inside(run, g.data(), x.data(), in.data());
      kernels.clip_gradient(run, g.data(), x.data(), gx.data(), gl.data(), gh.data());
      const auto same = [](T a, T b) { return a == b || (std::isnan(a) && std::isnan(b)); };
      for (size_t k = 0; k < count; ++k) {
        const T lo = low[run.per_element ? k : 0], hi = high[run.per_element ? k : 0];
        const T clipped = x[k] < lo ? lo : x[k] > hi ? hi : x[k];
        ASSERT_TRUE(same(y[k], clipped)) << x[k];
        ASSERT_TRUE(same(in[k], x[k] >= lo && x[k] <= hi ? g[k] : 0)) << x[k];
        ASSERT_TRUE(same(gx[k], x[k] > lo && x[k] < hi ? g[k] : 0)) << x[k];
        ASSERT_TRUE(same(gl[k], x[k] <= lo ? g[k] : 0)) << x[k];
        ASSERT_TRUE(same(gh[k], x[k] >= hi ? g[k] : 0)) << x[k];
      }
    });
  }
}

template <class T>
void AffineTraining::steps() {
  for (int i = 0; i < 100; ++i) {
    AffineRun<T> run;
    run.count = pick(1, 70);
    run.how = static_cast<AffineScale>(pick(0, 2));
    run.least = -8, run.most = 7;
    const T scale = static_cast<T>(std::exp2(real(-3, 3))), zero = static_cast<T>(pick(-8, 7));
    run.scale = &scale;
    run.zero = &zero;
    const auto count = static_cast<size_t>(run.count);
    const T step = run.how == AffineScale::multiply ? 1 / scale : scale;
    std::vector<T> x = random<T>(run.count, 5), g(count, T(1.5));
    for (T& v : x) v *= step;
    each<T>([&](const AffineKernels<T>& kernels) {
      std::vector<T> gx(count), gs(count);
      kernels.fake_gradient(run, g.data(), x.data(), gx.data());
      for (size_t k = 0; k < count; ++k) {
        const volatile T inverse = 1 / scale;
        const volatile T r = run.how == AffineScale::multiply ? x[k] * scale
                             : run.how == AffineScale::divide ? x[k] / scale
                                                              : x[k] * inverse;
        const T q = std::nearbyint(T(r)) + zero;
        ASSERT_EQ(gx[k], q >= -8 && q <= 7 ? T(1.5) : T(0)) << x[k];
      }
      AffineRun<T> lsq = run;
      lsq.how = AffineScale::divide;
      kernels.step_gradient(lsq, g.data(), x.data(), gx.data(), gs.data());
      for (size_t k = 0; k < count; ++k) {
        const volatile T v = x[k] / scale;
        const T lo = -8 - zero, hi = 7 - zero;
        ASSERT_EQ(gx[k], v > lo && v < hi ? T(1.5) : T(0)) << x[k];
        const volatile T between = std::nearbyint(T(v)) - v;
        ASSERT_EQ(gs[k], std::isnan(T(v)) ? T(0)
                                          : T(1.5) * (v <= lo   ? lo
                                                      : v >= hi ? hi
                                                                : between))
            << x[k];
      }
    });
  }
}

template <class T>
void AffineTraining::fp8() {
  for (int i = 0; i < 30; ++i) {
    Fp8Run<T> run;
    run.count = pick(1, 200);
    run.per_element = pick(0, 1) > 0;
    const auto count = static_cast<size_t>(run.count);
    std::vector<T> scale(count), x = random<T>(run.count, 1);
    // Powers of two, so that scaling is exact and the search is its own oracle.
    for (T& s : scale) s = static_cast<T>(std::exp2(pick(-3, 3)));
    for (T& v : x) v *= static_cast<T>(std::exp2(pick(-14, 10)));
    run.scale = scale.data();
    each<T>([&](const AffineKernels<T>& kernels) {
      std::vector<T> y(count);
      kernels.fp8(run, x.data(), y.data());
      for (size_t k = 0; k < count; ++k) {
        const double s = static_cast<double>(scale[run.per_element ? k : 0]);
        const double expected = std::abs(static_cast<double>(x[k])) < 0x1p-24
                                    ? 0
                                    : nearest_e4m3(static_cast<double>(x[k]) * s) / s;
        if (std::isnan(expected)) {
          ASSERT_TRUE(std::isnan(y[k]));
        } else {
          ASSERT_EQ(static_cast<double>(y[k]), expected) << x[k] << " scaled by " << s;
        }
      }
    });
  }
}

TEST_F(AffineTraining, Bounds) {
  bounds<float>();
  bounds<double>();
}
TEST_F(AffineTraining, Steps) {
  steps<float>();
  steps<double>();
}
TEST_F(AffineTraining, Fp8) {
  fp8<float>();
  fp8<double>();
}

}  // namespace
}  // namespace octavo::cpu
