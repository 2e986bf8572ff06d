// INT8 layers of any number of rows against linear_int8.h's text, bit for bit, on every instruction
// set of this machine.
#include "backends/cpu/linear_int8.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace octavo::cpu {
namespace {

struct Layer {
  int64_t k, n;
  std::vector<int8_t> weights;
  std::vector<float> step, bias;
  std::vector<int32_t> zero_point;

  LinearInt8 packed(Isa isa) const {
    LinearInt8Weights w;
    w.k = k;
    w.n = n;
    w.weights = weights.data();
    w.step = step.data();
    w.zero_point = zero_point.empty() ? nullptr : zero_point.data();
    w.bias = bias.empty() ? nullptr : bias.data();
    return LinearInt8(w, isa);
  }
  int32_t sum(const int32_t* x, int64_t channel) const {  // of x less its zero point
    int32_t acc = 0;
    for (int64_t i = 0; i < k; ++i)
      acc += x[i] * (weights[static_cast<size_t>(channel * k + i)] -
                     (zero_point.empty() ? 0 : zero_point[static_cast<size_t>(channel)]));
    return acc;
  }
};

class LinearInt8Test : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (GetParam() > hardware_isa()) GTEST_SKIP() << "not on this machine";
    seed_ = std::random_device{}();
    random_.seed(seed_);
    RecordProperty("seed", std::to_string(seed_));
  }
  int64_t any(int64_t least, int64_t most) {
    return std::uniform_int_distribution<int64_t>(least, most)(random_);
  }
  Layer layer(int64_t k, int64_t n, bool shifted, bool biased) {
    Layer l{k, n, {}, {}, {}, {}};
    for (int64_t i = 0; i < k * n; ++i) l.weights.push_back(static_cast<int8_t>(any(-128, 127)));
    for (int64_t i = 0; i < n; ++i) {
      l.step.push_back(static_cast<float>(any(1, 1000)) * 1e-5f);
      if (biased) l.bias.push_back(static_cast<float>(any(-1000, 1000)) * 1e-2f);
      if (shifted) l.zero_point.push_back(static_cast<int32_t>(any(-128, 127)));
    }
    return l;
  }
  unsigned seed_ = 0;
  std::mt19937 random_;
};

constexpr int64_t sizes[][3] = {{1, 1, 1},     {3, 5, 7},      {1, 64, 64},
                                {33, 26, 130}, {200, 128, 48}, {2, 515, 257}};

TEST_P(LinearInt8Test, BytesEqualTheFormula) {
  ThreadPool pool(2);
  for (const auto& [rows, k, n] : sizes)
    for (const bool shifted : {false, true})
      for (const Element element : {Element::u8, Element::s8})
        for (const float huge : {1.0f, 1e12f}) {  // biases beyond the accumulator
          SCOPED_TRACE(fmt::format("seed {}, {} x {} x {}, shifted {}, s8 {}, huge {}", seed_, rows,
                                   k, n, shifted, element == Element::s8, huge));
          Layer l = layer(k, n, shifted, true);
          l.bias[0] *= huge;
          const int32_t least = element == Element::u8 ? 0 : -128;
          const auto x_zero = static_cast<int32_t>(any(least, least + 255));
          const float x_step = 0.02f;
          std::vector<uint8_t> x;
          std::vector<int32_t> centred;
          for (int64_t i = 0; i < rows * k; ++i) {
            const auto value = static_cast<int32_t>(any(least, least + 255));
            x.push_back(static_cast<uint8_t>(value));
            centred.push_back(value - x_zero);
          }
          LinearInt8Output out;
          out.element = element;
          out.step = 0.07f;
          out.zero_point = static_cast<int32_t>(any(least, least + 255));
          out.clamp_lo = any(0, 1) ? 0 : out.clamp_lo;
          std::vector<uint8_t> y(static_cast<size_t>(rows * n));
          out.y = y.data();
          l.packed(GetParam()).run(rows, x.data(), element, x_step, x_zero, out, pool);
          bool whole = true;
          for (int64_t c = 0; c < n; ++c) {
            const auto i = static_cast<size_t>(c);
            whole =
                whole && std::abs(l.bias[i] / (static_cast<double>(x_step) * l.step[i])) < 0x1p30;
          }
          for (int64_t row = 0; row < rows; ++row)
            for (int64_t c = 0; c < n; ++c) {
              const auto i = static_cast<size_t>(c);
              const double step = static_cast<double>(x_step) * l.step[i];
              const auto m = static_cast<float>(step / out.step);
              int32_t acc = l.sum(centred.data() + row * k, c);
              float f;
              if (whole) {
                acc += static_cast<int32_t>(std::nearbyint(l.bias[i] / step));
                f = static_cast<float>(acc) * m;
              } else {
                const float product = static_cast<float>(acc) * m;
                f = product + static_cast<float>(static_cast<double>(l.bias[i]) / out.step);
              }
              f = std::max(f, out.clamp_lo / out.step);
              const double q = std::nearbyint(std::clamp(f, -1000.0f, 1000.0f)) + out.zero_point;
              const auto want = static_cast<uint8_t>(
                  static_cast<int32_t>(std::clamp<double>(q, least, least + 255)));
              ASSERT_EQ(y[static_cast<size_t>(row * n + c)], want) << row << ", " << c;
            }
        }
}

TEST_P(LinearInt8Test, DynamicEqualsTheFormula) {
  ThreadPool pool(2);
  for (const auto& [rows, k, n] : sizes)
    for (const bool biased : {false, true}) {
      SCOPED_TRACE(fmt::format("seed {}, {} x {} x {}, biased {}", seed_, rows, k, n, biased));
      const Layer l = layer(k, n, false, biased);
      std::vector<float> x;
      float min = 0, max = 0;
      for (int64_t i = 0; i < rows * k; ++i) {
        x.push_back(static_cast<float>(any(-1000, 3000)) * 1e-3f);
        min = std::min(min, x.back());
        max = std::max(max, x.back());
      }
      std::vector<float> y(static_cast<size_t>(rows * n));
      LinearInt8Output out;
      out.y = y.data();
      ASSERT_TRUE(l.packed(GetParam()).run_dynamic(rows, x.data(), out, pool));
      const auto step = static_cast<float>((static_cast<double>(max) - min) / 255);
      const auto zero = static_cast<int32_t>(std::nearbyint(-static_cast<double>(min) / step));
      const float inverse = 1 / step;
      std::vector<int32_t> centred;
      centred.reserve(x.size());
      for (const float v : x)
        centred.push_back(
            std::clamp(static_cast<int32_t>(std::nearbyint(v * inverse)) + zero, 0, 255) - zero);
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t c = 0; c < n; ++c) {
          const auto i = static_cast<size_t>(c);
          const auto m = static_cast<float>(static_cast<double>(step) * l.step[i]);
          const float product = static_cast<float>(l.sum(centred.data() + row * k, c)) * m;
          ASSERT_EQ(y[static_cast<size_t>(row * n + c)], biased ? product + l.bias[i] : product);
        }
    }
}

TEST_P(LinearInt8Test, ZerosAndNotFinite) {
  ThreadPool pool(1);
  const Layer l = layer(8, 20, false, true);
  std::vector<float> x(16), y(40, 1);
  LinearInt8Output out;
  out.y = y.data();
  const LinearInt8 packed = l.packed(GetParam());
  ASSERT_TRUE(packed.run_dynamic(2, x.data(), out, pool));
  for (size_t i = 0; i < 40; ++i) EXPECT_EQ(y[i], l.bias[i % 20]);
  ASSERT_TRUE(packed.run_dynamic(0, x.data(), out, pool));
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    x[3] = bad;
    EXPECT_FALSE(packed.run_dynamic(2, x.data(), out, pool));
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, LinearInt8Test,
                         ::testing::Values(Isa::portable, Isa::avx2, Isa::avx512, Isa::vnni),
                         [](const auto& isa) { return std::string(isa_name(isa.param)); });

}  // namespace
}  // namespace octavo::cpu
