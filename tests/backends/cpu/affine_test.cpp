// The three arithmetics on every instruction set, one float32 rounding at a time.
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

// volatile: each step rounds to float32, whatever the compiler would like to contract.
int32_t quantized(const AffineRun& run, float x, float s, int32_t z) {
  volatile float r = 0;
  if (run.how == AffineScale::multiply) r = x * s;
  if (run.how == AffineScale::divide) r = x / s;
  if (run.how == AffineScale::reciprocal) {
    volatile float inverse = 1.0f / s;
    r = x * inverse;
  }
  const double whole = std::isnan(r) ? 0 : std::nearbyint(static_cast<double>(r));
  return static_cast<int32_t>(
      std::clamp(whole + z, static_cast<double>(run.least), static_cast<double>(run.most)));
}

float dequantized(const AffineRun& run, int32_t q, float s, int32_t z) {
  const auto whole = static_cast<float>(q - z);
  if (run.how != AffineScale::multiply) return whole * s;
  return s == 0 ? whole : whole / s;
}

class Affine : public KernelTest {
 protected:
  // Parameters of `count` elements; integers of 2 to 16 bits, signed or not.
  AffineRun random_run(std::vector<float>& scales, std::vector<int32_t>& zeros) {
    AffineRun run;
    run.count = pick(0, 9) ? pick(0, 70) : 1024;
    run.how = static_cast<AffineScale>(pick(0, 2));
    run.per_element = pick(0, 1) > 0;
    const auto bits = pick(2, 16);
    const int64_t levels = int64_t{1} << bits, least = pick(0, 1) ? 0 : -levels / 2;
    run.least = static_cast<float>(least);
    run.most = static_cast<float>(least + levels - 1);
    const auto parameters = static_cast<size_t>(run.per_element ? run.count : 1);
    scales.resize(std::max<size_t>(parameters, 1));
    zeros.resize(scales.size());
    for (float& s : scales) {
      s = std::exp2(real(-12, 12));
      if (run.how == AffineScale::multiply && pick(0, 20) == 0) s = 0;
    }
    for (int32_t& z : zeros) z = static_cast<int32_t>(pick(least, least + levels - 1));
    run.scale = scales.data(), run.zero = zeros.data();
    return run;
  }
};

TEST_F(Affine, EveryArithmeticOnEveryInstructionSet) {
  std::vector<float> scales;
  std::vector<int32_t> zeros;
  for (int i = 0; i < 300; ++i) {
    const AffineRun run = random_run(scales, zeros);
    const auto count = static_cast<size_t>(run.count);
    const auto parameter = [&](size_t k) { return run.per_element ? k : 0; };
    std::vector<float> x = values(run.count);
    for (size_t k = 0; k < count; ++k) {
      const float s = scales[parameter(k)];
      const float step = run.how == AffineScale::multiply ? (s == 0 ? 1 : 1 / s) : s;
      const float span = run.most - run.least;
      switch (pick(0, 3)) {
        case 0:  // ties
          x[k] = (static_cast<float>(pick(-70, 70)) + 0.5f) * step;
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
      table.kernels().affine.quantize(run, x.data(), q.data());
      for (size_t k = 0; k < count; ++k)
        ASSERT_EQ(q[k], quantized(run, x[k], scales[parameter(k)], zeros[parameter(k)]))
            << x[k] << ", scale " << scales[parameter(k)] << ", zero " << zeros[parameter(k)];
      for (size_t k = count; k < q.size(); ++k) ASSERT_EQ(q[k], 77);

      std::vector<float> y(count + 16, 77);
      table.kernels().affine.dequantize(run, q.data(), y.data());
      for (size_t k = 0; k < count; ++k)
        ASSERT_EQ(y[k], dequantized(run, q[k], scales[parameter(k)], zeros[parameter(k)])) << q[k];
      for (size_t k = count; k < y.size(); ++k) ASSERT_EQ(y[k], 77);
    }
  }
}

}  // namespace
}  // namespace octavo::cpu
