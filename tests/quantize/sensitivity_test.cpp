#include "quantize/sensitivity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

#include "codegen/compile.h"
#include "quantize/sensitivity_networks.h"
#include "support/error.h"

namespace octavo {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

SensitivityOptions with(SensitivityMode mode) {
  SensitivityOptions options;
  options.mode = mode;
  options.calibrator = "max";
  return options;
}

// The whole of both networks from the start, for each sample: no part, no held value.
std::vector<Score> from_the_start(const Graph& truth, const Graph& variant, const Dataset& data) {
  Program a = compile(truth.clone(), {.threads = 1}), b = compile(variant.clone(), {.threads = 1});
  std::vector<Score> scores;
  for (size_t i = 0; i < data.size(); ++i) {
    const auto x = data.sample(i);
    scores.push_back(score_of(a.run(x), b.run(x)));
  }
  return scores;
}

void expect_same(const Figures& a, const Figures& b, const std::string& what) {
  EXPECT_EQ(a.sqnr_db.value, b.sqnr_db.value) << what;
  EXPECT_EQ(a.sqnr_db.interval.low, b.sqnr_db.interval.low) << what;
  EXPECT_EQ(a.sqnr_db.interval.high, b.sqnr_db.interval.high) << what;
  EXPECT_EQ(a.agreement.value, b.agreement.value) << what;
}

class Brute : public ::testing::TestWithParam<std::tuple<const char*, const char*>> {};

TEST_P(Brute, AgreesBitForBitWithRunsFromTheStart) {
  const auto [text, target] = GetParam();
  const Graph graph = parse_graph(text);
  const auto data = noise(graph, 5);
  PtqOptions quantization;
  quantization.target = target;
  for (const auto mode : {SensitivityMode::only, SensitivityMode::all_but}) {
    Variants variants(graph.clone(), quantization);
    SensitivityOptions options = with(mode);
    options.most_bytes = 20000;  // several chunks
    const SensitivityResult result = sensitivity(variants, *data, options);
    ASSERT_EQ(result.layers.size(), variants.layers().size());
    std::set<std::string> seen;
    for (const LayerSensitivity& l : result.layers) {
      const Graph variant = variants.quantize(
          mode == SensitivityMode::only ? variants.only(l.layer) : variants.all_but(l.layer));
      const auto scores = from_the_start(variants.graph(), variant, *data);
      expect_same(l.figures, figures_of(scores), std::string(mode_name(mode)) + " " + l.layer.name);
      seen.insert(l.layer.name);
    }
    EXPECT_EQ(seen.size(), variants.layers().size());
    expect_same(result.quantized,
                figures_of(from_the_start(variants.graph(),
                                          variants.quantize(variants.everything()), *data)),
                "everything");
  }
}

std::string brute_name(const ::testing::TestParamInfo<Brute::ParamType>& info) {
  return parse_graph(std::get<0>(info.param)).name + "_" + std::get<1>(info.param);
}
INSTANTIATE_TEST_SUITE_P(Sensitivity, Brute,
                         ::testing::Combine(::testing::Values(residual_network, gated_network,
                                                              transformer_network),
                                            ::testing::Values("octavo", "onnxruntime")),
                         brute_name);

TEST(Sensitivity, OwnOutputsAreMeasuredInModeSqnr) {
  const Graph graph = parse_graph(residual_network);
  const auto data = noise(graph, 4);
  Variants variants(graph.clone(), {});
  const auto result = sensitivity(variants, *data, with(SensitivityMode::sqnr));
  std::string last = "none";
  double previous = -INFINITY;
  for (const LayerSensitivity& l : result.layers) {
    // Both networks whole, the layer's output one of theirs.
    const auto observed = [&](const Graph& g) {
      Graph copy;
      copy = g.clone();
      Value* output = nullptr;
      copy.for_each([&](Node& node) {
        if (node.name() == l.layer.name) output = node.output();
      });
      copy.add_output(output);
      return compile(std::move(copy), {.threads = 1});
    };
    Program truth = observed(variants.graph()),
            alone = observed(variants.quantize(variants.only(l.layer)));
    std::vector<Score> scores;
    for (size_t i = 0; i < data->size(); ++i) {
      const auto x = data->sample(i);
      const auto a = truth.run(x), b = alone.run(x);
      scores.push_back(score_of({&a.back(), 1}, {&b.back(), 1}));
    }
    EXPECT_EQ(l.figures.sqnr_db.value, figures_of(scores).sqnr_db.value) << l.layer.name;
    EXPECT_FALSE(l.figures.has_agreement);
    EXPECT_GE(l.figures.sqnr_db.value, previous);
    previous = l.figures.sqnr_db.value;
  }
}

// Other integer ops than products are layers too, and an attention is one.
TEST(Sensitivity, LayersAreWhatRulesCanMove) {
  const auto names = [](const char* text) {
    Variants variants(parse_graph(text), {});
    std::vector<std::string> ops;
    for (const QuantizedLayer& l : variants.layers()) ops.push_back(l.op);
    return ops;
  };
  using Ops = std::vector<std::string>;
  EXPECT_EQ(names(residual_network),
            (Ops{"conv", "conv", "concat", "conv", "add", "reduce_mean", "gemm"}));
  EXPECT_EQ(names(transformer_network),
            (Ops{"matmul", "matmul", "matmul", "attention", "matmul", "matmul", "gelu", "matmul"}));
}

// What octavo quantize makes by these rules.
Graph by_ptq(const Graph& graph, PtqOptions options, const Rules& rules, const Dataset& data) {
  options.rules = rules;
  options.weights = "mse";
  options.correct_bias = false;
  Ptq ptq(graph.clone(), options);
  if (!ptq.needs_data()) return std::move(ptq.quantize().graph);
  ptq.calibrate(data);
  return std::move(ptq.quantize({"max"}, data)[0].graph);
}

struct Precisions {
  std::string name;
  std::string target;
  QuantizeMode mode;
  bool mixed;  // mixed_rules
  int weight_bits = 8;
  int64_t group_size = 0;
};

void PrintTo(const Precisions& p, std::ostream* out) { *out << p.name; }

class EveryPrecision : public ::testing::TestWithParam<Precisions> {
 protected:
  PtqOptions quantization() const {
    PtqOptions options;
    options.target = GetParam().target;
    options.mode = GetParam().mode;
    options.weight_bits = GetParam().weight_bits;
    options.group_size = GetParam().group_size;
    if (GetParam().mixed) options.rules = mixed_rules();
    return options;
  }
  Graph graph_ = parse_graph(mixed_network);
  std::unique_ptr<Dataset> data_ = noise(graph_, 4);
};

// The layers, and the networks that are judged, against octavo quantize with their rules.
TEST_P(EveryPrecision, IsQuantizedAsItsRulesSay) {
  const PtqOptions asked = quantization();
  for (const auto mode : {SensitivityMode::only, SensitivityMode::all_but}) {
    Variants variants(graph_.clone(), asked);
    const auto result = sensitivity(variants, *data_, with(mode));
    const auto figures = [&](const Graph& graph) {
      return figures_of(from_the_start(variants.graph(), graph, *data_));
    };
    expect_same(result.quantized, figures(by_ptq(graph_, asked, asked.rules, *data_)), "all");
    size_t judged = 0;
    for (const LayerSensitivity& l : result.layers) {
      Rules rules = asked.rules;
      if (mode == SensitivityMode::all_but) {
        rules.rules.push_back(rule_for(l.layer.name, Precision::float32));
      } else {
        // A rule for a product or table; the other ops follow the products around them.
        Precision precision = precision_of(GetParam().mode);
        if (GetParam().weight_bits == 4) precision = Precision::int4_weights;
        int64_t group = GetParam().group_size;
        if (l.layer.op != "conv" && l.layer.op != "matmul" && l.layer.op != "gather") continue;
        if (l.layer.op == "gather" && precision != Precision::int4_weights)
          precision = Precision::int8_weights;
        for (const Rule& rule : rules.rules)
          if (rule.name == l.layer.name) precision = rule.precision, group = rule.group_size;
        rules.rules.push_back({.precision = Precision::float32});
        rules.rules.push_back(rule_for(l.layer.name, precision));
        rules.rules.back().group_size = group;
      }
      expect_same(l.figures, figures(by_ptq(graph_, asked, rules, *data_)),
                  std::string(mode_name(mode)) + " " + l.layer.name);
      // Something is lost: a layer that is ignored would lose nothing.
      if (mode == SensitivityMode::only) {
        EXPECT_LT(l.figures.sqnr_db.value, 100) << l.layer.name;
      }
      ++judged;
    }
    // The table and six products, but a convolution of int8 weights on onnxruntime.
    EXPECT_GE(judged, 5u);
  }
}

TEST_P(EveryPrecision, OwnOutputIsFloatAndTheLayersOwn) {
  Variants variants(graph_.clone(), quantization());
  const auto result = sensitivity(variants, *data_, with(SensitivityMode::sqnr));
  for (const LayerSensitivity& l : result.layers) {
    // No layer of this network is renamed, so both call its output by its name, or its table's by
    // the rows that are gathered.
    const std::string output = l.layer.op == "gather" ? "embedded" : l.layer.name;
    const auto observed = [&](const Graph& g) {
      Graph copy = g.clone();
      copy.add_output(copy.find_value(output));
      return compile(std::move(copy), {.threads = 1});
    };
    Program truth = observed(variants.graph()),
            alone = observed(variants.quantize(variants.only(l.layer)));
    std::vector<Score> scores;
    for (size_t i = 0; i < data_->size(); ++i) {
      const auto x = data_->sample(i);
      const auto a = truth.run(x), b = alone.run(x);
      scores.push_back(score_of({&a.back(), 1}, {&b.back(), 1}));
    }
    EXPECT_EQ(l.figures.sqnr_db.value, figures_of(scores).sqnr_db.value) << l.layer.name;
    EXPECT_LT(l.figures.sqnr_db.value, 100) << l.layer.name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Sensitivity, EveryPrecision,
    ::testing::Values(Precisions{"mixed", "octavo", QuantizeMode::static_, true},
                      Precisions{"mixed_onnxruntime", "onnxruntime", QuantizeMode::static_, true},
                      Precisions{"dynamic", "octavo", QuantizeMode::dynamic, false},
                      Precisions{"weights", "octavo", QuantizeMode::weight_only, false},
                      Precisions{"four_bits", "octavo", QuantizeMode::weight_only, false, 4, 16},
                      Precisions{"four_bits_onnxruntime", "onnxruntime", QuantizeMode::weight_only,
                                 false, 4}),
    [](const auto& param_info) { return param_info.param.name; });

TEST(Sensitivity, LayersHaveEveryPrecision) {
  PtqOptions options;
  options.rules = mixed_rules();
  Variants variants(parse_graph(mixed_network), options);
  std::vector<std::string> names;
  for (const QuantizedLayer& l : variants.layers()) names.push_back(l.name);
  EXPECT_EQ(names, (std::vector<std::string>{"embedded", "c0", "c1", "m2", "m3", "m4", "y"}));
  // Each with its precision, group and all, when it is alone.
  const auto alone = [&](size_t layer) { return variants.only(variants.layers()[layer]); };
  EXPECT_EQ(alone(0).tables.size(), 1u);
  EXPECT_EQ(alone(5).products.at(0).precision, Precision::int4_weights);
  EXPECT_EQ(alone(5).products.at(0).group_size, 16);
  options = {};
  options.mode = QuantizeMode::weight_only;
  options.weight_bits = 4;
  options.group_size = 16;
  Variants grouped(parse_graph(mixed_network), options);
  EXPECT_EQ(grouped.only(grouped.layers().back()).products.at(0).group_size, 16);
}

TEST(Sensitivity, FindsTheOneBadLayer) {
  const Graph graph = parse_graph(bad_middle_network);
  const auto data = noise(graph, 16);
  for (const auto mode : {SensitivityMode::only, SensitivityMode::all_but, SensitivityMode::sqnr}) {
    Variants variants(graph.clone(), {});
    const auto result = sensitivity(variants, *data, with(mode));
    EXPECT_EQ(result.layers[0].layer.name, "middle") << mode_name(mode);
    // And by far: the integers of the others hold some 40 dB.
    if (mode == SensitivityMode::only) {
      EXPECT_LT(result.layers[0].figures.sqnr_db.value + 20,
                result.layers[1].figures.sqnr_db.value);
    }
    const Rules rules = variants.without({result.layers[0].layer.name});
    const Graph better = variants.quantize(variants.place(rules));
    const auto scores = from_the_start(variants.graph(), better, *data);
    EXPECT_GT(figures_of(scores).sqnr_db.value, result.quantized.sqnr_db.value + 20);
    // As a file, and back.
    const Rules read = parse_rules(print_rules(rules), "rules");
    ASSERT_EQ(read.rules.size(), 1u);
    EXPECT_EQ(read.rules[0].name, "middle");
    EXPECT_EQ(read.rules[0].precision, Precision::float32);
  }
}

// A caller's metric sees each sample once for each layer, in order, and the outputs that a run from
// the start gives.
TEST(Sensitivity, TakesAnyMetric) {
  const Graph graph = parse_graph(residual_network);
  const auto data = noise(graph, 6);
  Variants variants(graph.clone(), {});
  SensitivityOptions options = with(SensitivityMode::only);
  options.metric = "negative first element";
  options.custom = [](std::span<const Tensor> outputs, size_t sample) {
    return -static_cast<double>(outputs[0].values<float>()[0]) + static_cast<double>(sample);
  };
  const auto result = sensitivity(variants, *data, options);
  Program truth = compile(variants.graph().clone(), {.threads = 1});
  double mean = 0;
  for (size_t i = 0; i < 6; ++i) mean += options.custom(truth.run(data->sample(i)), i) / 6;
  EXPECT_NEAR(result.float_metric, mean, 1e-12 * 10);
  double previous = -INFINITY;
  for (const LayerSensitivity& l : result.layers) {
    Program alone = compile(variants.quantize(variants.only(l.layer)), {.threads = 1});
    mean = 0;
    for (size_t i = 0; i < 6; ++i) mean += options.custom(alone.run(data->sample(i)), i) / 6;
    EXPECT_NEAR(l.figures.metric.value, mean, 1e-12 * 10) << l.layer.name;
    EXPECT_GE(l.figures.metric.value, previous);
    previous = l.figures.metric.value;
    EXPECT_LE(l.figures.metric.interval.low, l.figures.metric.value);
    EXPECT_GE(l.figures.metric.interval.high, l.figures.metric.value);
  }
  options.custom = [](std::span<const Tensor>, size_t) { return NAN; };
  EXPECT_THROW(sensitivity(variants, *data, options), UserError);
}

struct Stop {};

// The figures of every layer, in order.
std::string summary(const SensitivityResult& result) {
  std::string text;
  for (const LayerSensitivity& l : result.layers)
    text += fmt::format("{} {} {} {} {}\n", l.layer.name, l.figures.sqnr_db.value,
                        l.figures.sqnr_db.interval.low, l.figures.agreement.value,
                        l.figures.metric.value);
  return text + fmt::format("{}", result.quantized.sqnr_db.value);
}

class Resume : public ::testing::Test {
 protected:
  void SetUp() override { fs::remove(path_); }
  void TearDown() override { fs::remove(path_); }
  std::string path_ =
      fmt::format("{}octavo_sensitivity_checkpoint_{}.json", testing::TempDir(), getpid());
};

TEST_F(Resume, GivesWhatAnUninterruptedRunGives) {
  const Graph graph = parse_graph(gated_network);
  const auto data = noise(graph, 7);
  for (const auto mode : {SensitivityMode::only, SensitivityMode::all_but, SensitivityMode::sqnr}) {
    SensitivityOptions options = with(mode);
    options.most_bytes = 1;  // a chunk for each batch of samples
    Variants variants(graph.clone(), {});
    const std::string want = summary(sensitivity(variants, *data, options));
    // Interrupted every few samples until it is done.
    fs::remove(path_);
    options.checkpoint = path_;
    options.checkpoint_seconds = 0;
    size_t interruptions = 0, taken_over = 0;
    for (bool done = false; !done && interruptions < 1000;) {
      size_t calls = 0;
      Variants again(graph.clone(), {});
      try {
        const auto result =
            sensitivity(again, *data, options, [&](const char* phase, size_t already, size_t) {
              if (std::string(phase) != "measuring layers") return;
              if (calls == 0 && already) ++taken_over;
              if (++calls == 6) throw Stop{};
            });
        EXPECT_EQ(summary(result), want) << mode_name(mode);
        done = true;
      } catch (const Stop&) {
        ++interruptions;
      }
    }
    EXPECT_GT(taken_over, 3u);
    EXPECT_LT(interruptions, 1000u);
    // Complete: nothing is measured any more.
    Variants again(graph.clone(), {});
    size_t least = SIZE_MAX, total = 0;
    EXPECT_EQ(summary(sensitivity(again, *data, options,
                                  [&](const char* phase, size_t done, size_t all) {
                                    if (std::string(phase) != "measuring layers") return;
                                    least = std::min(least, done);
                                    total = all;
                                  })),
              want);
    EXPECT_EQ(least, total);
  }
}

TEST_F(Resume, IsIndependentOfThreadsAndChunks) {
  const Graph graph = parse_graph(residual_network);
  const auto data = noise(graph, 7);
  std::set<std::string> results;
  for (const int threads : {1, 2, 3})
    for (const size_t bytes : {size_t{1}, size_t{30000}, size_t{1} << 30}) {
      PtqOptions quantization;
      quantization.threads = threads;
      SensitivityOptions options = with(SensitivityMode::only);
      options.most_bytes = bytes;
      Variants variants(graph.clone(), quantization);
      results.insert(summary(sensitivity(variants, *data, options)));
    }
  EXPECT_EQ(results.size(), 1u);
}

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const UserError& e) {
    return e.what();
  }
  return "no error";
}

TEST_F(Resume, RefusesWhatIsNotItsOwn) {
  const Graph graph = parse_graph(residual_network);
  const auto data = noise(graph, 3), other = noise(graph, 3, 100);
  SensitivityOptions options = with(SensitivityMode::only);
  options.checkpoint = path_;
  Variants variants(graph.clone(), {});
  sensitivity(variants, *data, options);
  const auto error = [&](const Dataset& with_data) {
    return error_of([&] { sensitivity(variants, with_data, options); });
  };
  EXPECT_EQ(error(*data), "no error");
  EXPECT_THAT(error(*other), HasSubstr("of another model, other data or other options"));
  options.evaluation = other.get();  // of the same count: seen by its contents
  EXPECT_THAT(error(*data), HasSubstr("sample 0 was another one then"));
  options.evaluation = nullptr;
  options.calibrator = "mse";
  EXPECT_THAT(error(*data), HasSubstr("of another model, other data or other options"));
  options.calibrator = "max";
  for (const char* text :
       {"{", "[]", "{}", R"({"schema_version": 2, "kind": "sensitivity_checkpoint"})",
        R"({"schema_version": 1, "kind": "sensitivity_checkpoint", "identity": 3})"}) {
    std::ofstream(path_) << text;
    EXPECT_THAT(error(*data), HasSubstr("is no checkpoint")) << text;
  }
}

TEST(Sensitivity, SaysWhatIsWrong) {
  const Graph graph = parse_graph(residual_network);
  const auto data = noise(graph, 2);
  EXPECT_THAT(error_of([] { parse_sensitivity_mode("each"); }), HasSubstr("only, all_but, sqnr"));
  PtqOptions gptq;
  gptq.weights = "gptq";
  EXPECT_THAT(error_of([&] { Variants(graph.clone(), gptq); }), HasSubstr("use mse or max here"));
  Variants variants(graph.clone(), {});
  EXPECT_THAT(error_of([&] { Variants(variants.quantize(variants.everything()), {}); }),
              HasSubstr("is quantized already"));
  Rules none;
  none.rules.push_back({.precision = Precision::float32});
  PtqOptions nothing;
  nothing.rules = none;
  EXPECT_THAT(error_of([&] { Variants(graph.clone(), nothing); }),
              HasSubstr("has no layer that can be integer"));
  SensitivityOptions options = with(SensitivityMode::only);
  options.metric = "mAP";
  EXPECT_THAT(error_of([&] { sensitivity(variants, *data, options); }),
              HasSubstr("'mAP' is not known"));
  options = with(SensitivityMode::sqnr);
  options.metric = "agreement";
  EXPECT_THAT(error_of([&] { sensitivity(variants, *data, options); }), HasSubstr("mode sqnr"));
  options = with(SensitivityMode::only);
  options.metric = "agreement";
  Variants single(parse_graph(R"(graph "g" canonical {
    input %x : f32[1, 4]
    const %w : f32[4, 1] = random(1, -1, 1)
    %y = matmul(%x, %w)
    return %y
  })"),
                  {});
  EXPECT_THAT(error_of([&] { sensitivity(single, *noise(single.graph(), 2), options); }),
              HasSubstr("does not apply"));
}

}  // namespace
}  // namespace octavo
