#include "quantize/ptq.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "api/octavo.h"
#include "backends/reference/interpreter.h"
#include "graph/op_def.h"
#include "graph/text.h"
#include "quantize/weights.h"
#include "support/error.h"

namespace octavo {
namespace {

// No node has a name; a residual, a concat, two outputs, any batch.
constexpr const char* nameless = R"(graph "g" canonical {
  input %x : f32[N, 4, 9, 9]
  const %0 : f32[8, 4, 3, 3] = random(1, -1, 1)
  const %1 : f32[8, 1, 3, 3] = random(2, -1, 1)
  const %2 : f32[8, 16, 1, 1] = random(3, -1, 1)
  const %3 : f32[5, 8] = random(4, -1, 1)
  %4 = conv(%x, %0) {pads = [1, 1, 1, 1]}
  %5 = relu(%4)
  %6 = conv(%5, %1) {pads = [1, 1, 1, 1], group = 8}
  %7 = concat(%5, %6) {axis = 1}
  %8 = conv(%7, %2)
  %9 = add(%8, %5)
  %10 = relu(%9)
  %11 = reduce_mean(%10) {axes = [2, 3], keepdims = 0}
  %12 = gemm(%11, %3) {trans_b = 1}
  return %12, %10
})";

std::unique_ptr<Dataset> noise(const Graph& graph, size_t samples, uint64_t seed = 1) {
  std::vector<std::vector<Tensor>> all;
  for (size_t i = 0; i < samples; ++i)
    all.push_back(random_inputs(signature_of(graph), seed + i, 1));
  return memory_dataset(std::move(all), signature_of(graph));
}

PtqOptions with(const std::string& weights, int threads = 0) {
  PtqOptions options;
  options.weights = weights;
  options.threads = threads;
  return options;
}

std::string quantized_text(const Graph& graph, const Dataset& data, PtqOptions options) {
  Ptq ptq(graph.clone(), std::move(options));
  ptq.calibrate(data);
  return print_graph(ptq.quantize({"max"}, data)[0].graph);
}

template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const UserError& e) {
    return e.what();
  }
  return "no error";
}

TEST(Ptq, GivesTheSameNetworkForAnyThreadCount) {
  const Graph graph = parse_graph(nameless);
  const auto data = noise(graph, 7);
  for (const char* weights : {"gptq", "mse"}) {
    const std::string want = quantized_text(graph, *data, with(weights, 1));
    for (int threads : {2, 3})
      EXPECT_EQ(quantized_text(graph, *data, with(weights, threads)), want) << weights;
  }
}

TEST(Ptq, QuantizesNodesWithoutNames) {
  const Graph graph = parse_graph(nameless);
  const auto data = noise(graph, 20);
  Ptq ptq(graph.clone(), {});
  ptq.calibrate(*data);
  EXPECT_EQ(ptq.placement().weights.size(), 4u);
  const auto result = std::move(ptq.quantize({"max"}, *data)[0]);
  EXPECT_EQ(result.layers.size(), 4u);
  const Graph* graphs[] = {&result.graph};
  const Comparison c = compare(ptq.graph(), graphs, *data, 0)[0];
  // u8 over the tensors' ranges alone gives above 30 dB on four layers of noise.
  EXPECT_GT(c.output_sqnr_db, 30);
  EXPECT_TRUE(c.collapses.empty());
}

TEST(Ptq, CorrectionAndGptqBeatRoundingToNearest) {
  const Graph graph = parse_graph(nameless);
  const auto data = noise(graph, 40), unseen = noise(graph, 40, 1000);
  const auto sqnr = [&](const char* weights, bool correct) {
    PtqOptions options = with(weights);
    options.correct_bias = correct;
    Ptq ptq(graph.clone(), options);
    ptq.calibrate(*data);
    const auto result = std::move(ptq.quantize({"max"}, *data)[0]);
    const Graph* graphs[] = {&result.graph};
    return compare(ptq.graph(), graphs, *unseen, 0)[0].output_sqnr_db;
  };
  const double plain = sqnr("max", false), corrected = sqnr("max", true), gptq = sqnr("gptq", true);
  EXPECT_GT(corrected, plain);
  EXPECT_GT(gptq, corrected);
}

TEST(Ptq, LooksAtFewerSamplesWhenTheirTensorsDoNotFit) {
  const Graph graph = parse_graph(nameless);
  const auto data = noise(graph, 10);
  PtqOptions options;
  // The most that is held at once for one sample: the tensors before and behind the concat.
  options.most_bytes = 4 * 9 * 9 * (8 + 16);
  Ptq few(graph.clone(), options);
  few.calibrate(*data);
  const size_t fitted = few.quantize({"max"}, *data)[0].fitted_samples;
  EXPECT_GE(fitted, 2u);
  EXPECT_LT(fitted, 10u);
  options.most_bytes = 1;
  Ptq one(graph.clone(), options);
  one.calibrate(*data);
  EXPECT_EQ(one.quantize({"max"}, *data)[0].fitted_samples, 1u);
}

TEST(Ptq, SeveralCalibratorsAreEachAsIfAlone) {
  const Graph graph = parse_graph(nameless);
  const auto data = noise(graph, 6);
  Ptq ptq(graph.clone(), {});
  ptq.calibrate(*data);
  const auto together = ptq.quantize({"max", "percentile"}, *data);
  for (size_t k = 0; k < 2; ++k)
    EXPECT_EQ(print_graph(ptq.quantize({k ? "percentile" : "max"}, *data)[0].graph),
              print_graph(together[k].graph));
}

TEST(Ptq, ShardsOfStatisticsMergeIntoTheWhole) {
  const Graph graph = parse_graph(nameless);
  std::vector<std::vector<Tensor>> all, first, second;
  for (uint64_t i = 0; i < 9; ++i) all.push_back(random_inputs(signature_of(graph), i, 1));
  first.assign(all.begin(), all.begin() + 4), second.assign(all.begin() + 4, all.end());
  const auto data = memory_dataset(all, signature_of(graph));
  Ptq whole(graph.clone(), {}), a(graph.clone(), {}), b(graph.clone(), {});
  whole.calibrate(*data);
  a.calibrate(*memory_dataset(first, signature_of(graph)));
  b.calibrate(*memory_dataset(second, signature_of(graph)));
  a.merge_statistics(b.statistics(), "shard 2");
  EXPECT_EQ(a.samples(), 9u);
  // Averages of batches' extremes depend on the order; the rest is exact.
  for (const char* name : {"max", "percentile", "entropy", "mse"})
    EXPECT_EQ(a.describe(name), whole.describe(name)) << name;
  EXPECT_EQ(print_graph(a.quantize({"max"}, *data)[0].graph),
            print_graph(whole.quantize({"max"}, *data)[0].graph));

  const std::string bytes = b.statistics();
  const std::string before = a.statistics();
  for (const std::string& bad : {std::string(), bytes.substr(0, bytes.size() / 2), bytes + "x",
                                 std::string("nothing of the kind at all")})
    EXPECT_NE(error_of([&] { a.merge_statistics(bad, "bad"); }).find("bad: "), std::string::npos);
  EXPECT_EQ(a.statistics(), before);
}

TEST(Ptq, SaysWhatIsWrongWithTheRequest) {
  const Graph graph = parse_graph(nameless);
  const auto data = noise(graph, 2);
  EXPECT_EQ(error_of([&] { Ptq(graph.clone(), with("fancy")); }),
            "weights: 'fancy' is not known; use one of: max, mse, gptq, adaround, awq, awq+gptq");
  Ptq ptq(graph.clone(), {});
  EXPECT_EQ(error_of([&] { ptq.quantize({"max"}, *data); }),
            "quantize: nothing was calibrated; call calibrate with data first");
  EXPECT_EQ(error_of([&] { ptq.calibrate(*noise(graph, 0)); }), "data: there is no sample");
  ptq.calibrate(*data);
  EXPECT_NE(error_of([&] { ptq.quantize({"best"}, *data); }).find("calibrator: 'best'"),
            std::string::npos);
  const Graph quantized = std::move(ptq.quantize({"max"}, *data)[0].graph);
  EXPECT_EQ(error_of([&] { Ptq(quantized.clone(), {}); }),
            "g: is quantized already; give the float model");
  EXPECT_NE(error_of([&] {
              Ptq(parse_graph(R"(graph "n" canonical {
                input %x : f32[2]
                %y = relu(%x)
                return %y
              })"),
                  {});
            }).find("n: has no layer that can be integer"),
            std::string::npos);
}

TEST(Ptq, NamesTensorAndSampleWhereTheNetworkOverflows) {
  const Graph graph = parse_graph(nameless);
  std::vector<std::vector<Tensor>> samples;
  for (uint64_t i = 0; i < 5; ++i) samples.push_back(random_inputs(signature_of(graph), i, 1));
  for (float& v : samples[3][0].mutable_values<float>()) v *= 1e38f;
  const auto data = memory_dataset(samples, signature_of(graph));
  for (int threads : {1, 3}) {
    Ptq ptq(graph.clone(), with("gptq", threads));
    const std::string error = error_of([&] { ptq.calibrate(*data); });
    EXPECT_NE(error.find("of sample 3: the data hold NaN or infinity"), std::string::npos) << error;
  }
}

TEST(Ptq, RulesKeepLayersInFloat) {
  const Graph graph = parse_graph(R"(graph "g" canonical {
    input %x : f32[1, 4, 6, 6]
    const %v : f32[4, 4, 1, 1] = random(1, -1, 1)
    const %w : f32[4, 4, 3, 3] = random(2, -1, 1)
    const %k : f32[3, 4] = random(3, -1, 1)
    %first = conv(%x, %v)
    %second = conv(%first, %w)
    %p = reduce_mean(%second) {axes = [2, 3], keepdims = 0}
    %head = gemm(%p, %k) {trans_b = 1}
    return %head
  })");
  const auto data = noise(graph, 3);
  const auto integer_layers = [&](const char* rules) {
    PtqOptions options;
    options.rules = parse_rules(rules, "rules");
    Ptq ptq(graph.clone(), options);
    ptq.calibrate(*data);
    const Graph quantized = std::move(ptq.quantize({"max"}, *data)[0].graph);
    std::vector<std::string> names;
    quantized.for_each([&](Node& node) {
      if (node.op().quant == QuantTrait::weighted && node.input(1)->producer())
        names.push_back(node.name());
    });
    for (const auto& skipped : ptq.placement().skipped)
      names.push_back(skipped.node + ": " + skipped.reason);
    return names;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(integer_layers(R"({"schema_version": 1, "rules": []})"),
            (Names{"first", "second", "head"}));
  EXPECT_EQ(
      integer_layers(R"({"schema_version": 1, "rules": [{"name": "sec*", "precision": "float"}]})"),
      (Names{"first", "head", "second: a rule keeps it in float"}));
  // The last rule that matches decides.
  EXPECT_EQ(integer_layers(R"({"schema_version": 1, "rules": [
              {"op": "conv", "precision": "float"}, {"name": "first", "precision": "int8"}]})"),
            (Names{"first", "head", "second: a rule keeps it in float"}));
  PtqOptions all_float;
  all_float.rules =
      parse_rules(R"({"schema_version": 1, "rules": [{"precision": "float"}]})", "rules");
  EXPECT_NE(error_of([&] { Ptq(graph.clone(), all_float); }).find("no layer that can be integer"),
            std::string::npos);
}

TEST(Compare, NamesTheLayerWhereASignalCollapses) {
  // Between w and its inverse only the 40th part of a step is left of the signal.
  const Graph graph = parse_graph(R"(graph "g" canonical {
    input %x : f32[1, 2, 4, 4]
    const %w : f32[2, 2, 1, 1] = [1, 0, 0, 1]
    const %far : f32[2] = [0, 1000]
    const %v : f32[2, 2, 1, 1] = [1, 0, 0, 0]
    %wide = conv(%x, %w, %far)
    %narrow = conv(%wide, %v)
    %last = conv(%narrow, %w)
    return %last
  })");
  std::vector<std::vector<Tensor>> samples{random_inputs(signature_of(graph), 1, 1)};
  const auto data = memory_dataset(samples, signature_of(graph));
  Ptq ptq(graph.clone(), {});
  ptq.calibrate(*data);
  const auto result = std::move(ptq.quantize({"max"}, *data)[0]);
  const Graph* graphs[] = {&result.graph};
  const Comparison c = compare(ptq.graph(), graphs, *data, 0)[0];
  ASSERT_EQ(c.collapses.size(), 1u);
  EXPECT_EQ(c.collapses[0].layer, "narrow");
  EXPECT_EQ(c.collapses[0].tensor, "narrow");
  EXPECT_EQ(c.collapses[0].followers, 1u);
  EXPECT_LT(c.collapses[0].sqnr_db, collapsed_sqnr_db);
}

}  // namespace
}  // namespace octavo
