#include "quantize/algorithms/smooth.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>

#include "codegen/compile.h"
#include "evaluate/metrics.h"
#include "graph/op_def.h"
#include "quantize/algorithms/channel_copies.h"
#include "quantize/algorithms/matrix_product.h"
#include "quantize/samples.h"
#include "support/error.h"

namespace octavo {
namespace {

constexpr double alphas[] = {0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0};
constexpr float shift_parts[] = {0, 0.5, 1};  // of the way to the middle of a channel's range
constexpr size_t most_rows = 1024;            // of a tensor, that the error is measured on
constexpr double least_gain_db = 2;           // that a multiplication at run time must be worth
constexpr double most_ratio = 1e4;            // of a factor to the geometric mean of all
// Copies for a row of channels: one in 16 more, by whole vectors of the kernels.
constexpr size_t channels_per_copy = 16, copies_at_once = 16;

// Over samples, of each channel of x, and of all values that a gelu before it reads.
struct Extremes {
  std::vector<float> least, most;
  float least_before = 0, most_before = 0;
  explicit Extremes(size_t channels)
      : least(channels, std::numeric_limits<float>::infinity()),
        most(channels, -std::numeric_limits<float>::infinity()) {}
  void merge(const Extremes& other) {
    for (size_t k = 0; k < least.size(); ++k) {
      least[k] = std::min(least[k], other.least[k]);
      most[k] = std::max(most[k], other.most[k]);
    }
    least_before = std::min(least_before, other.least_before);
    most_before = std::max(most_before, other.most_before);
  }
  double reach(size_t k) const { return std::max<double>(std::fabs(least[k]), std::fabs(most[k])); }
  // The way to the middles of the ranges.
  std::vector<float> middles(float part) const {
    std::vector<float> z(least.size(), 0.0f);
    for (size_t k = 0; k < z.size(); ++k)
      if (least[k] <= most[k]) z[k] = part * (least[k] + most[k]) / 2;
    return z;
  }
  Extremes shifted(const std::vector<float>& z) const {
    Extremes result = *this;
    for (size_t k = 0; k < z.size(); ++k) result.least[k] -= z[k], result.most[k] -= z[k];
    return result;
  }
};

struct Site : ChannelSite {
  explicit Site(ChannelSite site)
      : ChannelSite(std::move(site)), all(channel_count(*this)), even(channel_count(*this)) {}
  Extremes all, even;  // of all samples, and of the even ones
  // Of the odd samples: what judges has not chosen the ranges.
  std::vector<float> rows = {}, rows_before = {};
  // Behind attention extremes and rows are those of its values, of which x is means; these are x's.
  std::unique_ptr<Site> mixed = {};
  const Value* seen() const { return values ? values : x; }
  size_t channels() const { return all.least.size(); }
  size_t row_count() const { return rows.size() / channels(); }
};

// Rows at even distances, `wanted` of `available`.
void take_rows(std::span<const float> x, size_t channels, size_t wanted, std::vector<float>& to) {
  const size_t available = x.size() / channels;
  wanted = std::min(wanted, available);
  for (size_t n = 0; n < wanted; ++n) {
    const size_t row = (2 * n + 1) * available / (2 * wanted);
    to.insert(to.end(), x.begin() + static_cast<ptrdiff_t>(row * channels),
              x.begin() + static_cast<ptrdiff_t>((row + 1) * channels));
  }
}

void measure(const Graph& graph, const std::vector<Site*>& sites, const Dataset& data,
             const SmoothOptions& options, ThreadPool& pool, const Progress& progress) {
  const size_t count =
      options.most_samples ? std::min(options.most_samples, data.size()) : data.size();
  if (count == 0) throw UserError(ErrorKind::value, "calibration data", "there is no sample");
  Graph observed = graph.clone();
  std::vector<std::pair<size_t, size_t>> places;  // of each site: x, what the gelu reads
  const auto observe = [&](const Value* value) {
    observed.add_output(observed.find_value(value->name()));
    return observed.outputs().size() - 1;
  };
  for (const Site* site : sites) {
    const size_t x = observe(site->seen());
    places.emplace_back(x, site->before_gelu ? observe(site->before_gelu) : 0);
  }
  Program program = compile(std::move(observed), {.threads = 1});
  std::vector<size_t> which(count);
  std::iota(which.begin(), which.end(), size_t{0});
  const size_t wanted = (2 * most_rows + count - 1) / count;
  size_t first = 0;
  const auto visit = [&](std::span<const std::vector<Tensor>> outputs, size_t done) {
    auto task = [&](int64_t i, int) {
      Site& site = *sites[static_cast<size_t>(i)];
      const auto [place, place_before] = places[static_cast<size_t>(i)];
      const size_t channels = site.channels();
      for (size_t n = 0; n < outputs.size(); ++n) {
        Extremes here(channels);
        const auto x = outputs[n][place].values<float>();
        for (size_t row = 0; row < x.size(); row += channels)
          for (size_t k = 0; k < channels; ++k) {
            here.least[k] = std::min(here.least[k], x[row + k]);
            here.most[k] = std::max(here.most[k], x[row + k]);
          }
        const auto before =
            site.before_gelu ? outputs[n][place_before].values<float>() : std::span<const float>{};
        for (float v : before) {
          here.least_before = std::min(here.least_before, v);
          here.most_before = std::max(here.most_before, v);
        }
        site.all.merge(here);
        if ((first + n) % 2 == 0) site.even.merge(here);
        if ((first + n) % 2 == 0 && count > 1) continue;
        take_rows(x, channels, wanted, site.rows);
        take_rows(before, channels, wanted, site.rows_before);
      }
    };
    pool.run(static_cast<int64_t>(sites.size()), task);
    first = done;
    if (progress) progress("measuring channels", done, count);
  };
  run_samples(program, data, which, pool, visit);
}

// An affine range of 8 bits that holds 0.
struct Steps {
  float scale = 1, zero = 0;
  Steps(float least, float most) {
    least = std::min(least, 0.0f), most = std::max(most, 0.0f);
    if (most - least > 1e-30f) scale = (most - least) / 255;
    zero = std::nearbyint(-least / scale);
  }
  float operator()(float x) const {
    return (std::clamp(std::nearbyint(x / scale) + zero, 0.0f, 255.0f) - zero) * scale;
  }
};

double gelu(double x) { return 0.5 * x * (1 + std::erf(x * 0.70710678118654752)); }

double largest_weight(const ChannelMatrix& w, size_t k) {
  double most = 0;
  for (size_t o = 0; o < w.columns; ++o)
    most = std::max<double>(most, std::fabs(w.values[k * w.columns + o]));
  return most;
}

std::vector<float> factors(const Extremes& x_extremes, const ChannelMatrix& w, double alpha) {
  std::vector<double> logs(w.rows, 0);
  double sum = 0;
  size_t counted = 0;
  std::vector<bool> known(logs.size(), false);
  for (size_t k = 0; k < logs.size(); ++k) {
    const double x = x_extremes.reach(k), most = largest_weight(w, k);
    if (!(x > 0) || !(most > 0) || !std::isfinite(x)) continue;  // nothing to move
    logs[k] = alpha * std::log(x) - (1 - alpha) * std::log(most);
    known[k] = true;
    sum += logs[k], ++counted;
  }
  const double mean = counted ? sum / static_cast<double>(counted) : 0;
  std::vector<float> s(logs.size(), 1.0f);
  for (size_t k = 0; k < s.size(); ++k)
    if (known[k])
      s[k] = static_cast<float>(std::clamp(std::exp(logs[k] - mean), 1 / most_ratio, most_ratio));
  return s;
}

// Errors of one site's outputs on its rows. Both products of a pair of matrices, [rows, inputs]
// and [inputs, outputs], by the float kernels.
class Judge {
 public:
  Judge(const Site& site, const ChannelMatrix& w, double weight_error, int threads)
      : site_(site), w_(w), weight_error_(weight_error) {
    program_.emplace(matrix_product(site.row_count(), w.rows, w.columns, threads));
    signal_ = variances(site.rows, w.values);
  }

  // The squared error with (x - z) / s and s W rounded; without factors, of what a gelu of integers
  // makes where there is one.
  // `offsets`: parts of a step that are added before rounding; none: nothing is.
  double noise(const std::vector<float>* s, const std::vector<float>& z,
               const std::vector<float>& offsets = {}) {
    const size_t channels = w_.rows;
    const Extremes range = site_.even.shifted(z);
    float least = 0, most = 0;
    for (size_t k = 0; k < channels; ++k) {
      const float factor = s ? (*s)[k] : 1;
      least = std::min(least, range.least[k] / factor);
      most = std::max(most, range.most[k] / factor);
    }
    const Steps steps(least, most), before(site_.even.least_before, site_.even.most_before);
    std::vector<float> rounded(site_.rows.size()), error(site_.rows.size());
    for (size_t i = 0; i < rounded.size(); ++i) {
      const float factor = s ? (*s)[i % channels] : 1;
      float x = site_.rows[i];
      if (!s && site_.before_gelu)
        x = static_cast<float>(gelu(static_cast<double>(before(site_.rows_before[i]))));
      x -= z[i % channels];
      const float offset = offsets.empty() ? 0 : offsets[i % channels] * steps.scale;
      rounded[i] = steps(x / factor + offset);
      error[i] = (rounded[i] - offset) * factor - (site_.rows[i] - z[i % channels]);
    }
    std::vector<float> change(w_.values.size());
    std::vector<float> scale(w_.columns, 0);
    for (size_t i = 0; i < change.size(); ++i) {
      change[i] = w_.values[i] * (s ? (*s)[i / w_.columns] : 1);
      float& most_of = scale[i % w_.columns];
      most_of = std::max(most_of, std::fabs(change[i]) / 127);
    }
    for (size_t i = 0; i < change.size(); ++i)
      if (const float step = scale[i % w_.columns]; step > 0)
        change[i] = std::nearbyint(change[i] / step) * step - change[i];
      else
        change[i] = 0;
    const auto of_x = variances(error, w_.values), of_w = variances(rounded, change);
    double sum = 0;
    size_t counted = 0;
    for (size_t o = 0; o < signal_.size(); ++o)
      if (signal_[o] > 0) sum += (of_x[o] + weight_error_ * of_w[o]) / signal_[o], ++counted;
    return counted ? sum / static_cast<double>(counted) : 0;
  }

 private:
  // Of each column of a b, times the rows: the bias takes the mean of an error.
  std::vector<double> variances(const std::vector<float>& a, const std::vector<float>& b) {
    const auto n = static_cast<int64_t>(a.size() / w_.rows), k = static_cast<int64_t>(w_.rows),
               o = static_cast<int64_t>(w_.columns);
    const std::vector<Tensor> inputs{Tensor::from(Dims{n, k}, a), Tensor::from(Dims{k, o}, b)};
    const std::vector<Tensor> outputs = program_->run(inputs);
    const auto y = outputs[0].values<float>();
    std::vector<double> sums(w_.columns, 0), squares(w_.columns, 0);
    for (size_t i = 0; i < y.size(); ++i) {
      sums[i % w_.columns] += y[i];
      squares[i % w_.columns] += static_cast<double>(y[i]) * y[i];
    }
    for (size_t c = 0; c < w_.columns; ++c)
      squares[c] = std::max(squares[c] - sums[c] * sums[c] / static_cast<double>(n), 0.0);
    return squares;
  }

  const Site& site_;
  const ChannelMatrix& w_;
  double weight_error_;
  std::vector<double> signal_;
  std::optional<Program> program_;
};

// What is done to a site, and what it makes of the error.
struct Choice {
  double noise, alpha = 0;
  float shift = 0;
  size_t copies = 0;  // of channels, beyond their first
};

// How channels change: (x - shift) / factor, each as often as its copies say.
struct Changed {
  std::vector<size_t> copies;  // empty: all channels stand once
  std::vector<float> shifts, factors;
  std::vector<float> offsets = {};  // of copies, in steps; they add up to 0
};

Changed change(const Extremes& x, const ChannelMatrix& w, const Choice& choice) {
  Changed result;
  result.shifts = x.middles(choice.shift);
  const Extremes range = x.shifted(result.shifts);
  result.factors = factors(range, w, choice.alpha);
  if (choice.copies == 0) return result;
  std::vector<double> reach(w.rows);
  for (size_t k = 0; k < w.rows; ++k)
    reach[k] = range.reach(k) / static_cast<double>(result.factors[k]);
  result.copies = copies_for(reach, choice.copies);
  // What a channel has of weights stays: x / (s m) times s W for each of m copies.
  for (size_t k = 0; k < w.rows; ++k) result.factors[k] *= static_cast<float>(result.copies[k]);
  result.factors = repeated(result.factors, result.copies);
  result.shifts = repeated(result.shifts, result.copies);
  // Copies are equal: rounded alike, their errors would add up. Parts of a step apart, they do not.
  for (const size_t m : result.copies)
    for (size_t j = 0; j < m; ++j)
      result.offsets.push_back((static_cast<float>(j) + 0.5f) / static_cast<float>(m) - 0.5f);
  return result;
}

// Adds the copies' offsets to x, in the steps of its whole range.
void add_offsets(Graph& graph, Site& site, const Changed& changed) {
  const auto divided = [&](const std::vector<float>& extremes) {
    std::vector<float> values = repeated(extremes, changed.copies);
    for (size_t k = 0; k < values.size(); ++k) values[k] /= changed.factors[k];
    return values;
  };
  const Steps steps(std::ranges::min(divided(site.all.least)),
                    std::ranges::max(divided(site.all.most)));
  std::vector<float> offsets = changed.offsets;
  for (float& offset : offsets) offset *= steps.scale;
  Node* producer = site.x->producer();
  Value* constant =
      graph.add_constant(producer->name() + "/offsets",
                         Tensor::from(Dims{static_cast<int64_t>(offsets.size())}, offsets));
  site.x = graph.apply("add", {site.x, constant}, {}, site.x->name() + "/offset", producer->next());
  for (Node* product : site.products) product->set_input(0, site.x);
}

Site with_copies(const Site& site, const std::vector<size_t>& copies) {
  Site result(static_cast<const ChannelSite&>(site));
  result.all = site.all, result.even = site.even;
  for (Extremes* e : {&result.all, &result.even}) {
    e->least = repeated(e->least, copies);
    e->most = repeated(e->most, copies);
  }
  result.rows = repeated(site.rows, copies);
  result.rows_before.clear();
  return result;
}

ChannelMatrix with_copies(const ChannelMatrix& w, const std::vector<size_t>& copies) {
  ChannelMatrix result{0, w.columns, {}};
  for (size_t k = 0; k < w.rows; ++k)
    for (size_t i = 0; i < copies[k]; ++i, ++result.rows)
      for (size_t o = 0; o < w.columns; ++o)
        result.values.push_back(w.values[k * w.columns + o] / static_cast<float>(copies[k]));
  return result;
}

// The choice of least noise, and the noise with nothing done.
std::pair<Choice, double> best_choice(const Graph& graph, const Site& site, const ChannelMatrix& w,
                                      const SmoothOptions& options) {
  Judge judge(site, w, site.mixed ? 0 : options.weight_error, options.threads);
  std::optional<Judge> judge_mixed;
  if (site.mixed) judge_mixed.emplace(*site.mixed, w, options.weight_error, options.threads);
  const auto noise = [&](const std::vector<float>* s, const std::vector<float>& z) {
    return judge.noise(s, z) + (judge_mixed ? judge_mixed->noise(s, z) : 0);
  };
  Choice best{noise(nullptr, std::vector<float>(w.rows, 0.0f))};
  const double before = best.noise;
  const auto consider = [&](Choice choice) {
    const Changed changed = change(site.even, w, choice);
    if (choice.copies == 0) {
      choice.noise = noise(&changed.factors, changed.shifts);
    } else {
      const Site more = with_copies(site, changed.copies);
      const ChannelMatrix shared = with_copies(w, changed.copies);
      choice.noise = Judge(more, shared, options.weight_error, options.threads)
                         .noise(&changed.factors, changed.shifts, changed.offsets);
    }
    if (choice.noise < best.noise) best = choice;
  };
  const size_t shifts = takes_shifts(graph, site) ? std::size(shift_parts) : 1;
  for (const float shift : std::span(shift_parts, shifts))
    for (const double alpha : alphas) consider({0, alpha, shift});
  if (!site.before_gelu || !site.source) return {best, before};
  const size_t vectors = w.rows / (channels_per_copy * copies_at_once) + 1;
  for (const double alpha : alphas) consider({0, alpha, 0, vectors * copies_at_once});
  return {best, before};
}

}  // namespace

std::vector<SmoothedTensor> smooth_activations(Graph& graph, const Dataset& data,
                                               const SmoothOptions& options,
                                               const Progress& progress) {
  std::vector<SmoothedTensor> report;
  if (options.where == FactorPlaces::none) return report;
  std::vector<Site> sites;
  for (ChannelSite& site : find_channel_sites(
           graph, {.behind_gelus = options.where == FactorPlaces::all, .behind_attention = true},
           [&](const Node& node) { return options.rules.allows_integer(node); }))
    sites.emplace_back(std::move(site));
  std::vector<Site*> measured;
  for (Site& site : sites) {
    measured.push_back(&site);
    if (!site.values) continue;
    site.mixed = std::make_unique<Site>(static_cast<const ChannelSite&>(site));
    site.mixed->values = nullptr;
    measured.push_back(site.mixed.get());
  }
  if (sites.empty()) return report;
  ThreadPool pool(options.threads);
  measure(graph, measured, data, options, pool, progress);
  for (size_t i = 0; i < sites.size(); ++i) {
    Site& site = sites[i];
    if (progress) progress("smoothing", i + 1, sites.size());
    if (site.rows.empty()) continue;
    const ChannelMatrix w = weights_of(site.products, site.channels());
    const auto [choice, before] = best_choice(graph, site, w, options);
    const double gain = decibels(before, choice.noise);
    if (choice.alpha == 0 || (site.before_gelu && gain < least_gain_db)) continue;
    Changed changed = change(site.all, w, choice);
    if (choice.copies > 0) repeat_channels(graph, site, changed.copies);
    if (choice.shift == 0) changed.shifts.clear();
    const std::string by = apply_factors(graph, site, changed.factors, changed.shifts);
    if (choice.copies > 0) add_offsets(graph, site, changed);
    SmoothedTensor done{.tensor = site.x->name(),
                        .products = {},
                        .by = by,
                        .alpha = choice.alpha,
                        .shift = choice.shift,
                        .copies = choice.copies,
                        .sqnr_db_before = decibels(1, before),
                        .sqnr_db_after = decibels(1, choice.noise)};
    for (const Node* product : site.products) done.products.push_back(product->name());
    report.push_back(std::move(done));
  }
  graph.remove_dead();
  return report;
}

}  // namespace octavo
