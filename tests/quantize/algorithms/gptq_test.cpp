#include "quantize/algorithms/gptq.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "quantize/algorithms/second_moments.h"
#include "support/cpu.h"

namespace octavo {
namespace {

// ---- the textbook, in float64: explicit inverse, its upper Cholesky factor, update after update

using Matrix = std::vector<std::vector<double>>;

Matrix inverse(Matrix a) {
  const size_t n = a.size();
  Matrix b(n, std::vector<double>(n, 0));
  for (size_t i = 0; i < n; ++i) b[i][i] = 1;
  for (size_t i = 0; i < n; ++i) {
    size_t pivot = i;
    for (size_t r = i; r < n; ++r)
      if (std::abs(a[r][i]) > std::abs(a[pivot][i])) pivot = r;
    std::swap(a[i], a[pivot]), std::swap(b[i], b[pivot]);
    const double d = a[i][i];
    for (size_t c = 0; c < n; ++c) a[i][c] /= d, b[i][c] /= d;
    for (size_t r = 0; r < n; ++r) {
      if (r == i) continue;
      const double f = a[r][i];
      for (size_t c = 0; c < n; ++c) a[r][c] -= f * a[i][c], b[r][c] -= f * b[i][c];
    }
  }
  return b;
}

Matrix upper_factor(const Matrix& a) {  // U with a = U' U
  const size_t n = a.size();
  Matrix u(n, std::vector<double>(n, 0));
  for (size_t i = 0; i < n; ++i)
    for (size_t j = i; j < n; ++j) {
      double sum = a[i][j];
      for (size_t p = 0; p < i; ++p) sum -= u[p][i] * u[p][j];
      u[i][j] = i == j ? std::sqrt(sum) : sum / u[i][i];
    }
  return u;
}

Matrix damped(const Moments& moments, double damping) {
  const size_t n = moments.size;
  Matrix h(n, std::vector<double>(n));
  double trace = 0;
  for (size_t i = 0; i < n; ++i) trace += moments.values[i * n + i];
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j)
      h[i][j] = moments.values[i * n + j] +
                (i == j ? damping * trace / static_cast<double>(n) + 1e-12 : 0);
  return h;
}

double form(const Matrix& h, const std::vector<double>& d) {
  double sum = 0;
  for (size_t i = 0; i < d.size(); ++i)
    for (size_t j = 0; j < d.size(); ++j) sum += d[i] * h[i][j] * d[j];
  return sum;
}

double clamp_round(double v) { return std::clamp(std::nearbyint(v), -127.0, 127.0); }

// Where each weight may go: multiples of `step` from low to high times it.
struct Grid {
  double step, low, high;
  double operator()(double v) const { return std::clamp(std::nearbyint(v / step), low, high); }
};

std::vector<double> textbook(std::vector<double> w, const std::vector<Grid>& grids,
                             const Matrix& h) {
  const size_t n = w.size();
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return h[a][a] > h[b][b]; });
  Matrix permuted(n, std::vector<double>(n));
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) permuted[i][j] = h[order[i]][order[j]];
  const Matrix u = upper_factor(inverse(permuted));
  std::vector<double> q(n);
  for (size_t j = 0; j < n; ++j) {
    const double value = w[order[j]];
    q[order[j]] = grids[order[j]](value);
    const double e = (value - q[order[j]] * grids[order[j]].step) / u[j][j];
    for (size_t k = j + 1; k < n; ++k) w[order[k]] -= e * u[j][k];
  }
  return q;
}

std::vector<double> textbook(const std::vector<double>& w, double scale, const Matrix& h) {
  return textbook(w, std::vector<Grid>(w.size(), {scale, -127, 127}), h);
}

struct Problem {
  WeightRows rows;
  std::vector<float> scales;
  Moments moments;
};

Problem random_problem(std::mt19937_64& random, size_t channels, size_t length, size_t samples) {
  std::normal_distribution<double> normal;
  Problem p{{channels, length, std::vector<float>(channels * length)}, {}, {}};
  for (float& v : p.rows.values) v = static_cast<float>(normal(random));
  p.scales = max_scales(p.rows);
  p.moments = {length, std::vector<double>(length * length, 0)};
  std::vector<double> mixed(length), raw(length);
  Matrix mix(length, std::vector<double>(length));
  for (auto& row : mix)
    for (double& v : row) v = normal(random);
  for (size_t s = 0; s < samples; ++s) {
    for (double& v : raw) v = normal(random);
    for (size_t i = 0; i < length; ++i)
      mixed[i] = std::inner_product(raw.begin(), raw.end(), mix[i].begin(), 0.0);
    for (size_t i = 0; i < length; ++i)
      for (size_t j = 0; j < length; ++j)
        p.moments.values[i * length + j] += mixed[i] * mixed[j] / static_cast<double>(samples);
  }
  return p;
}

TEST(Gptq, IsTheTextbooksStepByStep) {
  const auto seed = static_cast<uint64_t>(std::random_device{}());
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937_64 random(seed);
  ThreadPool pool(2);
  for (const size_t length : {1u, 2u, 9u, 31u, 33u, 70u}) {
    const Problem p = random_problem(random, 21, length, 3 * length);
    const auto q = gptq_round(p.rows, p.scales, 0, 21, p.moments, 0.1, pool);
    const Matrix h = damped(p.moments, 0.1);
    size_t different = 0;
    for (size_t o = 0; o < 21; ++o) {
      const std::vector<double> w(p.rows.values.begin() + static_cast<ptrdiff_t>(o * length),
                                  p.rows.values.begin() + static_cast<ptrdiff_t>((o + 1) * length));
      const double scale = p.scales[o];
      const auto want = textbook(w, scale, h);
      std::vector<double> d(length), nearest(length);
      for (size_t k = 0; k < length; ++k) d[k] = w[k] / scale - want[k];
      for (size_t k = 0; k < length; ++k) nearest[k] = w[k] / scale - clamp_round(w[k] / scale);
      if (form(h, nearest) < form(h, d) * (1 + 1e-9)) continue;  // ours takes nearest then
      bool same = true;
      for (size_t k = 0; k < length; ++k) same = same && q[o * length + k] == want[k];
      different += !same;
    }
    // The two differ in the last bits of float64: a value that close to a tie is one in 1e9.
    EXPECT_EQ(different, 0u) << "length " << length;
  }
}

TEST(Gptq, IsNeverWorseThanNearestAndMostlyBetter) {
  const auto seed = static_cast<uint64_t>(std::random_device{}());
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937_64 random(seed);
  ThreadPool pool(2);
  size_t better = 0, rows = 0;
  for (int round = 0; round < 20; ++round) {
    const size_t length = 2 + random() % 40, samples = 1 + random() % 60;
    const Problem p = random_problem(random, 17, length, samples);
    const auto q = gptq_round(p.rows, p.scales, 3, 11, p.moments, 0.1, pool);
    const Matrix h = damped(p.moments, 0.1);
    for (size_t o = 3; o < 14; ++o, ++rows) {
      std::vector<double> ours(length), nearest(length);
      for (size_t k = 0; k < length; ++k) {
        const double w = static_cast<double>(p.rows.values[o * length + k]) / p.scales[o];
        ours[k] = w - q[(o - 3) * length + k];
        nearest[k] = w - clamp_round(w);
      }
      EXPECT_LE(form(h, ours), form(h, nearest) * (1 + 1e-9));
      better += form(h, ours) < 0.999 * form(h, nearest);
    }
  }
  EXPECT_GT(better, rows / 2);
}

TEST(Gptq, InGroupsIsTheTextbooksOnTheGridOfEachGroup) {
  const auto seed = static_cast<uint64_t>(std::random_device{}());
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937_64 random(seed);
  ThreadPool pool(2);
  double ours_all = 0, nearest_all = 0;
  for (const GroupScheme& scheme : {GroupScheme{4, false, 8}, GroupScheme{4, true, 16},
                                    GroupScheme{8, true, 32}, GroupScheme{4, false, 0}})
    for (const size_t length : {1u, 8u, 33u, 70u}) {
      const Problem p = random_problem(random, 19, length, 3 * length);
      const GroupedRows nearest = quantize_rows(p.rows, scheme, "mse");
      GroupedRows ours = nearest;
      gptq_round(p.rows, ours, p.moments, 0.1, pool);
      EXPECT_EQ(ours.scales, nearest.scales);
      EXPECT_EQ(ours.zeros, nearest.zeros);
      const Matrix h = damped(p.moments, 0.1);
      const size_t group = scheme.group ? static_cast<size_t>(scheme.group) : length;
      for (size_t o = 0; o < 19; ++o) {
        std::vector<double> w(length), ours_error(length), nearest_error(length), error(length);
        std::vector<Grid> grids(length);
        for (size_t k = 0; k < length; ++k) {
          w[k] = p.rows.values[o * length + k];
          const size_t at = o * nearest.groups + (nearest.groups > 1 ? k / group : 0);
          const int zero = scheme.bits == 4 && !scheme.symmetric ? nearest.zeros[at] : 0;
          const int least = scheme.bits == 8 ? -127 : scheme.symmetric ? -8 : 0;
          const int most = scheme.bits == 8 ? 127 : least + 15;
          grids[k] = {nearest.scales[at], static_cast<double>(least - zero),
                      static_cast<double>(most - zero)};
          ours_error[k] = w[k] - (ours.values[o * length + k] - zero) * grids[k].step;
          nearest_error[k] = w[k] - grids[k](w[k]) * grids[k].step;
        }
        const auto want = textbook(w, grids, h);
        for (size_t k = 0; k < length; ++k) error[k] = w[k] - want[k] * grids[k].step;
        // The two differ in the last bits of float64: a value that close to a tie is one in 1e9.
        const double least = std::min(form(h, error), form(h, nearest_error));
        EXPECT_NEAR(form(h, ours_error), least, 1e-9 * least) << o << " of " << length;
        ours_all += form(h, ours_error), nearest_all += form(h, nearest_error);
      }
    }
  EXPECT_LT(ours_all, 0.8 * nearest_all);
}

TEST(Gptq, DependsOnNoThreadCountAndBearsDeadInputs) {
  std::mt19937_64 random(7);
  Problem p = random_problem(random, 40, 100, 150);
  for (size_t k = 0; k < 100; ++k)  // inputs 3 and 50 are always zero
    for (size_t dead : {3u, 50u})
      p.moments.values[k * 100 + dead] = p.moments.values[dead * 100 + k] = 0;
  ThreadPool one(1), three(3);
  EXPECT_EQ(gptq_round(p.rows, p.scales, 0, 40, p.moments, 0.1, one),
            gptq_round(p.rows, p.scales, 0, 40, p.moments, 0.1, three));
  const Moments zero{100, std::vector<double>(10000, 0)};
  EXPECT_EQ(gptq_round(p.rows, p.scales, 0, 40, zero, 0.1, one),
            round_to_nearest(p.rows, p.scales));
}

TEST(Gptq, CholeskyFindsTheFactorAndRefusesWhatHasNone) {
  std::mt19937_64 random(5);
  ThreadPool pool(3);
  for (const size_t n : {1u, 5u, 32u, 33u, 100u}) {
    const Problem p = random_problem(random, 1, n, 4 * n);
    std::vector<double> a = p.moments.values;
    ASSERT_TRUE(cholesky(a, n, pool));
    double worst = 0, most = 0;
    for (size_t i = 0; i < n; ++i)
      for (size_t j = 0; j <= i; ++j) {
        double sum = 0;
        for (size_t k = 0; k <= j; ++k) sum += a[i * n + k] * a[j * n + k];
        worst = std::max(worst, std::abs(sum - p.moments.values[i * n + j]));
        most = std::max(most, std::abs(p.moments.values[i * n + j]));
      }
    // Backward error of Cholesky: (n + 1) units in the last place of the largest element.
    EXPECT_LE(worst, static_cast<double>(n + 1) * 2.3e-16 * most);
  }
  std::vector<double> indefinite{1, 0, 2, 1};
  EXPECT_FALSE(cholesky(indefinite, 2, pool));
}

TEST(SecondMoments, AreTheSameOnEveryIsa) {
  std::mt19937_64 random(11);
  const size_t columns = 32768;
  ShortMatrix x(4, columns), y(4, columns);
  for (size_t i = 0; i < 4; ++i)
    for (size_t n = 0; n < columns; ++n) {  // the largest sums there are, and mixed ones
      x.row(i)[n] = static_cast<int16_t>(i == 0 ? 255 : static_cast<int>(random() % 511) - 255);
      y.row(i)[n] = static_cast<int16_t>(i == 0 ? 255 : static_cast<int>(random() % 511) - 255);
    }
  int64_t want[16] = {};
  for (size_t i = 0; i < 4; ++i)
    for (size_t j = 0; j < 4; ++j)
      for (size_t n = 0; n < columns; ++n) want[4 * i + j] += int64_t{x.row(i)[n]} * y.row(j)[n];
  std::vector<MomentsTile> tiles{moments_tile_portable};
  if (hardware_isa() >= Isa::avx2) tiles.push_back(moments_tile_avx2);
  if (hardware_isa() >= Isa::avx512) tiles.push_back(moments_tile_avx512);
  for (const MomentsTile tile : tiles) {
    int32_t got[16];
    tile(x.row(0), y.row(0), x.stride(), got);
    for (size_t k = 0; k < 16; ++k) EXPECT_EQ(got[k], want[k]) << k;
  }
}

TEST(SecondMoments, AddUpForAnyNumberOfRows) {
  std::mt19937_64 random(13);
  ThreadPool pool(3);
  for (const size_t rows : {1u, 3u, 4u, 7u, 18u}) {
    ShortMatrix x(rows, 50);
    for (size_t i = 0; i < rows; ++i)
      for (size_t n = 0; n < 50; ++n) x.row(i)[n] = static_cast<int16_t>(random() % 511 - 255);
    std::vector<int64_t> sums(rows * rows, 0);
    add_products(x, sums, pool);
    add_products(x, sums, pool);
    for (size_t i = 0; i < rows; ++i)
      for (size_t j = 0; j <= i; ++j) {
        int64_t want = 0;
        for (size_t n = 0; n < 50; ++n) want += 2 * int64_t{x.row(i)[n]} * x.row(j)[n];
        EXPECT_EQ(sums[i * rows + j], want);
      }
  }
}

}  // namespace
}  // namespace octavo
