#include "quantize/integer_weights.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "evaluate/metrics.h"
#include "graph/op_def.h"
#include "graph/transposed.h"
#include "ops/packed.h"
#include "support/error.h"
#include "support/thread_pool.h"

namespace octavo {
namespace {

struct Group {
  float scale;
  int zero;
  int least, most;
};

double rounded(float w, const Group& g) {
  return std::clamp(std::nearbyint(static_cast<double>(w) / g.scale) + g.zero,
                    static_cast<double>(g.least), static_cast<double>(g.most));
}

// `part` of the range of the elements.
Group group_of(float lo, float hi, double part, const GroupScheme& scheme) {
  Group g{1, 0, -127, 127};
  double step = 0;
  if (scheme.bits == 8) {
    step = std::max(-lo, hi) * part / 127;
  } else if (scheme.symmetric) {
    g.least = -8, g.most = 7;
    step = std::max(-lo / 8, hi / 7) * part;
  } else {
    g.least = 0, g.most = 15;
    step = (hi - lo) * part / 15;
  }
  // A group that is always zero: any scale represents it.
  g.scale = step > 1e-30 ? static_cast<float>(step) : 1.0f;
  if (g.least == 0)
    g.zero = static_cast<int>(std::clamp(std::nearbyint(-lo * part / g.scale), 0.0, 15.0));
  return g;
}

Group choose(std::span<const float> w, const GroupScheme& scheme, bool search,
             std::span<const double> importance) {
  float lo = 0, hi = 0;
  for (const float v : w) lo = std::min(lo, v), hi = std::max(hi, v);
  Group best = group_of(lo, hi, 1, scheme);
  if (!search || lo == hi) return best;
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 20; ++i) {
    const Group g = group_of(lo, hi, 1 - (scheme.bits == 8 ? 0.01 : 0.02) * i, scheme);
    double error = 0;
    for (size_t k = 0; k < w.size() && error < least; ++k) {
      const double e = w[k] - (rounded(w[k], g) - g.zero) * g.scale;
      error += importance.empty() ? e * e : importance[k] * e * e;
    }
    if (error < least) least = error, best = g;
  }
  return best;
}

class Applier {
 public:
  Applier(Graph& graph, const Placement& placement, const RowsByNode& weights)
      : graph_(graph), placement_(placement), weights_(weights) {}

  void run() {
    std::map<std::string, const PlacedProduct*> placed;
    for (const auto* list : {&placement_.products, &placement_.tables})
      for (const PlacedProduct& p : *list)
        if (weights_.contains(p.node->name())) placed[p.node->name()] = &p;
    graph_.for_each([&](Node& node) {
      const auto it = placed.find(node.name());
      if (it == placed.end() || it->second->node->op_name() != node.op_name()) return;
      if (node.is("gather"))
        table(node, weights_.at(node.name()));
      else
        product(node, weights_.at(node.name()));
    });
    graph_.remove_dead();
    graph_.stage = Stage::quantized;
  }

 private:
  struct Parts {
    Tensor values, scale, zero;
  };

  // [channels, length] and [channels, groups]; one scale for each row: [channels].
  static Parts parts_of(const GroupedRows& rows) {
    const DType type = rows.zeros.empty() ? DType::i8 : DType::u8;
    const auto channels = static_cast<int64_t>(rows.channels);
    const auto bytes = [&](const std::vector<int8_t>& from, Dims dims) {
      Tensor t(type, std::move(dims));
      std::copy_n(reinterpret_cast<const std::byte*>(from.data()), from.size(), t.mutable_data());
      return t;
    };
    Dims parameters{channels};
    if (rows.groups > 1) parameters.push_back(static_cast<int64_t>(rows.groups));
    Parts parts{bytes(rows.values, {channels, static_cast<int64_t>(rows.length)}),
                Tensor::from(parameters, rows.scales), Tensor()};
    if (!rows.zeros.empty()) parts.zero = bytes(rows.zeros, parameters);
    return parts;
  }

  Value* dequantize(const std::string& name, Parts parts, int64_t axis, int64_t group, int bits,
                    Node& before) {
    Attributes a{{"axis", axis}};
    if (group > 0) a["group_size"] = group;
    if (bits == 4) {
      a["packed"] = std::string(parts.zero ? "u4" : "i4");
      if (parts.values.dims().back() % 2) a["columns"] = parts.values.dims().back();
      parts.values = pack_nibbles(parts.values, name);
    }
    const auto constant = [&](const char* what, Tensor tensor) {
      return graph_.add_constant(name + what, std::move(tensor));
    };
    if (bits == 8 && !parts.zero) {
      parts.zero = Tensor(DType::i8, parts.scale.dims());
      std::fill_n(parts.zero.mutable_data(), parts.zero.bytes(), std::byte{0});
    }
    return graph_.apply("dequantize",
                        {constant("/quantized", std::move(parts.values)),
                         constant("/scale", std::move(parts.scale)),
                         parts.zero ? constant("/zero_point", std::move(parts.zero)) : nullptr},
                        std::move(a), name + "/dequantized", &before);
  }

  void product(Node& node, const GroupedRows& rows) {
    const std::string name = node.input(1)->name();
    Parts parts = parts_of(rows);
    int64_t axis = 0;
    const int64_t group = rows.groups > 1 ? rows.scheme.group : 0;
    if (node.is("conv")) {
      parts.values = parts.values.reshaped(node.input(1)->shape().dims());
    } else {
      // [K, N] in all of them, which every runtime has a kernel for.
      parts.values = transposed_matrix(parts.values);
      if (group > 0) {
        parts.scale = transposed_matrix(parts.scale);
        if (parts.zero) parts.zero = transposed_matrix(parts.zero);
      }
      axis = group > 0 ? 0 : 1;
      if (node.is("gemm")) node.set("trans_b", int64_t{0});
    }
    node.set_input(1, dequantize(name, std::move(parts), axis, group, rows.scheme.bits, node));
  }

  void table(Node& node, const GroupedRows& rows) {
    const std::string name = node.input(0)->name();
    Parts parts = parts_of(rows);
    if (!placement_.gathers_integers) {
      const int64_t group = rows.groups > 1 ? rows.scheme.group : 0;
      node.set_input(0, shared(name, [&] {
                       return dequantize(name, parts, group > 0 ? 1 : 0, group, rows.scheme.bits,
                                         *graph_.first());
                     }));
      return;
    }
    // The runtime would dequantize the whole table at each call: rows are picked first.
    OCTAVO_CHECK(rows.scheme.bits == 8 && rows.groups == 1);
    Value* integers =
        shared(name + "/quantized", [&] { return constant(name + "/quantized", parts.values); });
    Value* scales = shared(name + "/scale", [&] {
      return constant(name + "/scale",
                      parts.scale.reshaped({static_cast<int64_t>(rows.channels), 1}));
    });
    const Attributes axis{{"axis", int64_t{0}}};
    const std::string& out = node.output()->name();
    Value* q = graph_.apply("gather", {integers, node.input(1)}, axis, out + "/quantized", &node);
    Value* wide = graph_.apply("cast", {q}, {{"to", std::string("f32")}}, out + "/wide", &node);
    Value* scale = graph_.apply("gather", {scales, node.input(1)}, axis, out + "/scale", &node);
    const std::string result = out;
    Value* y = graph_.apply("mul", {wide, scale}, {}, node.name(), &node);
    graph_.replace_all_uses(node.output(), y);
    graph_.erase(&node);
    graph_.rename(y, result);
  }

  Value* constant(const std::string& name, Tensor tensor) {
    return graph_.add_constant(name, std::move(tensor));
  }

  // Gathers of one table read one constant.
  template <class F>
  Value* shared(const std::string& name, const F& make) {
    const auto it = made_.find(name);
    return it != made_.end() ? it->second : made_[name] = make();
  }

  Graph& graph_;
  const Placement& placement_;
  const RowsByNode& weights_;
  std::map<std::string, Value*> made_;
};

}  // namespace

size_t GroupedRows::place(size_t channel, size_t k) const {
  return channel * groups + (groups > 1 ? k / static_cast<size_t>(scheme.group) : 0);
}

float GroupedRows::dequantized(size_t channel, size_t k) const {
  return static_cast<float>(values[channel * length + k] - zero(channel, k)) * scale(channel, k);
}

std::pair<int, int> GroupedRows::bounds() const {
  if (scheme.bits == 8) return {-127, 127};
  return zeros.empty() ? std::pair{-8, 7} : std::pair{0, 15};
}

GroupedRows quantize_rows(const WeightRows& rows, const GroupScheme& scheme,
                          const std::string& method, std::span<const double> importance) {
  GroupedRows result{scheme, rows.channels, rows.length, 1, {}, {}, {}};
  const auto group = scheme.group > 0 && static_cast<size_t>(scheme.group) < rows.length
                         ? static_cast<size_t>(scheme.group)
                         : std::max<size_t>(rows.length, 1);
  result.groups = std::max<size_t>((rows.length + group - 1) / group, 1);
  result.values.resize(rows.values.size());
  result.scales.resize(rows.channels * result.groups);
  const bool affine = scheme.bits == 4 && !scheme.symmetric;
  if (affine) result.zeros.resize(result.scales.size());
  auto task = [&](int64_t channel, int) {
    const size_t row = static_cast<size_t>(channel) * rows.length;
    for (size_t g = 0; g < result.groups; ++g) {
      const size_t begin = g * group, end = std::min(begin + group, rows.length);
      const Group chosen =
          choose({rows.values.data() + row + begin, end - begin}, scheme, method != "max",
                 importance.empty() ? importance : importance.subspan(begin, end - begin));
      const size_t at = static_cast<size_t>(channel) * result.groups + g;
      result.scales[at] = chosen.scale;
      if (affine) result.zeros[at] = static_cast<int8_t>(chosen.zero);
      for (size_t k = row + begin; k < row + end; ++k)
        result.values[k] = static_cast<int8_t>(rounded(rows.values[k], chosen));
    }
  };
  default_pool().run(static_cast<int64_t>(rows.channels), task);
  return result;
}

double sqnr_db(const WeightRows& rows, const GroupedRows& quantized) {
  double signal = 0, noise = 0;
  for (size_t c = 0; c < rows.channels; ++c)
    for (size_t k = 0; k < rows.length; ++k) {
      const double w = rows.values[c * rows.length + k], e = w - quantized.dequantized(c, k);
      signal += w * w;
      noise += e * e;
    }
  return decibels(signal, noise);
}

WeightRows rows_of(const PlacedProduct& placed) {
  const bool table = placed.node->is("gather");
  return weight_rows(placed.node->input(table ? 0 : 1)->constant(), placed.axis);
}

GroupScheme scheme_of(const PlacedProduct& placed, const Placement& placement) {
  const int bits = placed.precision == Precision::int4_weights ? 4 : 8;
  return {bits, bits == 8 || placement.symmetric_weights, placed.group_size};
}

RowsByNode integer_weights(const Placement& placement, const std::string& method) {
  RowsByNode all;
  for (const auto* list : {&placement.products, &placement.tables})
    for (const PlacedProduct& placed : *list) {
      if (placed.precision != Precision::int8_weights &&
          placed.precision != Precision::int4_weights)
        continue;
      all[placed.node->name()] =
          quantize_rows(rows_of(placed), scheme_of(placed, placement), method);
    }
  return all;
}

void apply_integer_weights(Graph& graph, const Placement& placement, const RowsByNode& weights) {
  if (!weights.empty()) Applier(graph, placement, weights).run();
}

}  // namespace octavo
