#include "quantize/algorithms/awq.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "evaluate/metrics.h"
#include "quantize/algorithms/channel_factors.h"
#include "quantize/algorithms/matrix_product.h"
#include "quantize/integer_weights.h"
#include "support/error.h"

namespace octavo {
namespace {

constexpr int steps = 20;  // of the exponent

// tr(D H D') of rows D, by the float kernels.
class ErrorOf {
 public:
  ErrorOf(const Moments& moments, size_t rows, int threads)
      : size_(moments.size),
        rows_(rows),
        h_(DType::f32, square()),
        program_(matrix_product(rows, size_, size_, threads)) {
    auto to = h_.mutable_values<float>();
    for (size_t i = 0; i < moments.values.size(); ++i)
      to[i] = static_cast<float>(moments.values[i]);
  }
  double operator()(const std::vector<float>& d) {
    const std::vector<Tensor> operands{Tensor::from(matrix(), d), h_};
    const std::vector<Tensor> outputs = program_.run(operands);
    const auto y = outputs[0].values<float>();
    double sum = 0;
    for (size_t i = 0; i < d.size(); ++i) sum += static_cast<double>(d[i]) * y[i];
    return std::max(sum, 0.0);
  }

 private:
  Dims square() const { return {static_cast<int64_t>(size_), static_cast<int64_t>(size_)}; }
  Dims matrix() const { return {static_cast<int64_t>(rows_), static_cast<int64_t>(size_)}; }
  size_t size_, rows_;
  Tensor h_;
  Program program_;
};

std::vector<float> factors(const std::vector<double>& magnitudes, double alpha) {
  std::vector<double> s(magnitudes.size());
  double least = std::numeric_limits<double>::infinity(), most = 0;
  for (size_t k = 0; k < s.size(); ++k) {
    s[k] = std::pow(std::max(magnitudes[k], 1e-4), alpha);
    least = std::min(least, s[k]), most = std::max(most, s[k]);
  }
  const double middle = std::sqrt(least * most);
  std::vector<float> result(s.size());
  for (size_t k = 0; k < s.size(); ++k) result[k] = static_cast<float>(s[k] / middle);
  return result;
}

// Of all products of a site, as rows.
struct Part {
  WeightRows rows;
  GroupScheme scheme;
};

double error(const std::vector<Part>& parts, const std::vector<float>* s, ErrorOf& of) {
  std::vector<float> difference;
  for (const Part& part : parts) {
    WeightRows scaled = part.rows;
    if (s)
      for (size_t i = 0; i < scaled.values.size(); ++i) scaled.values[i] *= (*s)[i % s->size()];
    const GroupedRows q = quantize_rows(scaled, part.scheme, "max");
    for (size_t c = 0; c < scaled.channels; ++c)
      for (size_t k = 0; k < scaled.length; ++k)
        difference.push_back(part.rows.values[c * scaled.length + k] -
                             q.dequantized(c, k) / (s ? (*s)[k] : 1));
  }
  return of(difference);
}

}  // namespace

Graph awq_scaled(const Graph& graph, const Placement& placement, const Dataset& data,
                 const InputMomentsOptions& options, const Progress& progress,
                 std::vector<SmoothedTensor>& report) {
  Graph scaled = graph.clone();
  std::map<std::string, const PlacedProduct*> placed;
  for (const PlacedProduct& p : placement.products)
    if (p.precision == Precision::int8_weights || p.precision == Precision::int4_weights)
      placed[p.node->name()] = &p;
  std::vector<ChannelSite> sites =
      find_channel_sites(scaled, {.behind_gelus = true},
                         [&](const Node& node) { return placed.contains(node.name()); });
  std::vector<PlacedWeights> firsts;  // one product of each site
  firsts.reserve(sites.size());
  for (const ChannelSite& site : sites) {
    const PlacedProduct& p = *placed.at(site.products[0]->name());
    firsts.push_back({p.node, p.axis});
  }
  if (firsts.empty()) return scaled;
  size_t done = 0;
  const auto visit = [&](std::span<const size_t> which, const SeenInput& input) {
    // Inputs are shared by products of one site only.
    OCTAVO_CHECK(which.size() == 1);
    ChannelSite& site = sites[which[0]];
    std::vector<Part> parts;
    std::vector<float> weights;
    for (const Node* product : site.products) {
      const PlacedProduct& p = *placed.at(product->name());
      parts.push_back({rows_of(p), scheme_of(p, placement)});
      const auto& values = parts.back().rows.values;
      weights.insert(weights.end(), values.begin(), values.end());
    }
    if (progress) progress("scaling weights", ++done, sites.size());
    ErrorOf of(input.moments, weights.size() / input.moments.size, options.threads);
    const double signal = of(weights), before = error(parts, nullptr, of);
    double least = before, alpha = 0;
    for (int i = 1; i <= steps; ++i) {
      const double a = static_cast<double>(i) / steps;
      const std::vector<float> s = factors(input.magnitudes, a);
      if (const double e = error(parts, &s, of); e < least) least = e, alpha = a;
    }
    if (alpha == 0) return;
    const std::string by = apply_factors(scaled, site, factors(input.magnitudes, alpha));
    SmoothedTensor entry{.tensor = site.x->name(),
                         .products = {},
                         .by = by,
                         .alpha = alpha,
                         .sqnr_db_before = decibels(signal, before),
                         .sqnr_db_after = decibels(signal, least)};
    for (const Node* product : site.products) entry.products.push_back(product->name());
    report.push_back(std::move(entry));
  };
  see_inputs(graph, firsts, data, options, progress, visit);
  scaled.remove_dead();
  return scaled;
}

}  // namespace octavo
