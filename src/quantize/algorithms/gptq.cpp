#include "quantize/algorithms/gptq.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "support/error.h"

namespace octavo {

bool cholesky(std::vector<double>& a, size_t size, ThreadPool& pool) {
  constexpr size_t panel = 32;
  std::vector<double> transposed(panel * size);  // of the panel: its columns as rows
  for (size_t begin = 0; begin < size; begin += panel) {
    const size_t end = std::min(begin + panel, size), width = end - begin;
    for (size_t j = begin; j < end; ++j) {  // the diagonal block
      double* row = &a[j * size];
      for (size_t i = begin; i <= j; ++i) {
        double sum = row[i];
        for (size_t p = begin; p < i; ++p) sum -= row[p] * a[i * size + p];
        if (i < j) {
          row[i] = sum / a[i * size + i];
        } else {
          if (!(sum > 0)) return false;
          row[j] = std::sqrt(sum);
        }
      }
    }
    auto solve = [&](int64_t i, int) {  // the rows below, against it
      const size_t r = end + static_cast<size_t>(i);
      double* row = &a[r * size];
      for (size_t j = begin; j < end; ++j) {
        double sum = row[j];
        for (size_t p = begin; p < j; ++p) sum -= row[p] * a[j * size + p];
        row[j] = sum / a[j * size + j];
        transposed[(j - begin) * size + r] = row[j];
      }
    };
    pool.run(static_cast<int64_t>(size - end), solve);
    auto update = [&](int64_t i, int) {  // what the panel explains leaves the rest
      const size_t r = size - 1 - static_cast<size_t>(i);
      double* row = &a[r * size];
      for (size_t p = 0; p < width; ++p) {
        const double factor = row[begin + p];
        const double* other = &transposed[p * size];
        for (size_t j = end; j <= r; ++j) row[j] -= factor * other[j];
      }
    };
    pool.run(static_cast<int64_t>(size - end), update);
  }
  return true;
}

namespace {

// What rounding needs of the moments: the order of the inputs, and R, upper triangular, with
// H = R R' in that order. With U = R^-1, H^-1 = U' U is the factorisation of the paper; its update
// of input j by the errors d_i of those before, sum_i d_i U_ij / U_jj over the chain of updates,
// is sum_i d_i R_ij / R_jj, so that no inverse is needed. Held by columns: column(j)[i] = R_ij.
struct Factor {
  size_t size;
  std::vector<size_t> order;
  std::vector<double> columns;
  const double* column(size_t j) const { return &columns[j * size]; }
};

Factor factorize(const Moments& moments, double damping, ThreadPool& pool) {
  const size_t size = moments.size;
  const auto& h = moments.values;
  double trace = 0;
  for (size_t i = 0; i < size; ++i) trace += h[i * size + i];
  const double ridge = damping * trace / static_cast<double>(size) + 1e-12;
  Factor factor{size, std::vector<size_t>(size), std::vector<double>(size * size)};
  std::iota(factor.order.begin(), factor.order.end(), size_t{0});
  std::stable_sort(factor.order.begin(), factor.order.end(),
                   [&](size_t a, size_t b) { return h[a * size + a] > h[b * size + b]; });
  // Cholesky runs from the last input to the first: H = R R' is L L' with both axes reversed.
  std::vector<double> a(size * size);
  for (size_t i = 0; i < size; ++i)
    for (size_t j = 0; j <= i; ++j) {
      const size_t r = factor.order[size - 1 - i], c = factor.order[size - 1 - j];
      a[i * size + j] = h[r * size + c] + (i == j ? ridge : 0);
    }
  OCTAVO_CHECK(cholesky(a, size, pool));
  for (size_t j = 0; j < size; ++j)
    for (size_t i = 0; i <= j; ++i)
      factor.columns[j * size + i] = a[(size - 1 - i) * size + size - 1 - j];
  return factor;
}

constexpr size_t lanes = 16;  // output channels that are rounded together

// Up to `lanes` rows, [size][lanes] of each: weights, the steps of their grids, and the bounds, in
// steps.
struct Lanes {
  explicit Lanes(size_t size)
      : w(size * lanes, 0.0), step(size * lanes, 1.0), low(size * lanes), high(size * lanes) {}
  std::vector<double> w, step, low, high;
};

// Multiples of the steps go to `q`, the quadratic forms of the errors to `forms`. Nearest or not:
// the same loop.
void round_lanes(const Factor& factor, const Lanes& in, bool feedback, std::vector<double>& q,
                 double* forms) {
  std::vector<double> errors(factor.size * lanes);
  std::fill(forms, forms + lanes, 0.0);
  for (size_t j = 0; j < factor.size; ++j) {
    const double* column = factor.column(j);
    double carried[lanes] = {};
    for (size_t i = 0; i < j; ++i) {
      const double r = column[i];
      const double* error = &errors[i * lanes];
      for (size_t o = 0; o < lanes; ++o) carried[o] += r * error[o];
    }
    for (size_t o = 0; o < lanes; ++o) {
      const size_t at = j * lanes + o;
      const double value = in.w[at], wanted = feedback ? value + carried[o] / column[j] : value;
      q[at] = std::clamp(std::nearbyint(wanted / in.step[at]), in.low[at], in.high[at]);
      errors[at] = value - q[at] * in.step[at];
      const double part = carried[o] + column[j] * errors[at];
      forms[o] += part * part;
    }
  }
}

// The better of the two for rows [begin, begin + width): take(o, k, q) for each row and input.
template <class Take>
void round_better(const Factor& factor, const Lanes& in, size_t width, const Take& take) {
  std::vector<double> nearest(in.w.size()), q(in.w.size());
  double form[lanes], nearest_form[lanes];
  round_lanes(factor, in, true, q, form);
  round_lanes(factor, in, false, nearest, nearest_form);
  for (size_t o = 0; o < width; ++o) {
    const auto& better = nearest_form[o] < form[o] ? nearest : q;
    for (size_t j = 0; j < factor.size; ++j) take(o, factor.order[j], better[j * lanes + o]);
  }
}

}  // namespace

std::vector<int8_t> gptq_round(const WeightRows& rows, std::span<const float> scales, size_t first,
                               size_t count, const Moments& moments, double damping,
                               ThreadPool& pool) {
  const size_t size = rows.length;
  OCTAVO_CHECK(moments.size == size && moments.values.size() == size * size &&
               first + count <= rows.channels && scales.size() == rows.channels);
  std::vector<int8_t> result(count * size);
  if (result.empty()) return result;
  const Factor factor = factorize(moments, damping, pool);
  auto task = [&](int64_t block, int) {
    const size_t begin = static_cast<size_t>(block) * lanes, width = std::min(lanes, count - begin);
    Lanes in(size);
    std::fill(in.low.begin(), in.low.end(), -127.0);
    std::fill(in.high.begin(), in.high.end(), 127.0);
    for (size_t o = 0; o < width; ++o)
      for (size_t j = 0; j < size; ++j)
        in.w[j * lanes + o] =
            static_cast<double>(rows.values[(first + begin + o) * size + factor.order[j]]) /
            scales[first + begin + o];
    round_better(factor, in, width, [&](size_t o, size_t k, double q) {
      result[(begin + o) * size + k] = static_cast<int8_t>(q);
    });
  };
  pool.run(static_cast<int64_t>((count + lanes - 1) / lanes), task);
  return result;
}

void gptq_round(const WeightRows& rows, GroupedRows& grouped, const Moments& moments,
                double damping, ThreadPool& pool) {
  const size_t size = rows.length;
  OCTAVO_CHECK(moments.size == size && moments.values.size() == size * size &&
               grouped.values.size() == rows.values.size() && grouped.length == size);
  if (rows.values.empty()) return;
  const Factor factor = factorize(moments, damping, pool);
  const auto [least, most] = grouped.bounds();
  auto task = [&, least = least, most = most](int64_t block, int) {
    const size_t begin = static_cast<size_t>(block) * lanes,
                 width = std::min(lanes, rows.channels - begin);
    Lanes in(size);
    for (size_t o = 0; o < width; ++o)
      for (size_t j = 0; j < size; ++j) {
        const size_t k = factor.order[j], at = j * lanes + o;
        in.w[at] = rows.values[(begin + o) * size + k];
        in.step[at] = grouped.scale(begin + o, k);
        in.low[at] = least - grouped.zero(begin + o, k);
        in.high[at] = most - grouped.zero(begin + o, k);
      }
    round_better(factor, in, width, [&](size_t o, size_t k, double q) {
      grouped.values[(begin + o) * size + k] = static_cast<int8_t>(q + grouped.zero(begin + o, k));
    });
  };
  pool.run(static_cast<int64_t>((rows.channels + lanes - 1) / lanes), task);
}

}  // namespace octavo
