// The three arithmetics on every instruction set, in float and in double, one rounding at a time.
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

// volatile: each step rounds, whatever the compiler would like to contract.
template <class T>
int32_t quantized(const AffineRun<T>& run, T x, T s, T z) {
  volatile T r = 0;
  if (run.how == AffineScale::multiply) r = x * s;
  if (run.how == AffineScale::divide) r = x / s;
  if (run.how == AffineScale::reciprocal) {
    volatile T inverse = 1 / s;
    r = x * inverse;
  }
  const double whole = std::isnan(r) ? 0 : std::nearbyint(static_cast<double>(r));
  return static_cast<int32_t>(
      std::clamp(whole + z, static_cast<double>(run.least), static_cast<double>(run.most)));
}

template <class T>
T dequantized(const AffineRun<T>& run, int32_t q, T s, T z) {
  const T whole = static_cast<T>(q) - z;
  if (run.how != AffineScale::multiply) return whole * s;
  return s == 0 ? whole : whole / s;
}

class Affine : public KernelTest {
 protected:
  // Parameters of `count` elements; integers of 2 to 16 bits, signed or not.
  template <class T>
  AffineRun<T> random_run(std::vector<T>& scales, std::vector<T>& zeros) {
    AffineRun<T> run;
    run.count = pick(0, 9) ? pick(0, 70) : 1024;
    run.how = static_cast<AffineScale>(pick(0, 2));
    run.per_element = pick(0, 1) > 0;
    const auto bits = pick(2, 16);
    const int64_t levels = int64_t{1} << bits, least = pick(0, 1) ? 0 : -levels / 2;
    run.least = static_cast<T>(least);
    run.most = static_cast<T>(least + levels - 1);
    const auto parameters = static_cast<size_t>(run.per_element ? run.count : 1);
    scales.resize(std::max<size_t>(parameters, 1));
    zeros.resize(scales.size());
    for (T& s : scales) {
      s = static_cast<T>(std::exp2(real(-12, 12)));
      if (run.how == AffineScale::multiply && pick(0, 20) == 0) s = 0;
    }
    for (T& z : zeros) z = static_cast<T>(pick(least, least + levels - 1));
    run.scale = scales.data(), run.zero = zeros.data();
    if (pick(0, 3) == 0) {
      std::fill(zeros.begin(), zeros.end(), T(0));
      run.zero = nullptr;
    }
    return run;
  }
  template <class T>
  void check();
};

template <class T>
void Affine::check() {
  std::vector<T> scales;
  std::vector<T> zeros;
  for (int i = 0; i < 300; ++i) {
    const AffineRun<T> run = random_run(scales, zeros);
    const auto count = static_cast<size_t>(run.count);
    const auto parameter = [&](size_t k) { return run.per_element ? k : 0; };
    const std::vector<float> random = values(run.count);
    std::vector<T> x(random.begin(), random.end());
    for (size_t k = 0; k < count; ++k) {
      const T s = scales[parameter(k)];
      const T step = run.how == AffineScale::multiply ? (s == 0 ? 1 : 1 / s) : s;
      const T span = run.most - run.least;
      switch (pick(0, 3)) {
        case 0:  // ties
          x[k] = (static_cast<T>(pick(-70, 70)) + T(0.5)) * step;
          break;
        case 1:  // beyond the integers
          x[k] *= span * step;
          break;
        case 2:
          x[k] *= span / 4 * step;
          break;
        default:
          if (pick(0, 5) == 0) {
            const float special[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, -0.0f, 1e-40f};
            x[k] = special[pick(0, 6)];
          }
      }
    }
    for (const Table& table : tables) {
      if (table.isa > hardware_isa()) continue;
      SCOPED_TRACE(isa_name(table.isa));
      // What lies behind the last element stays.
      std::vector<int32_t> q(count + 16, 77);
      of<T>(table.kernels()).quantize(run, x.data(), q.data());
      for (size_t k = 0; k < count; ++k)
        ASSERT_EQ(q[k], quantized(run, x[k], scales[parameter(k)], zeros[parameter(k)]))
            << x[k] << ", scale " << scales[parameter(k)] << ", zero " << zeros[parameter(k)];
      for (size_t k = count; k < q.size(); ++k) ASSERT_EQ(q[k], 77);

      std::vector<T> y(count + 16, 77);
      of<T>(table.kernels()).dequantize(run, q.data(), y.data());
      for (size_t k = 0; k < count; ++k)
        ASSERT_EQ(y[k], dequantized(run, q[k], scales[parameter(k)], zeros[parameter(k)])) << q[k];
      for (size_t k = count; k < y.size(); ++k) ASSERT_EQ(y[k], 77);

      // In one go, beside the caches from any address on, and in place.
      std::vector<T> fake(count + 32, 77);
      const auto at = static_cast<size_t>(pick(0, 15));
      of<T>(table.kernels()).fake(run, x.data(), fake.data() + at, pick(0, 1) > 0);
      for (size_t k = 0; k < fake.size(); ++k)
        ASSERT_EQ(fake[k], k >= at && k < at + count ? y[k - at] : T(77)) << k;
      std::vector<T> same = x;
      of<T>(table.kernels()).fake(run, same.data(), same.data(), false);
      for (size_t k = 0; k < count; ++k) ASSERT_EQ(same[k], y[k]);
    }
  }
}

TEST_F(Affine, EveryArithmeticOnEveryInstructionSet) { check<float>(); }
TEST_F(Affine, EveryArithmeticInFloat64) { check<double>(); }

}  // namespace
}  // namespace octavo::cpu
