#include "quantize/algorithms/equalize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "api/octavo.h"
#include "backends/reference/interpreter.h"
#include "graph/op_def.h"
#include "graph/text.h"
#include "quantize/names.h"
#include "support/error.h"

namespace octavo {
namespace {

Graph parse(const std::string& text) {
  Graph graph = parse_graph(text, "test");
  name_uniquely(graph);
  return graph;
}

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size())
    text.replace(at, what.size(), by);
  return text;
}

// Every way that channels go from product to product; CLIP between the first two.
constexpr const char* chain = R"(graph "g" canonical {
  input %x : f32[N, 3, 12, 12]
  const %w1 : f32[8, 3, 3, 3] = random(1, -1, 1)
  const %b1 : f32[8] = random(2, -1, 1)
  const %w2 : f32[8, 1, 3, 3] = random(3, -1, 1)
  const %w3 : f32[12, 4, 1, 1] = random(4, -1, 1)
  const %slope : f32[12, 1, 1] = random(5, -1, 1)
  const %w4 : f32[12, 3, 2, 2] = random(6, -1, 1)
  const %b4 : f32[6] = random(7, -1, 1)
  const %w5 : f32[96, 10] = random(8, -0.3, 0.3)
  const %b5 : f32[1, 10] = random(9, -1, 1)
  const %w6 : f32[7, 10] = random(10, -1, 1)
  const %w7 : f32[7, 9] = random(11, -1, 1)
  const %b7 : f32[9] = random(12, -1, 1)
  const %w8 : f32[9, 5] = random(13, -1, 1)
  %c1 = conv(%x, %w1, %b1)
  %r1 = CLIP
  %c2 = conv(%r1, %w2) {group = 8}
  %r2 = leaky_relu(%c2) {alpha = 0.1}
  %c3 = conv(%r2, %w3) {group = 2}
  %r3 = prelu(%c3, %slope)
  %p3 = avg_pool(%r3) {kernel = [2, 2], strides = [2, 2]}
  %c4 = conv_transpose(%p3, %w4, %b4) {group = 2, strides = [2, 2]}
  %t4 = transpose(%c4) {perm = [0, 2, 3, 1]}
  %a4 = abs(%t4)
  %u4 = transpose(%a4) {perm = [0, 3, 1, 2]}
  %p4 = max_pool(%u4) {kernel = [2, 2], strides = [2, 2]}
  %f4 = reshape(%p4) {shape = [0, -1]}
  %c5 = gemm(%f4, %w5, %b5)
  %r5 = relu(%c5)
  %c6 = gemm(%r5, %w6) {trans_b = 1}
  %c7 = matmul(%c6, %w7)
  %a7 = add(%c7, %b7)
  %r7 = relu(%a7)
  %c8 = matmul(%r7, %w8)
  return %c8
})";
constexpr const char *relu = "relu(%c1)", *clip = "clip(%c1) {min = 0.0, max = 1.5}";

// A graph whose values are at least those that the roundings of `text` are relative to: constants'
// and inputs' magnitudes. (Slopes are at most 1, and a clip lets errors through.)
Graph magnitudes(const std::string& text) {
  Graph graph = parse(replaced(replaced(text, "CLIP", relu), clip, relu));
  for (Value* value : graph.constants()) {
    Tensor tensor(DType::f32, value->constant().dims());
    for (int64_t i = 0; i < tensor.size(); ++i)
      tensor.mutable_values<float>()[static_cast<size_t>(i)] =
          std::fabs(value->constant().values<float>()[static_cast<size_t>(i)]);
    if (value->name() != "slope")
      graph.replace_all_uses(value, graph.add_constant(value->name() + "/abs", std::move(tensor)));
  }
  return graph;
}

// Sums are float64's. Each weight, bias and bound is rounded once more, each node's output in both
// graphs: at most three roundings a node, relative to what the magnitudes make.
void expect_same(const std::string& text, const Graph& a, const Graph& b) {
  const Graph bound = magnitudes(text);
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    auto x = random_inputs(signature_of(a), seed, 2);
    const auto p = interpret(a, x), q = interpret(b, x);
    for (float& v : x[0].mutable_values<float>()) v = std::fabs(v);
    const auto most = interpret(bound, x);
    ASSERT_EQ(p.size(), q.size());
    const double part = 3.0 * static_cast<double>(b.node_count()) * 0x1p-24;
    for (size_t i = 0; i < static_cast<size_t>(p[0].size()); ++i)
      EXPECT_NEAR(p[0].values<float>()[i], q[0].values<float>()[i],
                  part * most[0].values<float>()[i]);
  }
}

EqualizeOptions at(FactorPlaces where,
                   double most_stretch = std::numeric_limits<double>::infinity()) {
  EqualizeOptions options;
  options.where = where;
  options.most_stretch = most_stretch;
  return options;
}

TEST(Equalize, AChainComputesTheSame) {
  const std::string text = replaced(chain, "CLIP", relu);
  const Graph before = parse(text);
  for (double stretch : {2.0, std::numeric_limits<double>::infinity()}) {
    Graph graph = before.clone();
    const auto report = equalize_weights(graph, at(FactorPlaces::folded, stretch));
    ASSERT_EQ(report.size(), 7u);
    for (size_t i = 0; i < report.size(); ++i) {
      EXPECT_FALSE(report[i].bounded);
      EXPECT_LT(report[i].least, report[i].most);
      EXPECT_EQ(report[i].first, i == 0 ? report[0].first : report[i - 1].second);
    }
    EXPECT_EQ(graph.node_count(), before.node_count());
    EXPECT_NE(print_graph(graph), print_graph(before));
    expect_same(text, before, graph);
  }
}

TEST(Equalize, AClipGetsBoundsForEachChannelIfAskedFor) {
  const std::string text = replaced(chain, "CLIP", clip);
  const Graph before = parse(text);
  Graph graph = before.clone();
  EXPECT_EQ(equalize_weights(graph, at(FactorPlaces::folded)).size(), 6u);
  expect_same(text, before, graph);
  graph = before.clone();
  const auto report = equalize_weights(graph, at(FactorPlaces::all));
  ASSERT_EQ(report.size(), 7u);
  EXPECT_TRUE(report[0].bounded);
  EXPECT_FALSE(report[1].bounded);
  EXPECT_EQ(graph.find_value("r1/mosts")->shape(), (Shape{8, 1, 1}));
  expect_same(text, before, graph);

  for (const char* other : {"clip(%c1) {min = -0.5, max = 1.5}", "clip(%c1) {min = -0.5}",
                            "clip(%c1) {max = 1.5}", "clip(%c1) {min = -1.5, max = 0.0}"}) {
    const std::string with = replaced(chain, "CLIP", other);
    graph = parse(with);
    EXPECT_EQ(equalize_weights(graph, at(FactorPlaces::all)).size(), 7u);
    expect_same(text, parse(with), graph);
  }
}

constexpr const char* two = R"(graph "g" canonical {
  input %x : f32[N, 3, 6, 6]
  const %w1 : f32[5, 3, 3, 3] = random(1, -1, 1)
  const %w2 : f32[4, 5, 1, 1] = random(2, -1, 1)
  const %k : f32[5, 1, 1] = random(3, -1, 1)
  %c = conv(%x, %w1)
  BETWEEN
  return %y
})";

std::vector<double> ranges(const Tensor& w, size_t channels, size_t inner) {
  std::vector<double> most(channels, 0);
  const auto values = w.values<float>();
  for (size_t i = 0; i < values.size(); ++i) {
    double& range = most[i / inner % channels];
    range = std::max(range, std::fabs(static_cast<double>(values[i])));
  }
  return most;
}

TEST(Equalize, FactorsAreThePaperS) {
  Graph graph = parse(replaced(two, "BETWEEN", "%r = relu(%c)\n  %y = conv(%r, %w2)"));
  const auto r1 = ranges(graph.find_value("w1")->constant(), 5, 27),
             r2 = ranges(graph.find_value("w2")->constant(), 5, 1);
  const auto report = equalize_weights(graph, at(FactorPlaces::folded));
  ASSERT_EQ(report.size(), 1u);
  const auto w1 = ranges(graph.find_value("w1/equalized")->constant(), 5, 27),
             w2 = ranges(graph.find_value("w2/equalized")->constant(), 5, 1);
  double least = std::numeric_limits<double>::infinity(), most = 0;
  for (size_t c = 0; c < 5; ++c) {
    const double s = std::sqrt(r1[c] * r2[c]) / r2[c];
    least = std::min(least, s), most = std::max(most, s);
    EXPECT_NEAR(w1[c], r1[c] / s, 0x1p-23 * w1[c]);
    EXPECT_NEAR(w2[c], r2[c] * s, 0x1p-23 * w2[c]);
    EXPECT_NEAR(w1[c], w2[c], 0x1p-22 * w1[c]);
  }
  EXPECT_NEAR(report[0].least, least, 1e-12 * least);
  EXPECT_NEAR(report[0].most, most, 1e-12 * most);
}

TEST(Equalize, ChainsAreEqualizedUntilNothingChanges) {
  Graph graph = parse(replaced(chain, "CLIP", relu));
  ASSERT_FALSE(equalize_weights(graph, at(FactorPlaces::folded)).empty());
  // Once more finds nothing to do but what the tolerance of a factor leaves, in each of 8 layers.
  for (const EqualizedPair& pair : equalize_weights(graph, at(FactorPlaces::folded))) {
    EXPECT_NEAR(pair.least, 1, 1e-3);
    EXPECT_NEAR(pair.most, 1, 1e-3);
  }
}

TEST(Equalize, NoChannelIsStretchedBeyondTheLimit) {
  const auto factors = [](double most_stretch) {
    Graph graph = parse(replaced(two, "BETWEEN", "%r = relu(%c)\n  %y = conv(%r, %w2)"));
    auto s = ranges(graph.find_value("w1")->constant(), 5, 27);
    equalize_weights(graph, at(FactorPlaces::folded, most_stretch));
    const auto after = ranges(graph.find_value("w1/equalized")->constant(), 5, 27);
    for (size_t c = 0; c < 5; ++c) s[c] /= after[c];
    std::sort(s.begin(), s.end());
    return s;
  };
  const auto paper = factors(std::numeric_limits<double>::infinity()), limited = factors(1.1);
  ASSERT_LT(paper[0], paper[2] / 1.15);
  EXPECT_NEAR(limited[0], limited[2] / 1.1, 1e-5 * limited[0]);
  EXPECT_NEAR(limited[2], paper[2], 1e-5 * paper[2]);
  EXPECT_NEAR(limited[4], paper[4], 1e-5 * paper[4]);
  Graph graph = parse(replaced(two, "BETWEEN", "%y = conv(%c, %w2)"));
  EXPECT_THROW(equalize_weights(graph, at(FactorPlaces::folded, 0.5)), UserError);
}

TEST(Equalize, LeavesAloneWhatFactorsDoNotPass) {
  for (const char* between :
       {"%r = sigmoid(%c)\n  %y = conv(%r, %w2)",  // no f(s x) = s f(x)
        "%r = relu(%c)\n  %d = conv(%r, %w2)\n  %y = concat(%d, %r) {axis = 1}",  // read twice
        "%r = relu(%c)\n  %z = conv(%r, %w2)\n  return %r\n  %y = relu(%z)",      // an output
        "%r = add(%c, %c)\n  %y = conv(%r, %w2)", "%r = mul(%c, %c)\n  %y = conv(%r, %w2)",
        "%r = softmax(%c) {axis = 1}\n  %y = conv(%r, %w2)",
        "%r = clip(%c) {min = 0.0, max = 6.0}\n  %y = conv(%r, %w2)",
        "%r = reduce_mean(%c) {axes = [1]}\n  %y = relu(%r)",  // channels are mixed
        "%y = relu(%c)"}) {
    std::string text = replaced(two, "BETWEEN", between);
    if (text.find("return %r") != std::string::npos)
      text = replaced(replaced(text, "  return %r\n", ""), "return %y", "return %y, %r");
    Graph graph = parse(text);
    graph.remove_dead();
    const std::string before = print_graph(graph);
    EXPECT_TRUE(equalize_weights(graph, at(FactorPlaces::folded)).empty()) << between;
    EXPECT_EQ(print_graph(graph), before);
  }
  Graph graph = parse(replaced(two, "BETWEEN", "%r = relu(%c)\n  %y = conv(%r, %w2)"));
  graph.remove_dead();
  const std::string before = print_graph(graph);
  EXPECT_TRUE(equalize_weights(graph, at(FactorPlaces::none)).empty());
  EqualizeOptions options = at(FactorPlaces::all);
  Rule rule;
  rule.op = "conv";
  rule.precision = Precision::float32;
  options.rules.rules.push_back(rule);
  EXPECT_TRUE(equalize_weights(graph, options).empty());
  EXPECT_EQ(print_graph(graph), before);
}

TEST(Equalize, AdditionsOfConstantsAreDividedToo) {
  const std::string text =
      replaced(two, "BETWEEN", "%a = add(%k, %c)\n  %r = relu(%a)\n  %y = conv(%r, %w2)");
  Graph graph = parse(text);
  EXPECT_EQ(equalize_weights(graph, at(FactorPlaces::folded)).size(), 1u);
  EXPECT_TRUE(graph.find_value("k/equalized"));
  expect_same(text, parse(text), graph);
}

TEST(Equalize, DeadChannelsStayFinite) {
  const std::string text = replaced(two, "BETWEEN", "%r = relu(%c)\n  %y = conv(%r, %w2)");
  Graph before = parse(text);
  const auto scale = [&](const char* name, size_t inner, size_t channel, float by) {
    Value* value = before.find_value(name);
    Tensor tensor(DType::f32, value->constant().dims());
    const auto from = value->constant().values<float>();
    for (size_t i = 0; i < from.size(); ++i)
      tensor.mutable_values<float>()[i] = from[i] * (i / inner % 5 == channel ? by : 1);
    before.replace_all_uses(value, before.add_constant(value->name(), std::move(tensor)));
  };
  scale("w1", 27, 0, 0);
  scale("w1", 27, 1, 1e-30f);
  scale("w2", 1, 2, 0);
  Graph graph = before.clone();
  ASSERT_EQ(equalize_weights(graph, at(FactorPlaces::folded)).size(), 1u);
  graph.for_each([](Node& node) {
    if (!node.is("conv")) return;
    for (float w : node.input(1)->constant().values<float>()) EXPECT_TRUE(std::isfinite(w));
  });
  expect_same(text, before, graph);
}

std::unique_ptr<Dataset> noise(const Graph& graph, size_t samples, uint64_t seed) {
  std::vector<std::vector<Tensor>> all;
  for (size_t i = 0; i < samples; ++i)
    all.push_back(random_inputs(signature_of(graph), seed + i, 1));
  return memory_dataset(std::move(all), signature_of(graph));
}

TEST(Equalize, SmallChannelsKeepTheirWeightsWithOneScaleForAll) {
  for (const char* f : {"relu(%c)", "clip(%c) {min = 0.0, max = 1.5}"}) {
    Graph graph =
        parse(replaced(two, "BETWEEN", std::string("%r = ") + f + "\n  %y = conv(%r, %w2)"));
    for (const char* name : {"w1", "w2"}) {  // ranges of channels differ by 2^8
      Value* w = graph.find_value(name);
      const bool first = name[1] == '1';
      Tensor uneven(DType::f32, w->constant().dims());
      for (size_t i = 0; i < static_cast<size_t>(uneven.size()); ++i) {
        const auto power = static_cast<float>(2 * (first ? i / 27 : i % 5));
        uneven.mutable_values<float>()[i] =
            w->constant().values<float>()[i] * std::exp2(first ? -power : power);
      }
      graph.replace_all_uses(w, graph.add_constant("uneven", std::move(uneven)));
    }
    const auto data = noise(graph, 16, 500), judge = noise(graph, 8, 900);
    const auto sqnr = [&](const char* equalize, const char* scales) {
      QuantizeRequest request;
      request.calibrator = "max";
      request.equalize = equalize;
      request.options.weights = "max";
      request.options.weight_scales = scales;
      request.evaluation = judge.get();
      return quantize(graph, data.get(), request, "test")
          .record["calibrators"][0]["output_sqnr_db"]
          .get<double>();
    };
    EXPECT_GT(sqnr("all", "tensor"), sqnr("none", "tensor") + 3) << f;
    EXPECT_GT(sqnr("none", "channel"), sqnr("none", "tensor")) << f;
  }
}

TEST(Equalize, OnlyStaticModeTakesIt) {
  QuantizeRequest request;
  request.equalize = "most";
  EXPECT_THROW(check_request(request, true), UserError);
  request.equalize = "all";
  check_request(request, true);
  request.options.mode = QuantizeMode::dynamic;
  EXPECT_THROW(check_request(request, false), UserError);
  request.equalize = "";
  request.options.weight_scales = "tensor";
  EXPECT_THROW(check_request(request, false), UserError);
  request.options.mode = QuantizeMode::static_;
  check_request(request, true);
  request.options.weight_scales = "row";
  EXPECT_THROW(check_request(request, true), UserError);
}

}  // namespace
}  // namespace octavo
