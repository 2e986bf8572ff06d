// Extremes and counts on every instruction set, against one value at a time in float64.
#include "backends/cpu/histogram.h"

#include <bit>

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

class Histogram : public KernelTest {
 protected:
  template <class F>
  void on_every_isa(const F& f) {
    for (const Table& table : tables) {
      if (table.isa > hardware_isa()) continue;
      SCOPED_TRACE(isa_name(table.isa));
      f(table.kernels().histogram);
      if (HasFatalFailure()) return;
    }
  }
};

TEST_F(Histogram, Extremes) {
  for (int i = 0; i < 200; ++i) {
    const int64_t count = pick(0, 5) ? pick(1, 150) : 5000;
    std::vector<float> x = values(count, 5);
    const float offset = real(-20, 20);
    for (float& v : x) v += offset;
    const float low = std::ranges::min(x), high = std::ranges::max(x);
    const auto at = static_cast<size_t>(pick(0, count - 1));
    for (const float bad : {0.0f, NAN, INFINITY, -INFINITY}) {
      const float kept = x[at];
      if (bad != 0) x[at] = bad;
      on_every_isa([&](const HistogramKernels& kernels) {
        const Extremes e = kernels.extremes(x.data(), count);
        ASSERT_EQ(e.finite, bad == 0) << "element " << at << " of " << count;
        if (!e.finite) return;
        ASSERT_EQ(e.min, low);
        ASSERT_EQ(e.max, high);
      });
      x[at] = kept;
      if (HasFatalFailure()) return;
    }
  }
}

// The bin is exact in float64; what lies below zero is never in the bin of zero.
TEST_F(Histogram, Counts) {
  static uint16_t counted[histogram_tables][histogram_bins];
  for (int i = 0; i < 60; ++i) {
    const int64_t count = pick(0, 5) ? pick(1, 300) : histogram_chunk;
    const auto exponent = static_cast<int>(pick(-90, 90));
    const float limit = std::ldexp(1.0f, exponent);
    const float scale = static_cast<float>(histogram_bins) / (2 * limit);
    const float width = 2 * limit / histogram_bins;
    std::vector<float> x = values(count);
    for (float& v : x) {
      v = std::clamp(v * limit / 4, -limit, limit);
      const float edge = static_cast<float>(pick(-2048, 2048)) * width;
      const float special[] = {0,
                               -0.0f,
                               -1e-45f,
                               1e-45f,
                               limit,
                               -limit,
                               edge,
                               std::nextafter(edge, -limit),
                               std::nextafter(edge, limit)};
      if (pick(0, 2) == 0) v = special[pick(0, 8)];
    }
    std::vector<int64_t> wanted(histogram_bins, 0);
    for (const float v : x) {
      const double bin = std::floor(static_cast<double>(v) * static_cast<double>(scale)) + 2048;
      ++wanted[static_cast<size_t>(std::min<double>(bin, histogram_bins - 1))];
    }
    on_every_isa([&](const HistogramKernels& kernels) {
      std::memset(counted, 0, sizeof counted);
      kernels.count(x.data(), count, scale, counted);
      for (size_t b = 0; b < histogram_bins; ++b) {
        int64_t sum = 0;
        for (const auto& table : counted) sum += table[b];
        ASSERT_EQ(sum, wanted[b]) << "bin " << b << ", limit 2^" << exponent;
      }
    });
    if (HasFatalFailure()) return;
  }
}

// Every step rounded to float32, as the formula has it: edges and their neighbours are hard.
TEST_F(Histogram, Magnitudes) {
  for (int i = 0; i < 300; ++i) {
    const int64_t count = pick(0, 5) ? pick(1, 300) : 5000;
    const auto bins = static_cast<int>(pick(0, 9) ? pick(1, 5000) : pick(1, most_magnitude_bins));
    const auto n = static_cast<float>(bins);
    // The last edge, from the least denormal on; the factor keeps all below infinity.
    const float last =
        pick(0, 9) ? std::ldexp(real(1, 2), static_cast<int>(pick(-140, 127))) : 1e-45f;
    const float factor = last > 0x1p80f ? 0x1p-40f : 1;
    const MagnitudeBins where{bins, factor, last * factor};
    std::vector<float> x = values(count);
    for (float& v : x) {
      v = std::min(std::abs(v) / 5, 1.0f) * last;
      const float edge = static_cast<float>(pick(0, bins)) / n * last;
      const float special[] = {0, last, edge, std::nextafter(edge, 0.0f),
                               std::nextafter(edge, last)};
      if (pick(0, 2) == 0) v = special[pick(0, 4)];
      v = std::min(v, last);
      if (pick(0, 1)) v = -v;
    }
    float most = 0;
    for (const float v : x) most = std::max(most, std::fabs(v));
    const float before = pick(0, 1) ? most / 2 : std::min(most, 1e38f) * 2;
    std::vector<int64_t> wanted(static_cast<size_t>(bins), 0);
    for (const float v : x) {
      const float t = std::fabs(v) * factor * n;
      ++wanted[static_cast<size_t>(std::min(std::floor(t / (last * factor)), n - 1))];
    }
    std::vector<uint16_t> counted;
    on_every_isa([&](const HistogramKernels& kernels) {
      counted.assign(static_cast<size_t>(histogram_tables * bins), 0);
      auto largest = std::bit_cast<int32_t>(before);
      const int64_t zeros =
          kernels.count_magnitudes(x.data(), count, where, counted.data(), &largest);
      ASSERT_EQ(std::bit_cast<float>(largest), std::max(most, before));
      for (size_t b = 0; b < wanted.size(); ++b) {
        int64_t sum = 0;
        for (size_t t = 0; t < histogram_tables; ++t) sum += counted[t * wanted.size() + b];
        if (b == 0) sum += zeros;
        ASSERT_EQ(sum, wanted[b]) << "bin " << b << " of " << bins << ", last edge " << last;
      }
    });
    if (HasFatalFailure()) return;
  }
}

TEST_F(Histogram, KeepsWhatIsLarge) {
  for (int i = 0; i < 300; ++i) {
    const int64_t count = pick(1, 300);
    std::vector<float> x = values(count);
    const float floor = std::max(std::fabs(x[0]), 1e-45f);
    for (float& v : x) {
      const float special[] = {0,        floor,
                               -floor,   std::nextafter(floor, 0.0f),
                               INFINITY, std::numeric_limits<float>::quiet_NaN()};
      if (pick(0, 4) == 0) v = special[pick(0, 5)];
    }
    std::vector<float> wanted;
    for (const float v : x)
      if (!(std::fabs(v) < floor)) wanted.push_back(std::fabs(v));
    on_every_isa([&](const HistogramKernels& kernels) {
      std::vector<float> kept(static_cast<size_t>(count + keep_room));
      const int64_t n = kernels.keep_large(x.data(), count, floor, kept.data());
      ASSERT_EQ(n, static_cast<int64_t>(wanted.size()));
      const auto same = [](float a, float b) {
        return std::bit_cast<int32_t>(a) == std::bit_cast<int32_t>(b);
      };
      ASSERT_TRUE(std::equal(wanted.begin(), wanted.end(), kept.begin(), same));
    });
    if (HasFatalFailure()) return;
  }
}

// As many equal values as a table counts, all in one bin: no counter wraps.
TEST_F(Histogram, AChunkOfEqualValues) {
  static uint16_t counted[histogram_tables][histogram_bins];
  const std::vector<float> x(histogram_chunk, 0.3f);
  on_every_isa([&](const HistogramKernels& kernels) {
    std::memset(counted, 0, sizeof counted);
    kernels.count(x.data(), histogram_chunk, 2048, counted);
    int64_t sum = 0;
    for (const auto& table : counted) sum += table[2048 + 614];  // 0.3 * 2048 = 614.4
    ASSERT_EQ(sum, histogram_chunk);
  });
}

}  // namespace
}  // namespace octavo::cpu
