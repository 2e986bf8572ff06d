#include "quantize/search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "codegen/compile.h"
#include "quantize/algorithms/fit_weights.h"
#include "quantize/algorithms/layer_by_layer.h"
#include "quantize/apply_placement.h"
#include "quantize/weights.h"
#include "support/error.h"

namespace octavo {
namespace {

// What is tried first: 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, … and all.
std::set<size_t> schedule(size_t layers) {
  std::set<size_t> counts{0, layers};
  for (size_t k = 1; k < layers; k *= 2) {
    counts.insert(k);
    if (k >= 2 && k + k / 2 < layers) counts.insert(k + k / 2);
  }
  return counts;
}

class Searcher {
 public:
  Searcher(Variants& variants, const Dataset& data, const SearchOptions& options,
           const Progress& progress)
      : variants_(variants),
        data_(data),
        judge_(options.sensitivity.evaluation ? *options.sensitivity.evaluation : data),
        options_(options),
        progress_(progress),
        truth_(compile(variants.graph().clone(), {.threads = variants.options().threads})) {
    latency_ = options.latency;
    if (!latency_)
      latency_ = [this](std::span<const Graph* const> graphs) {
        return measure_latency(graphs, judge_.sample(0), variants_.options().threads, progress_);
      };
  }

  SearchResult run() {
    result_.sensitivity = sensitivity(variants_, data_, options_.sensitivity, progress_);
    measure_gains();
    order_layers();
    const size_t layers = order_.size();
    for (const size_t count : schedule(layers)) attempt(count);
    // Bisection: from the last count that is not enough to the next that is tried and enough.
    while (true) {
      size_t low = layers + 1, high = layers + 1;
      for (const auto& [count, tried] : tried_) {
        if (!tried.point.enough) {
          low = count;
          high = layers + 1;
        } else if (high > layers) {
          high = count;
        }
      }
      if (low > layers || high > layers || high - low < 2) break;
      attempt(low + (high - low) / 2);
    }
    for (auto& [count, tried] : tried_) {
      result_.points.push_back(std::move(tried.point));
      result_.graphs.push_back(std::move(tried.graph));
    }
    time_points();
    choose();
    return std::move(result_);
  }

 private:
  double value_of(const Figures& figures) const {
    return result_.sensitivity.figure(figures).value;
  }

  double float_value() const {
    if (options_.sensitivity.custom) return result_.sensitivity.float_metric;
    return options_.sensitivity.metric == "agreement" ? 1 : std::numeric_limits<double>::infinity();
  }

  std::vector<double> time(const std::vector<const Graph*>& graphs) const {
    std::vector<double> times = latency_(graphs);
    if (times.size() != graphs.size())
      throw UserError(ErrorKind::value, "latency",
                      fmt::format("gave {} times for {} graphs", times.size(), graphs.size()));
    for (const double t : times)
      if (!(t > 0) || !std::isfinite(t))
        throw UserError(ErrorKind::value, "latency",
                        fmt::format("{} microseconds is no positive time", t));
    return times;
  }

  void measure_gains() {
    std::vector<Graph> graphs;
    graphs.push_back(variants_.quantize(variants_.everything()));
    for (const LayerSensitivity& l : result_.sensitivity.layers)
      graphs.push_back(variants_.quantize(variants_.all_but(l.layer)));
    std::vector<const Graph*> pointers;
    pointers.reserve(graphs.size());
    for (const Graph& graph : graphs) pointers.push_back(&graph);
    const auto times = time(pointers);
    for (size_t i = 1; i < times.size(); ++i) result_.gains.push_back(times[i] - times[0]);
    // Below this a difference is no more than noise; a layer that gains nothing goes first.
    least_gain_ = times[0] * 1e-3;
  }

  void order_layers() {
    const auto& layers = result_.sensitivity.layers;
    std::vector<double> harm, noise;
    for (size_t i = 0; i < layers.size(); ++i) {
      const double gain = std::max(result_.gains[i], least_gain_);
      noise.push_back(std::pow(10, -layers[i].figures.sqnr_db.value / 10) / gain);
      // Agreement counts rows: too coarse to tell layers apart. Noise is not.
      harm.push_back(options_.sensitivity.custom
                         ? std::max(float_value() - layers[i].figures.metric.value, 0.0) / gain
                         : noise.back());
    }
    order_.resize(layers.size());
    std::iota(order_.begin(), order_.end(), size_t{0});
    std::stable_sort(order_.begin(), order_.end(), [&](size_t a, size_t b) {
      return harm[a] != harm[b] ? harm[a] > harm[b] : noise[a] > noise[b];
    });
  }

  // Of the weight-only products and tables of all points: each is fitted by itself.
  const RowsByNode& integers() {
    const RowsByNode& nearest = variants_.integers(options_.weights);
    if (options_.weights != "gptq") return nearest;
    if (!fitted_) {
      const PtqOptions& q = variants_.options();
      fitted_ = nearest;
      fit_weights(
          variants_.graph(), variants_.everything(), options_.weights, data_,
          {.most_samples = q.most_samples, .most_bytes = q.most_bytes, .threads = q.threads},
          progress_, *fitted_);
    }
    return *fitted_;
  }

  Graph quantized(const Rules& rules, bool all_float) {
    if (all_float) return variants_.graph().clone();
    const Placement placement = variants_.place(rules);
    const PtqOptions& q = variants_.options();
    const auto activations = variants_.params(placement);
    LayerByLayer layers(variants_.graph(), placement, data_, q.most_samples, q.most_bytes,
                        q.threads);
    std::map<std::string, WeightParams> weights;
    if (!placement.weights.empty())
      weights = layers.run(activations, {options_.weights, options_.correct_bias}, progress_);
    return apply_placement(variants_.graph(), placement, activations, weights, integers(),
                           options_.weights);
  }

  Figures judge(const Graph& graph) {
    Program program = compile(graph.clone(), {.threads = variants_.options().threads});
    std::vector<Score> scores;
    for (size_t i = 0; i < result_.sensitivity.evaluation_samples; ++i) {
      const auto x = judge_.sample(i);
      const auto a = truth_.run(x), b = program.run(x);
      scores.push_back(score_of(a, b));
      if (options_.sensitivity.custom) {
        scores.back().metric = options_.sensitivity.custom(b, i);
        if (std::isnan(scores.back().metric))
          throw UserError(ErrorKind::value, "metric", fmt::format("gave NaN for sample {}", i));
      }
      if (progress_)
        progress_("judging mixed precision", i + 1, result_.sensitivity.evaluation_samples);
    }
    return figures_of(scores);
  }

  void attempt(size_t count) {
    if (tried_.contains(count)) return;
    SearchPoint point;
    for (size_t i = 0; i < count; ++i)
      point.float_layers.push_back(result_.sensitivity.layers[order_[i]].layer.name);
    point.rules = variants_.without(point.float_layers);
    Graph graph = quantized(point.rules, count == order_.size());
    point.figures = judge(graph);
    point.value = value_of(point.figures);
    point.drop = float_value() - point.value;
    if (std::isnan(point.drop)) point.drop = 0;  // of infinities
    point.enough =
        options_.least ? point.value >= *options_.least : point.drop <= *options_.max_drop;
    tried_.emplace(count, Tried{std::move(point), std::move(graph)});
  }

  void time_points() {
    std::vector<const Graph*> pointers;
    for (const Graph& graph : result_.graphs) pointers.push_back(&graph);
    const auto times = time(pointers);
    auto& points = result_.points;
    for (size_t i = 0; i < points.size(); ++i) points[i].microseconds = times[i];
    for (SearchPoint& p : points)
      p.on_front = std::none_of(points.begin(), points.end(), [&](const SearchPoint& q) {
        return q.value >= p.value && q.microseconds <= p.microseconds &&
               (q.value > p.value || q.microseconds < p.microseconds);
      });
  }

  void choose() {
    const SearchPoint* best = nullptr;
    for (const SearchPoint& p : result_.points)
      if (p.enough && (!best || p.microseconds < best->microseconds ||
                       (p.microseconds == best->microseconds && p.value > best->value)))
        best = &p;
    if (!best)
      throw UserError(
          ErrorKind::value, "least",
          fmt::format("no network reaches {}: float gives {}", *options_.least, float_value()),
          "ask for less");
    result_.chosen = static_cast<size_t>(best - result_.points.data());
  }

  struct Tried {
    SearchPoint point;
    Graph graph;
  };

  Variants& variants_;
  const Dataset &data_, &judge_;
  const SearchOptions& options_;
  const Progress& progress_;
  Program truth_;
  Latency latency_;
  SearchResult result_;
  std::vector<size_t> order_;  // into sensitivity.layers: the first to go to float first
  double least_gain_ = 0;
  std::optional<RowsByNode> fitted_;
  std::map<size_t, Tried> tried_;  // by how many layers are float
};

}  // namespace

SearchResult search(Variants& variants, const Dataset& data, const SearchOptions& options,
                    const Progress& progress) {
  if (options.max_drop.has_value() == options.least.has_value())
    throw UserError(ErrorKind::value, "search",
                    "exactly one of max_drop and least says what is enough", "give one of them");
  if (options.max_drop && !(*options.max_drop >= 0))
    throw UserError(ErrorKind::value, "max_drop",
                    fmt::format("{} is less than 0", *options.max_drop));
  if (options.least && std::isnan(*options.least))
    throw UserError(ErrorKind::value, "least", "is NaN");
  if (options.max_drop && options.sensitivity.metric == "sqnr")
    throw UserError(ErrorKind::value, "max_drop", "float has no SQNR to lose", "use least");
  if (options.sensitivity.mode != SensitivityMode::only)
    throw UserError(ErrorKind::value, "search", "looks at layers in mode only");
  check_weight_method(options.weights);
  if (options.weights.starts_with("awq"))
    throw UserError(ErrorKind::unsupported, "weights",
                    options.weights + " changes the network that is searched",
                    "use gptq, mse or max");
  return Searcher(variants, data, options, progress).run();
}

}  // namespace octavo
