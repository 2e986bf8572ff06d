#include "quantize/scores.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "evaluate/metrics.h"
#include "evaluate/record.h"
#include "support/error.h"

namespace octavo {
namespace {

double score_decibels(double signal, double noise) {
  return std::isfinite(noise) ? decibels(signal, noise) : not_finite_db;
}

template <class F>
Figure figure(std::span<const Score> scores, F&& of) {
  std::vector<size_t> all(scores.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = i;
  const auto statistic = [&](std::span<const size_t> which) { return of(which); };
  return {statistic(all), bootstrap(scores.size(), statistic)};
}

}  // namespace

Score score_of(std::span<const Tensor> truth, std::span<const Tensor> outputs) {
  OCTAVO_CHECK(truth.size() == outputs.size());
  Score score;
  for (size_t k = 0; k < truth.size(); ++k) {
    if (truth[k].dtype() != DType::f32) continue;
    OCTAVO_CHECK(truth[k].dims() == outputs[k].dims());
    const auto a = truth[k].values<float>(), b = outputs[k].values<float>();
    for (size_t i = 0; i < a.size(); ++i) {
      const double y = a[i], e = y - b[i];
      score.signal += y * y;
      score.noise += e * e;
    }
  }
  if (!truth.empty() && truth[0].dtype() == DType::f32 && truth[0].rank() >= 2 &&
      truth[0].dims().back() > 1) {
    TopAgreement agreement;
    agreement.add(truth[0], outputs[0]);
    score.rows = agreement.rows();
    score.same = agreement.agreeing_rows();
  }
  return score;
}

Figures figures_of(std::span<const Score> scores) {
  Figures figures;
  figures.sqnr_db = figure(scores, [&](std::span<const size_t> which) {
    double signal = 0, noise = 0;
    for (const size_t i : which) signal += scores[i].signal, noise += scores[i].noise;
    return score_decibels(signal, noise);
  });
  for (const Score& score : scores) figures.has_agreement |= score.rows > 0;
  if (figures.has_agreement)
    figures.agreement = figure(scores, [&](std::span<const size_t> which) {
      int64_t rows = 0, same = 0;
      for (const size_t i : which) rows += scores[i].rows, same += scores[i].same;
      return rows ? static_cast<double>(same) / static_cast<double>(rows) : 1.0;
    });
  figures.metric = figure(scores, [&](std::span<const size_t> which) {
    double sum = 0;
    for (const size_t i : which) sum += scores[i].metric;
    return sum / static_cast<double>(which.size());
  });
  return figures;
}

nlohmann::json to_json(const Figure& figure) {
  return {
      {"value", finite_or_null(figure.value)},
      {"interval", {finite_or_null(figure.interval.low), finite_or_null(figure.interval.high)}}};
}

}  // namespace octavo
