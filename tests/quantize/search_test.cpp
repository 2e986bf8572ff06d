#include "quantize/search.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "codegen/compile.h"
#include "quantize/sensitivity_networks.h"
#include "support/error.h"

namespace octavo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// 100 us, and for each product that reads a float tensor what `costs` says (10 if nothing).
Latency counted(std::map<std::string, double> costs) {
  return [costs = std::move(costs)](std::span<const Graph* const> graphs) {
    std::vector<double> times;
    for (const Graph* graph : graphs) {
      double time = 100;
      graph->for_each([&](Node& node) {
        if (!node.is("matmul") && !node.is("conv") && !node.is("gemm")) return;
        const Node* producer = node.input(0)->producer();
        if (producer && producer->is("dequantize")) return;
        const auto it = costs.find(node.name());
        time += it == costs.end() ? 10 : it->second;
      });
      times.push_back(time);
    }
    return times;
  };
}

SearchOptions at_least(double db) {
  SearchOptions options;
  options.sensitivity.calibrator = "max";
  options.least = db;
  options.weights = "mse";
  options.correct_bias = false;
  options.latency = counted({});
  return options;
}

TEST(Search, LeavesTheBadLayerInFloat) {
  const Graph graph = parse_graph(bad_middle_network);
  const auto data = noise(graph, 16);
  Variants variants(graph.clone(), {});
  const SearchResult result = search(variants, *data, at_least(30));
  EXPECT_THAT(result.points[result.chosen].float_layers, ElementsAre("middle"));
  EXPECT_EQ(result.points[result.chosen].microseconds, 110);
  EXPECT_FALSE(result.points[0].enough);
  EXPECT_TRUE(result.points[0].float_layers.empty());
  EXPECT_EQ(result.points.back().float_layers.size(), 3u);
  EXPECT_EQ(result.points.back().value, INFINITY);
  EXPECT_EQ(result.points.back().microseconds, 130);
  for (const double gain : result.gains) EXPECT_EQ(gain, 10);
}

// Harm per microsecond orders, not harm alone.
TEST(Search, WeighsHarmByWhatFloatCosts) {
  const Graph graph = parse_graph(bad_middle_network);
  const auto data = noise(graph, 16);
  const auto order = [&](std::map<std::string, double> costs) {
    Variants variants(graph.clone(), {});
    SearchOptions options = at_least(0);
    options.latency = counted(std::move(costs));
    const SearchResult result = search(variants, *data, options);
    std::map<std::string, double> noise_per_us;
    for (size_t i = 0; i < result.gains.size(); ++i) {
      const LayerSensitivity& l = result.sensitivity.layers[i];
      noise_per_us[l.layer.name] = std::pow(10, -l.figures.sqnr_db.value / 10) / result.gains[i];
    }
    const auto& all = result.points.back().float_layers;
    for (size_t i = 1; i < all.size(); ++i)
      EXPECT_GE(noise_per_us[all[i - 1]], noise_per_us[all[i]]);
    return all;
  };
  EXPECT_EQ(order({})[0], "middle");
  EXPECT_EQ(order({{"middle", 1e12}})[2], "middle");
}

// Every point against octavo quantize with its rules and the whole network, and the front against
// its definition.
void expect_points_of_their_rules(const Graph& graph, const Rules& rules, const char* weights) {
  const auto data = noise(graph, 6);
  PtqOptions quantization;
  quantization.rules = rules;
  Variants variants(graph.clone(), quantization);
  SearchOptions options = at_least(35);
  options.weights = weights;
  options.correct_bias = true;
  const SearchResult result = search(variants, *data, options);
  Program truth = compile(variants.graph().clone(), {.threads = 1});
  ASSERT_EQ(result.points.size(), result.graphs.size());
  std::set<size_t> counts;
  for (size_t i = 0; i < result.points.size(); ++i) {
    const SearchPoint& p = result.points[i];
    EXPECT_TRUE(counts.insert(p.float_layers.size()).second);
    std::vector<Score> scores;
    Graph again = variants.graph().clone();
    if (i + 1 < result.points.size()) {
      PtqOptions ptq_options;
      ptq_options.rules = p.rules;
      ptq_options.weights = weights;
      // Where nothing but other ops than products is left to quantize, there is nothing.
      const Placement left = variants.place(p.rules);
      if (left.weights.empty() && left.products.empty() && left.tables.empty()) continue;
      Ptq ptq(graph.clone(), ptq_options);
      ptq.calibrate(*data);
      again = std::move(ptq.quantize({"max"}, *data)[0].graph);
    }
    EXPECT_EQ(print_graph(again, {.full = true}), print_graph(result.graphs[i], {.full = true}));
    Program program = compile(std::move(again), {.threads = 1});
    for (size_t s = 0; s < data->size(); ++s) {
      const auto x = data->sample(s);
      scores.push_back(score_of(truth.run(x), program.run(x)));
    }
    EXPECT_EQ(p.value, figures_of(scores).sqnr_db.value);
    EXPECT_EQ(p.enough, p.value >= 35);
    bool dominated = false;
    for (const SearchPoint& q : result.points)
      dominated = dominated || (q.value >= p.value && q.microseconds < p.microseconds) ||
                  (q.value > p.value && q.microseconds <= p.microseconds);
    EXPECT_EQ(p.on_front, !dominated);
    if (p.enough) {
      EXPECT_GE(p.microseconds, result.points[result.chosen].microseconds);
    }
  }
  EXPECT_TRUE(result.points[result.chosen].enough);
  EXPECT_TRUE(result.points[result.chosen].on_front);
}

TEST(Search, PointsAreWhatTheirRulesGive) {
  for (const char* weights : {"mse", "gptq"})
    expect_points_of_their_rules(parse_graph(residual_network), {}, weights);
}

TEST(Search, PointsHaveEveryPrecision) {
  for (const char* weights : {"max", "mse", "gptq"})
    expect_points_of_their_rules(parse_graph(mixed_network), mixed_rules(), weights);
}

TEST(Search, AgreementMayDropAndMetricsAreAnyFunction) {
  const Graph graph = parse_graph(residual_network);
  const auto data = noise(graph, 6);
  Variants variants(graph.clone(), {});
  SearchOptions options = at_least(0);
  options.least.reset();
  options.max_drop = 0;
  options.sensitivity.metric = "agreement";
  SearchResult result = search(variants, *data, options);
  EXPECT_EQ(result.points[result.chosen].figures.agreement.value, 1);
  options.sensitivity.metric = "mean";
  options.sensitivity.custom = [](std::span<const Tensor> outputs, size_t) {
    return static_cast<double>(outputs[0].values<float>()[0]);
  };
  options.max_drop = 1e-3;
  result = search(variants, *data, options);
  EXPECT_LE(result.points[result.chosen].drop, 1e-3);
  EXPECT_EQ(result.points.back().drop, 0);
}

// Its times decide nothing here: that there is one for each graph does.
TEST(Search, MeasuresEveryGraph) {
  const Graph graph = parse_graph(residual_network);
  const auto data = noise(graph, 2);
  std::vector<const Graph*> graphs(17, &graph);  // three groups
  const auto times = measure_latency(graphs, data->sample(0), 1);
  ASSERT_EQ(times.size(), 17u);
  for (const double t : times) EXPECT_GT(t, 0);
  EXPECT_EQ(measure_latency({graphs.data(), 1}, data->sample(0), 1).size(), 1u);
  Variants variants(graph.clone(), {});
  SearchOptions options = at_least(20);
  options.latency = {};
  const SearchResult result = search(variants, *data, options);
  EXPECT_EQ(result.gains.size(), variants.layers().size());
  EXPECT_TRUE(result.points[result.chosen].enough);
}

TEST(Search, SaysWhatIsWrong) {
  const Graph graph = parse_graph(bad_middle_network);
  const auto data = noise(graph, 2);
  Variants variants(graph.clone(), {});
  const auto error = [&](const std::function<void(SearchOptions&)>& change) -> std::string {
    SearchOptions options = at_least(20);
    change(options);
    try {
      search(variants, *data, options);
    } catch (const UserError& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_THAT(error([](SearchOptions& o) { o.least.reset(); }), HasSubstr("exactly one"));
  EXPECT_THAT(error([](SearchOptions& o) { o.max_drop = 0.1; }), HasSubstr("exactly one"));
  EXPECT_THAT(error([](SearchOptions& o) {
                o.least.reset();
                o.max_drop = 0.1;
              }),
              HasSubstr("use least"));
  EXPECT_THAT(error([](SearchOptions& o) {
                o.least.reset();
                o.max_drop = -1;
                o.sensitivity.metric = "agreement";
              }),
              HasSubstr("less than 0"));
  EXPECT_THAT(error([](SearchOptions& o) {
                o.sensitivity.metric = "agreement";
                o.least = 2;
              }),
              HasSubstr("no network reaches 2"));
  EXPECT_THAT(error([](SearchOptions& o) {
                o.latency = [](std::span<const Graph* const>) { return std::vector<double>{1}; };
              }),
              HasSubstr("gave 1 times for 4 graphs"));
  EXPECT_THAT(error([](SearchOptions& o) {
                o.latency = [](std::span<const Graph* const> g) {
                  return std::vector<double>(g.size(), -1);
                };
              }),
              HasSubstr("no positive time"));
  EXPECT_THAT(error([](SearchOptions& o) { o.weights = "best"; }), HasSubstr("best"));
}

}  // namespace
}  // namespace octavo
