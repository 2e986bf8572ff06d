#include "quantize/algorithms/layer_by_layer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>

#include "api/octavo.h"
#include "backends/reference/interpreter.h"
#include "graph/op_def.h"
#include "graph/text.h"
#include "quantize/algorithms/bias_correction.h"
#include "quantize/ptq.h"
#include "support/error.h"

namespace octavo {
namespace {

constexpr const char* network = R"(graph "g" canonical {
  input %x : f32[N, 3, 13, 12]
  const %w0 : f32[8, 3, 3, 3] = random(1, -1, 1)
  const %b0 : f32[8] = random(2, -1, 1)
  const %w1 : f32[8, 1, 3, 3] = random(3, -1, 1)
  const %w2 : f32[12, 8, 1, 1] = random(4, -1, 1)
  const %b2 : f32[12] = random(5, -1, 1)
  const %w3 : f32[12, 4, 3, 2] = random(6, -1, 1)
  const %w4 : f32[10, 12] = random(7, -1, 1)
  const %w5 : f32[10, 5] = random(8, -1, 1)
  const %b5 : f32[5] = random(9, -1, 1)
  %c0 = conv(%x, %w0, %b0) {pads = [1, 0, 1, 1], strides = [2, 1]}
  %r0 = clip(%c0) {min = 0.0, max = 6.0}
  %c1 = conv(%r0, %w1) {pads = [1, 1, 1, 1], group = 8}
  %r1 = relu(%c1)
  %c2 = conv(%r1, %w2, %b2)
  %c3 = conv(%c2, %w3) {pads = [2, 0, 0, 1], group = 3, dilations = [1, 1]}
  %s3 = add(%c3, %c2)
  %r3 = relu(%s3)
  %p = reduce_mean(%r3) {axes = [2, 3], keepdims = 0}
  %g = gemm(%p, %w4) {trans_b = 1}
  %m = matmul(%g, %w5)
  %y = add(%m, %b5)
  return %y
})";

std::unique_ptr<Dataset> noise(const Graph& graph, size_t samples, uint64_t seed) {
  std::vector<std::vector<Tensor>> all;
  for (size_t i = 0; i < samples; ++i)
    all.push_back(random_inputs(signature_of(graph), seed + i, 1 + static_cast<int64_t>(i % 2)));
  return memory_dataset(std::move(all), signature_of(graph));
}

// Mean of each channel of a value over all samples, by the interpreter.
std::map<std::string, ChannelSums> means(const Graph& graph, const Dataset& data,
                                         const std::map<std::string, size_t>& axes) {
  std::map<std::string, ChannelSums> sums;
  for (size_t i = 0; i < data.size(); ++i)
    interpret(graph, data.sample(i), [&](const Value& value, const Tensor& tensor) {
      if (const auto it = axes.find(value.name()); it != axes.end())
        sums[value.name()].add(tensor, it->second);
    });
  return sums;
}

TEST(BiasCorrection, TakesTheMeanErrorOfEveryLayerAway) {
  const Graph graph = parse_graph(network);
  const auto data = noise(graph, 12, 1);
  for (const char* method : {"max", "mse", "gptq"}) {
    SCOPED_TRACE(method);
    PtqOptions options;
    options.weights = method;
    Ptq ptq(graph.clone(), options);
    ptq.calibrate(*data);
    const Graph quantized = std::move(ptq.quantize({"max"}, *data)[0].graph);
    // c3 takes its residual's error too, so its sum is right; c2, which s3 reads, is right as well.
    const std::map<std::string, size_t> axes{{"c0", 1}, {"c1", 1}, {"c2", 1},
                                             {"s3", 1}, {"g", 1},  {"y", 1}};
    auto want = means(ptq.graph(), *data, axes), got = means(quantized, *data, axes);
    // The bias is rounded to steps of the accumulator: half of one is left; float32 rounding of the
    // sums leaves less than 1e-5 here.
    std::map<std::string, double> step;
    quantized.for_each([&](Node& node) {
      if (node.op().quant != QuantTrait::weighted) return;
      const Node* x = node.input(0)->producer();
      for (double s : node.input(1)->producer()->input(1)->constant().to_doubles())
        step[node.name()] =
            std::max(step[node.name()], s * x->input(1)->constant().to_doubles()[0]);
    });
    for (const auto& [name, axis] : axes) {
      ASSERT_EQ(got[name].sums.size(), want[name].sums.size()) << name;
      const std::string product = name == "s3" ? "c3" : name == "y" ? "m" : name;
      for (size_t c = 0; c < want[name].sums.size(); ++c)
        EXPECT_NEAR(got[name].mean(c), want[name].mean(c), step.at(product) / 2 + 1e-5)
            << name << " channel " << c;
    }
  }
}

}  // namespace
}  // namespace octavo
