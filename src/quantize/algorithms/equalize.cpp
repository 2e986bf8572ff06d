#include "quantize/algorithms/equalize.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <unordered_map>

#include "graph/op_def.h"
#include "passes/match.h"
#include "support/error.h"

namespace octavo {
namespace {

constexpr int most_rounds = 200;
constexpr double settled = 1e-4;    // the largest change of a factor's logarithm in a round
constexpr double most_ratio = 1e4;  // of a factor to its pair's median

bool is_floats(const Value* value) {
  return value && value->is_constant() && value->dtype() == DType::f32;
}

// Weights as groups of [outputs, inputs], each with `taps` neighbours; steps in elements.
struct Layout {
  size_t groups, outputs, inputs, taps, group_step, output_step, input_step;
};

std::optional<Layout> layout_of(const Node& node) {
  const Value* w = node.input(1);
  if (!is_floats(w) || w->constant().size() == 0) return std::nullopt;
  const Dims& dims = w->constant().dims();
  const auto at = [&](size_t i) { return static_cast<size_t>(dims[i]); };
  if (node.is("conv") || node.is("conv_transpose")) {
    const auto groups = static_cast<size_t>(node.integer("group"));
    size_t taps = 1;
    for (size_t i = 2; i < dims.size(); ++i) taps *= at(i);
    const size_t rows = at(0) / groups, columns = at(1), block = rows * columns * taps;
    if (node.is("conv")) return Layout{groups, rows, columns, taps, block, columns * taps, taps};
    return Layout{groups, columns, rows, taps, block, taps, columns * taps};
  }
  if (dims.size() != 2 || (!node.is("gemm") && !node.is("matmul"))) return std::nullopt;
  if (node.is("gemm") && node.integer("trans_b") != 0)
    return Layout{1, at(0), at(1), 1, 0, at(1), 1};
  return Layout{1, at(1), at(0), 1, 0, 1, at(1)};
}

struct Product {
  Node* node;
  Layout layout;
  std::vector<double> largest;  // magnitude over taps, [groups, outputs, inputs]
  std::vector<double> in, out;  // what inputs are multiplied by, and outputs divided by

  explicit Product(Node& of, const Layout& given) : node(&of), layout(given) {
    const auto w = of.input(1)->constant().values<float>();
    in.assign(layout.groups * layout.inputs, 1);
    out.assign(layout.groups * layout.outputs, 1);
    largest.assign(out.size() * layout.inputs, 0);
    each([&](size_t element, size_t output, size_t input) {
      double& most = largest[output * layout.inputs + input % layout.inputs];
      most = std::max(most, std::fabs(static_cast<double>(w[element])));
    });
  }
  // f(element, output channel, input channel).
  template <class F>
  void each(F f) const {
    for (size_t g = 0; g < layout.groups; ++g)
      for (size_t o = 0; o < layout.outputs; ++o)
        for (size_t i = 0; i < layout.inputs; ++i)
          for (size_t t = 0; t < layout.taps; ++t)
            f(g * layout.group_step + o * layout.output_step + i * layout.input_step + t,
              g * layout.outputs + o, g * layout.inputs + i);
  }
  double output_range(size_t output) const {
    const size_t first = output / layout.outputs * layout.inputs;
    double most = 0;
    for (size_t i = 0; i < layout.inputs; ++i)
      most = std::max(most, largest[output * layout.inputs + i] * in[first + i]);
    return most / out[output];
  }
  double input_range(size_t input) const {
    const size_t first = input / layout.inputs * layout.outputs;
    double most = 0;
    for (size_t o = first; o < first + layout.outputs; ++o)
      most = std::max(most, largest[o * layout.inputs + input % layout.inputs] / out[o]);
    return most * in[input];
  }
};

// Where channels are in a value: index k of the axis belongs to channel k / repeat.
struct Place {
  size_t axis, repeat;
};

struct Step {
  Node* node;
  Place place;
};

struct Pair {
  size_t first, second;           // of the products
  size_t repeat;                  // of the channels among second's inputs
  std::vector<Step> sums, clips;  // additions of constants; clips that get bounds
  std::vector<double> s;
};

class Equalizer {
 public:
  Equalizer(Graph& graph, const EqualizeOptions& options) : graph_(graph), options_(options) {}

  std::vector<EqualizedPair> run() {
    graph_.for_each([&](Node& node) {
      if (const auto layout = layout_of(node); layout && options_.rules.allows_integer(node)) {
        index_.emplace(&node, products_.size());
        products_.emplace_back(node, *layout);
      }
    });
    for (size_t i = 0; i < products_.size(); ++i)
      if (auto pair = follow(i)) pairs_.push_back(std::move(*pair));
    for (int round = 0; round < most_rounds; ++round) {
      double change = 0;
      for (Pair& pair : pairs_) change = std::max(change, equalize(pair));
      if (change < settled) break;
    }
    std::vector<EqualizedPair> report;
    for (const Pair& pair : pairs_) {
      const auto [least, most] = std::minmax_element(pair.s.begin(), pair.s.end());
      if (*least == 1 && *most == 1) continue;
      for (const Step& step : pair.sums) divide_sum(*step.node, step.place, pair.s);
      for (const Step& step : pair.clips) bound(*step.node, step.place, pair.s);
      report.push_back({products_[pair.first].node->name(), products_[pair.second].node->name(),
                        !pair.clips.empty(), *least, *most});
    }
    for (const Product& product : products_) write(product);
    graph_.remove_dead();
    return report;
  }

 private:
  // From a product's output to the one product that reads it; none if the channels get lost.
  std::optional<Pair> follow(size_t first) {
    const Product& product = products_[first];
    const Node& node = *product.node;
    const Value* value = node.output();
    const bool conv = node.is("conv") || node.is("conv_transpose");
    Place place{conv ? 1 : value->shape().size() - 1, 1};
    if (const Value* bias = node.input(2);
        bias &&
        (!is_floats(bias) || bias->shape().empty() ||
         !varies_along(bias->constant().dims(), bias->shape().size() - 1, product.out.size())))
      return std::nullopt;
    Pair pair{first, 0, 1, {}, {}, std::vector<double>(product.out.size(), 1)};
    while (Node* user = only_user(graph_, value)) {
      if (const auto at = index_.find(user); at != index_.end()) {
        pair.second = at->second;
        pair.repeat = place.repeat;
        if (!enters(products_[pair.second], *value, place, pair.s.size())) return std::nullopt;
        return pair;
      }
      if (!pass(*user, *value, place, pair)) return std::nullopt;
      value = user->output();
    }
    return std::nullopt;
  }

  // Whether a constant of these dims is one value for each of `count` indices of the axis.
  static bool varies_along(const Dims& dims, size_t axis, size_t count) {
    return axis < dims.size() && static_cast<size_t>(dims[axis]) == count &&
           element_count(dims) == dims[axis];
  }

  static bool enters(const Product& product, const Value& x, const Place& place, size_t channels) {
    const Node& node = *product.node;
    if (node.input(0) != &x) return false;
    if (node.is("conv") || node.is("conv_transpose"))
      return place.axis == 1 && place.repeat == 1 && product.in.size() == channels;
    if (node.is("gemm") && node.integer("trans_a") != 0) return false;
    return place.axis + 1 == x.shape().size() && product.in.size() == channels * place.repeat;
  }

  // Whether the factors pass through the node, and where the channels are behind it.
  bool pass(Node& node, const Value& x, Place& place, Pair& pair) const {
    if (node.outputs().size() != 1 || node.output()->dtype() != DType::f32) return false;
    if (node.is("add")) return pass_sum(node, x, place, pair);
    if (node.input(0) != &x) return false;
    if (node.is("relu") || node.is("leaky_relu") || node.is("abs") || node.is("neg")) return true;
    if (node.is("prelu")) return is_floats(node.input(1));
    if (const auto bounds = clamp_bounds(node)) {
      if (is_end(bounds->lo) && is_end(bounds->hi)) return true;
      if (options_.where != FactorPlaces::all) return false;
      pair.clips.push_back({&node, place});
      return true;
    }
    if (node.is("max_pool") || node.is("avg_pool")) return place.axis == 1;
    if (node.is("reduce_mean") || node.is("reduce_sum") || node.is("reduce_max") ||
        node.is("reduce_min"))
      return pass_reduction(node, x, place);
    if (node.is("transpose")) {
      const Ints& order = node.integers("perm");
      const auto at = std::find(order.begin(), order.end(), static_cast<int64_t>(place.axis));
      place.axis = static_cast<size_t>(at - order.begin());
      return at != order.end();
    }
    if (node.is("reshape") || node.is("squeeze") || node.is("unsqueeze"))
      return pass_reshape(x.shape(), node.output()->shape(), place);
    return false;
  }

  // 0 and infinity are their own multiples.
  static bool is_end(double bound) {
    return bound == 0 || std::fabs(bound) >= std::numeric_limits<float>::max();
  }

  static bool pass_sum(Node& node, const Value& x, const Place& place, Pair& pair) {
    const Value* other = node.input(node.input(0) == &x ? 1 : 0);
    if (!is_floats(other) || node.output()->shape() != x.shape()) return false;
    const size_t rank = other->shape().size(), behind = x.shape().size() - place.axis;
    if (rank < behind ||
        !varies_along(other->constant().dims(), rank - behind, pair.s.size() * place.repeat))
      return false;
    pair.sums.push_back({&node, place});
    return true;
  }

  static bool pass_reduction(const Node& node, const Value& x, Place& place) {
    if (node.input(1)) return false;
    const int64_t rank = x.shape().rank();
    Ints axes = node.integers("axes");
    for (int64_t& axis : axes) axis = normalize_axis(axis, rank, node.where());
    const auto own = static_cast<int64_t>(place.axis);
    if (axes.empty() || std::find(axes.begin(), axes.end(), own) != axes.end()) return false;
    if (node.integer("keepdims") == 0)
      place.axis -= static_cast<size_t>(
          std::count_if(axes.begin(), axes.end(), [&](int64_t axis) { return axis < own; }));
    return true;
  }

  // The axis stays, or merges with all that is behind it.
  static bool pass_reshape(const Shape& from, const Shape& to, Place& place) {
    const size_t axis = place.axis;
    if (to.size() <= axis) return false;
    for (size_t i = 0; i < axis; ++i)
      if (!(from[i] == to[i])) return false;
    if (from[axis] == to[axis]) return true;
    size_t behind = 1;
    for (size_t i = axis + 1; i < from.size(); ++i) {
      if (!from[i].is_static()) return false;
      behind *= static_cast<size_t>(from[i].value());
    }
    place.repeat *= behind;
    return to.size() == axis + 1 && behind > 0;
  }

  // Returns the largest change of a factor's logarithm.
  double equalize(Pair& pair) {
    Product &first = products_[pair.first], &second = products_[pair.second];
    const size_t channels = pair.s.size();
    std::vector<double> wanted(channels, 0), live;  // 0: nothing to equalise
    for (size_t c = 0; c < channels; ++c) {
      double r1 = first.output_range(c), r2 = 0;
      for (size_t k = c * pair.repeat; k < (c + 1) * pair.repeat; ++k)
        r2 = std::max(r2, second.input_range(k));
      if (!(r1 > 0 && r2 > 0) || !std::isfinite(r1) || !std::isfinite(r2)) continue;
      wanted[c] = pair.s[c] * std::sqrt(r1 * r2) / r2;
      live.push_back(wanted[c]);
    }
    if (live.empty()) return 0;
    const auto middle = live.begin() + static_cast<ptrdiff_t>(live.size() / 2);
    std::nth_element(live.begin(), middle, live.end());
    const double least = *middle / std::min(options_.most_stretch, most_ratio);
    double change = 0;
    for (size_t c = 0; c < channels; ++c) {
      if (wanted[c] == 0) wanted[c] = *middle;  // its bias, or what it reads, goes with the others'
      const double step = std::clamp(wanted[c], least, *middle * most_ratio) / pair.s[c];
      pair.s[c] *= step;
      first.out[c] *= step;
      for (size_t k = c * pair.repeat; k < (c + 1) * pair.repeat; ++k) second.in[k] *= step;
      change = std::max(change, std::fabs(std::log(step)));
    }
    return change;
  }

  Value* equalized(const Value* constant, Tensor values) {
    return graph_.add_constant(constant->name() + "/equalized", std::move(values));
  }

  Value* divided(const Value* constant, const std::vector<double>& s, size_t repeat) {
    const auto from = constant->constant().values<float>();
    Tensor result(DType::f32, constant->constant().dims());
    auto to = result.mutable_values<float>();
    for (size_t k = 0; k < to.size(); ++k) to[k] = static_cast<float>(from[k] / s[k / repeat]);
    return equalized(constant, std::move(result));
  }

  void divide_sum(Node& add, const Place& place, const std::vector<double>& s) {
    const size_t side = add.input(0)->is_constant() ? 0 : 1;
    add.set_input(side, divided(add.input(side), s, place.repeat));
  }

  void bound(Node& clip, const Place& place, const std::vector<double>& s) {
    const Bounds bounds = *clamp_bounds(clip);
    Dims dims(clip.output()->shape().size() - place.axis, 1);
    dims[0] = static_cast<int64_t>(s.size() * place.repeat);
    Value* value = clip.input(0);
    const auto apply = [&](const char* op, const char* what, double end) {
      Tensor ends(DType::f32, dims);
      auto to = ends.mutable_values<float>();
      for (size_t k = 0; k < to.size(); ++k) to[k] = static_cast<float>(end / s[k / place.repeat]);
      const std::string name = clip.output()->name() + "/" + what;
      value = graph_.apply(op, {value, graph_.add_constant(name + "s", std::move(ends))}, {}, name,
                           &clip);
    };
    if (bounds.lo == 0)  // products take a relu over
      value = graph_.apply("relu", {value}, {}, clip.output()->name() + "/relu", &clip);
    else if (!is_end(bounds.lo))
      apply("maximum", "least", bounds.lo);
    if (!is_end(bounds.hi) || bounds.hi == 0) apply("minimum", "most", bounds.hi);
    graph_.replace_all_uses(clip.output(), value);
  }

  void write(const Product& product) {
    const auto is_one = [](double factor) { return factor == 1; };
    if (std::all_of(product.in.begin(), product.in.end(), is_one) &&
        std::all_of(product.out.begin(), product.out.end(), is_one))
      return;
    const Value* w = product.node->input(1);
    const auto from = w->constant().values<float>();
    Tensor result(DType::f32, w->constant().dims());
    auto to = result.mutable_values<float>();
    product.each([&](size_t element, size_t output, size_t input) {
      to[element] = static_cast<float>(from[element] * product.in[input] / product.out[output]);
    });
    product.node->set_input(1, equalized(w, std::move(result)));
    if (const Value* bias = product.node->input(2);
        bias && !std::all_of(product.out.begin(), product.out.end(), is_one))
      product.node->set_input(2, divided(bias, product.out, 1));
  }

  Graph& graph_;
  const EqualizeOptions& options_;
  std::vector<Product> products_;
  std::unordered_map<const Node*, size_t> index_;
  std::vector<Pair> pairs_;
};

}  // namespace

std::vector<EqualizedPair> equalize_weights(Graph& graph, const EqualizeOptions& options) {
  if (options.where == FactorPlaces::none) return {};
  if (!(options.most_stretch >= 1))
    throw UserError(ErrorKind::value, "most_stretch",
                    fmt::format("{} is not in 1 to infinity", options.most_stretch), "use 2");
  return Equalizer(graph, options).run();
}

}  // namespace octavo
