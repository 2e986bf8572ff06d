#include "evaluate/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/error.h"

namespace octavo {
namespace {
void check_pair(const Tensor& a, const Tensor& b) {
  if (a.dtype() != DType::f32 || b.dtype() != DType::f32 || a.dims() != b.dims())
    throw UserError(ErrorKind::value, "metric",
                    fmt::format("cannot compare {} with {}", a.type().str(), b.type().str()));
}
}  // namespace

void Sqnr::add(const Tensor& truth, const Tensor& approximation) {
  check_pair(truth, approximation);
  const auto a = truth.values<float>(), b = approximation.values<float>();
  for (size_t i = 0; i < a.size(); ++i) {
    const double y = a[i], e = y - b[i];
    signal_ += y * y;
    noise_ += e * e;
  }
  count_ += truth.size();
}

double decibels(double signal, double noise) {
  return noise == 0 ? std::numeric_limits<double>::infinity() : 10 * std::log10(signal / noise);
}

double Sqnr::decibels() const { return octavo::decibels(signal_, noise_); }

void TopAgreement::add(const Tensor& truth, const Tensor& approximation) {
  check_pair(truth, approximation);
  if (truth.rank() == 0 || truth.size() == 0) return;
  const auto columns = static_cast<size_t>(truth.dims().back());
  const auto a = truth.values<float>(), b = approximation.values<float>();
  for (size_t row = 0; row < a.size(); row += columns) {
    const auto x = a.subspan(row, columns), y = b.subspan(row, columns);
    const auto best = std::max_element(x.begin(), x.end());
    double sum = 0;
    for (float v : x) sum += std::exp(static_cast<double>(v) - *best);
    const bool same = best - x.begin() == std::max_element(y.begin(), y.end()) - y.begin();
    ++rows_;
    same_ += same;
    if (1 / sum > 0.3) {
      ++confident_;
      confident_same_ += same;
    }
  }
}

}  // namespace octavo
