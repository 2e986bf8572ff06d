#include "quantize/algorithms/smooth.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "api/octavo.h"
#include "backends/reference/interpreter.h"
#include "graph/op_def.h"
#include "graph/text.h"
#include "support/error.h"

namespace octavo {
namespace {

// A block as transformers have it; some gains are large, so that their channels stand out.
constexpr const char* block = R"(graph "g" canonical {
  input %x : f32[N, 5, 16]
  const %gain : f32[16] = random(1, 0.2, 1)
  const %bias : f32[16] = random(2, -0.5, 0.5)
  const %w1 : f32[16, 24] = random(3, -1, 1)
  const %b1 : f32[24] = random(4, -1, 1)
  const %w2 : f32[24, 16] = random(5, -1, 1)
  const %w3 : f32[16, 12] = random(6, -1, 1)
  const %b3 : f32[12] = random(7, -1, 1)
  const %w4 : f32[12, 8] = random(8, -1, 1)
  %n, %n1, %n2 = layer_norm(%x, %gain, %bias) {axis = -1}
  %e = matmul(%n, %w1)
  %a = add(%e, %b1)
  %g = gelu(%a)
  %r = matmul(%g, %w2)
  %s = RESIDUAL
  %m, %m1, %m2 = layer_norm(%s, %gain) {axis = -1}
  %h = matmul(%m, %w3)
  %i = add(%h, %b3)
  %k = relu(%i)
  %d = matmul(%k, %w4)
  return %d
})";

std::string text_of(bool residual) {
  std::string text = block;
  const std::string place = "RESIDUAL";
  return text.replace(text.find(place), place.size(), residual ? "add(%r, %n)" : "relu(%r)");
}

Graph network(bool residual = true) {
  Graph graph = parse_graph(text_of(residual), "test");
  for (const char* name : {"gain", "w3"}) {  // channels that stand out
    Value* value = graph.find_value(name);
    Tensor tensor(DType::f32, value->constant().dims());
    const auto from = value->constant().values<float>();
    for (size_t i = 0; i < from.size(); ++i)
      tensor.mutable_values<float>()[i] = from[i] * (i % 12 == 3 ? 20 : 1);
    Value* changed = graph.add_constant(std::string(name) + "_wide", std::move(tensor));
    graph.replace_all_uses(value, changed);
  }
  graph.remove_dead();
  return graph;
}

std::unique_ptr<Dataset> noise(const Graph& graph, size_t samples, uint64_t seed) {
  std::vector<std::vector<Tensor>> all;
  for (size_t i = 0; i < samples; ++i)
    all.push_back(random_inputs(signature_of(graph), seed + i, 3));
  return memory_dataset(std::move(all), signature_of(graph));
}

SmoothOptions at(FactorPlaces where, int threads = 0) {
  SmoothOptions options;
  options.where = where;
  options.threads = threads;
  return options;
}

const SmoothedTensor* find(const std::vector<SmoothedTensor>& report, const std::string& by) {
  for (const SmoothedTensor& s : report)
    if (s.by == by) return &s;
  return nullptr;
}

// Every rounding that smoothing adds is one of a factor, a gain, a weight or a product with it: a
// few units of float32's last place for each element that goes into a sum. 16 of them for each of
// up to four layers, relative to the largest output that the sums of magnitudes could make; the
// sums are accumulated in float64 by the interpreter.
void expect_same(const Graph& a, const Graph& b, const Dataset& data) {
  for (size_t i = 0; i < data.size(); ++i) {
    const auto x = data.sample(i);
    const auto p = interpret(a, x), q = interpret(b, x);
    ASSERT_EQ(p.size(), q.size());
    double most = 0, error = 0;
    for (int64_t k = 0; k < p[0].size(); ++k) {
      const auto n = static_cast<size_t>(k);
      most = std::max<double>(most, std::fabs(p[0].values<float>()[n]));
      error = std::max<double>(error, std::fabs(p[0].values<float>()[n] - q[0].values<float>()[n]));
    }
    EXPECT_GT(most, 0);
    EXPECT_LE(error, 4 * 16 * 0x1p-24 * 24 * most);
  }
}

TEST(Smooth, ComputesTheSameAndSaysWhatItDid) {
  const Graph before = network();
  const auto data = noise(before, 12, 100);
  Graph graph = before.clone();
  const auto report = smooth_activations(graph, *data, at(FactorPlaces::all));
  expect_same(before, graph, *data);
  const SmoothedTensor* own = find(report, "own norm");  // the residual reads %n too
  ASSERT_TRUE(own);
  EXPECT_EQ(own->tensor, "n/smoothed");
  EXPECT_EQ(own->products.size(), 1u);
  const SmoothedTensor* norm = find(report, "norm");
  ASSERT_TRUE(norm);
  EXPECT_EQ(norm->tensor, "m");
  const SmoothedTensor* product = find(report, "product");
  ASSERT_TRUE(product);
  EXPECT_EQ(product->tensor, "k");
  for (const SmoothedTensor& s : report) {
    EXPECT_GT(s.sqnr_db_after, s.sqnr_db_before) << s.tensor;
    EXPECT_GE(s.alpha, 0.3);
    EXPECT_LE(s.alpha, 1);
  }
}

TEST(Smooth, ANormThatOnlyProductsReadKeepsItsPlace) {
  const Graph before = network(false);
  const auto data = noise(before, 8, 200);
  Graph graph = before.clone();
  const auto report = smooth_activations(graph, *data, at(FactorPlaces::folded));
  expect_same(before, graph, *data);
  EXPECT_FALSE(find(report, "own norm"));
  EXPECT_FALSE(find(report, "multiplication"));
  ASSERT_TRUE(find(report, "norm"));
  EXPECT_EQ(find(report, "norm")->tensor, "n");
  EXPECT_EQ(graph.node_count(), before.node_count());
}

// One channel before the gelu is 15 times the others: copies of it are made. Channels of the norm
// lie on one side of 0: its bias takes their middles.
TEST(Smooth, SplitsTheLargestChannelsAndShiftsThoseThatLieAside) {
  Graph before = network();
  const auto replace = [&](const char* name, auto value_at) {
    Value* value = before.find_value(name);
    Tensor tensor(DType::f32, value->constant().dims());
    for (size_t i = 0; i < static_cast<size_t>(tensor.size()); ++i)
      tensor.mutable_values<float>()[i] = value_at(i, value->constant().values<float>()[i]);
    before.replace_all_uses(value, before.add_constant(std::string(name) + "_new", tensor));
  };
  replace("w1", [](size_t i, float v) { return i % 24 == 5 ? 15 * v : v; });
  replace("bias", [](size_t i, float v) { return i % 3 == 0 ? v + 30 : v; });
  before.remove_dead();
  const auto data = noise(before, 12, 600);
  Graph graph = before.clone();
  const auto report = smooth_activations(graph, *data, at(FactorPlaces::all));
  expect_same(before, graph, *data);
  const SmoothedTensor* behind = find(report, "multiplication");
  ASSERT_TRUE(behind);
  EXPECT_EQ(behind->copies, 16u);
  EXPECT_EQ(graph.find_value(behind->tensor)->shape().back().value(), 24 + 16);
  // Copies are parts of a step apart, which together change nothing.
  const Node* add = graph.find_value(behind->tensor)->producer();
  ASSERT_TRUE(add->is("add"));
  const auto offsets = add->input(1)->constant().values<float>();
  ASSERT_EQ(offsets.size(), 24u + 16);
  EXPECT_GT(std::set<float>(offsets.begin(), offsets.end()).size(), 8u);
  EXPECT_NEAR(std::accumulate(offsets.begin(), offsets.end(), 0.0), 0, 1e-6);
  const SmoothedTensor* norm = find(report, "own norm");
  ASSERT_TRUE(norm);
  EXPECT_GT(norm->shift, 0);
}

TEST(Smooth, LeavesAloneWhatRulesKeepInFloatAndWhatNothingAsksFor) {
  const Graph before = network();
  const auto data = noise(before, 4, 300);
  Graph graph = before.clone();
  EXPECT_TRUE(smooth_activations(graph, *data, at(FactorPlaces::none)).empty());
  Rules rules;
  Rule rule;
  rule.op = "matmul";
  rule.precision = Precision::float32;
  rules.rules.push_back(rule);
  SmoothOptions all = at(FactorPlaces::all);
  all.rules = rules;
  EXPECT_TRUE(smooth_activations(graph, *data, all).empty());
  EXPECT_EQ(print_graph(graph), print_graph(before));
}

TEST(Smooth, TheResultDoesNotDependOnThreads) {
  const Graph before = network();
  const auto data = noise(before, 9, 400);
  Graph one = before.clone(), three = before.clone();
  smooth_activations(one, *data, at(FactorPlaces::all, 1));
  smooth_activations(three, *data, at(FactorPlaces::all, 3));
  EXPECT_EQ(print_graph(one), print_graph(three));
}

// Of the outputs, everything rounded.
double sqnr_of(const Graph& graph, const Dataset& data, const Dataset& judge, const char* smooth) {
  QuantizeRequest request;
  request.calibrator = "max";
  request.smooth = smooth;
  request.evaluation = &judge;
  return quantize(graph, &data, request, "test")
      .record["calibrators"][0]["output_sqnr_db"]
      .get<double>();
}

TEST(Smooth, OutlierChannelsCostLess) {
  const Graph graph = network();
  const auto data = noise(graph, 16, 500), judge = noise(graph, 8, 900);
  EXPECT_GT(sqnr_of(graph, *data, *judge, "folded"), sqnr_of(graph, *data, *judge, "none") + 2);
}

// Attention of two heads, 16 channels; in the values two channels are 20 times the others and lie
// aside of 0.
constexpr const char* attention = R"(graph "a" canonical {
  input %x : f32[N, 6, 16]
  const %wq : f32[16, 16] = random(1, -0.4, 0.4)
  const %wk : f32[16, 16] = random(2, -0.4, 0.4)
  const %wv : f32[16, 16] = random(3, -1, 1)
  const %bv : f32[16] = random(4, -1, 1)
  const %wo : f32[16, 8] = random(5, -1, 1)
  const %bo : f32[8] = random(6, -1, 1)
  %q0 = matmul(%x, %wq)
  %q1 = reshape(%q0) {shape = [0, 0, 2, 8]}
  %q = transpose(%q1) {perm = [0, 2, 1, 3]}
  %k0 = matmul(%x, %wk)
  %k1 = reshape(%k0) {shape = [0, 0, 2, 8]}
  %k = transpose(%k1) {perm = [0, 2, 3, 1]}
  %v0 = matmul(%x, %wv)
  %v1 = add(%v0, %bv)
  %v2 = reshape(%v1) {shape = [0, 0, 2, 8]}
  %v = transpose(%v2) {perm = [0, 2, 1, 3]}
  %s = matmul(%q, %k)
  %p = softmax(%s) {axis = -1}
  %m = matmul(%p, %v)
  %m1 = transpose(%m) {perm = [PERM]}
  %m2 = reshape(%m1) {shape = [0, 6, 16]}
  %y = matmul(%m2, %wo)
  %z = add(%y, %bo)
  return %z
})";

Graph attention_network(const std::string& perm = "0, 2, 1, 3") {
  std::string text = attention;
  text.replace(text.find("PERM"), 4, perm);
  Graph graph = parse_graph(text, "test");
  for (const char* name : {"wv", "bv"}) {
    Value* value = graph.find_value(name);
    Tensor tensor(DType::f32, value->constant().dims());
    for (size_t i = 0; i < static_cast<size_t>(tensor.size()); ++i)
      tensor.mutable_values<float>()[i] =
          value->constant().values<float>()[i] * (i % 8 == 3 ? 20 : 1) +
          (value->shape().rank() == 1 && i % 8 == 3 ? 600 : 0);
    graph.replace_all_uses(value, graph.add_constant(std::string(name) + "_wide", tensor));
  }
  graph.remove_dead();
  return graph;
}

TEST(Smooth, ValuesOfAttentionShareTheirRangeAndGiveTheirMiddlesUp) {
  const Graph before = attention_network();
  const auto data = noise(before, 16, 700);
  Graph graph = before.clone();
  const auto report = smooth_activations(graph, *data, at(FactorPlaces::folded));
  expect_same(before, graph, *data);
  ASSERT_EQ(report.size(), 1u);
  EXPECT_EQ(report[0].by, "product");
  EXPECT_EQ(report[0].tensor, "m2");
  EXPECT_EQ(report[0].products.size(), 1u);
  EXPECT_GT(report[0].shift, 0);
  EXPECT_GT(report[0].sqnr_db_after, report[0].sqnr_db_before + 2);
  EXPECT_EQ(graph.node_count(), before.node_count());  // nothing is added at run time
  // Of the channels of the values as the new weights make them, the widest to the median.
  const auto spread = [&](const Graph& of) {
    const Tensor w = of.find_value("v0")->producer()->input(1)->constant();
    std::vector<double> reach(16, 0);
    for (size_t i = 0; i < 256; ++i)
      reach[i % 16] = std::max<double>(reach[i % 16], std::fabs(w.values<float>()[i]));
    std::sort(reach.begin(), reach.end());
    return reach[15] / reach[8];
  };
  EXPECT_LT(spread(graph), spread(before) / 2);
}

// Channels that are put together in another order than they were taken apart are no channels of
// the values.
TEST(Smooth, LeavesAttentionAloneWhoseChannelsCannotBeFollowed) {
  const Graph before = attention_network("0, 3, 1, 2");
  const auto data = noise(before, 4, 800);
  Graph graph = before.clone();
  EXPECT_TRUE(smooth_activations(graph, *data, at(FactorPlaces::all)).empty());
}

TEST(Smooth, LeavesValuesAloneThatSomethingElseReads) {
  Graph before = attention_network();
  before.add_output(before.find_value("v1"));
  const auto data = noise(before, 4, 850);
  Graph graph = before.clone();
  EXPECT_TRUE(smooth_activations(graph, *data, at(FactorPlaces::all)).empty());
}

TEST(Smooth, OutliersOfValuesCostLess) {
  const Graph graph = attention_network();
  const auto data = noise(graph, 16, 500), judge = noise(graph, 8, 900);
  EXPECT_GT(sqnr_of(graph, *data, *judge, "folded"), sqnr_of(graph, *data, *judge, "none") + 2);
}

TEST(Smooth, AnUnknownNameIsTheUsersMistake) {
  EXPECT_EQ(parse_factor_places("smooth", "all"), FactorPlaces::all);
  EXPECT_THROW(parse_factor_places("smooth", "most"), UserError);
  QuantizeRequest request;
  request.smooth = "all";
  request.options.mode = QuantizeMode::dynamic;
  EXPECT_THROW(check_request(request, false), UserError);
}

}  // namespace
}  // namespace octavo
