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

double round_within(double value) { return std::clamp(std::nearbyint(value), -127.0, 127.0); }

constexpr size_t lanes = 16;  // output channels that are rounded together

// Rounds up to `lanes` rows; `w` are their weights in steps, [size][lanes]. Their integers go to
// `q`, the quadratic forms that they reach to `forms`. Nearest or not: the same loop.
void round_lanes(const Factor& factor, const std::vector<double>& w, bool feedback,
                 std::vector<double>& q, double* forms) {
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
      const double value = w[j * lanes + o];
      const double rounded = round_within(feedback ? value + carried[o] / column[j] : value);
      q[j * lanes + o] = rounded;
      errors[j * lanes + o] = value - rounded;
      const double part = carried[o] + column[j] * (value - rounded);
      forms[o] += part * part;
    }
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
    std::vector<double> w(size * lanes, 0.0), nearest(size * lanes), q(size * lanes);
    for (size_t o = 0; o < width; ++o)
      for (size_t j = 0; j < size; ++j)
        w[j * lanes + o] =
            static_cast<double>(rows.values[(first + begin + o) * size + factor.order[j]]) /
            scales[first + begin + o];
    double form[lanes], nearest_form[lanes];
    round_lanes(factor, w, true, q, form);
    round_lanes(factor, w, false, nearest, nearest_form);
    for (size_t o = 0; o < width; ++o) {
      const auto& better = nearest_form[o] < form[o] ? nearest : q;
      for (size_t j = 0; j < size; ++j)
        result[(begin + o) * size + factor.order[j]] = static_cast<int8_t>(better[j * lanes + o]);
    }
  };
  pool.run(static_cast<int64_t>((count + lanes - 1) / lanes), task);
  return result;
}

}  // namespace octavo
