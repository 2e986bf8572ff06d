#include "quantize/algorithms/channel_copies.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "api/octavo.h"
#include "backends/reference/interpreter.h"
#include "graph/op_def.h"
#include "graph/text.h"

namespace octavo {
namespace {

double largest(const std::vector<double>& load, const std::vector<size_t>& copies) {
  double most = 0;
  for (size_t k = 0; k < load.size(); ++k)
    most = std::max(most, load[k] / static_cast<double>(copies[k]));
  return most;
}

TEST(ChannelCopies, NoOtherChoiceLeavesALowerLargest) {
  const std::vector<double> load{5, 1, 0, 9};
  for (size_t extra = 0; extra <= 7; ++extra) {
    const auto chosen = copies_for(load, extra);
    double least = 1e9;
    for (size_t a = 0; a <= extra; ++a)
      for (size_t b = 0; a + b <= extra; ++b)
        for (size_t c = 0; a + b + c <= extra; ++c)
          least = std::min(least, largest(load, {1 + a, 1 + b, 1 + c, 1 + extra - a - b - c}));
    size_t sum = 0;
    for (size_t n : chosen) sum += n;
    EXPECT_EQ(sum, load.size() + extra);
    EXPECT_EQ(largest(load, chosen), least) << extra;
  }
}

// A copy's share of a weight is rounded once, in float32: half a unit of the last place of each.
void expect_same_network(const char* text) {
  const Graph before = parse_graph(text, "test");
  Graph graph = before.clone();
  auto sites = find_channel_sites(graph, {.behind_gelus = true}, [](const Node&) { return true; });
  const auto site = std::find_if(sites.begin(), sites.end(),
                                 [](const ChannelSite& s) { return s.before_gelu != nullptr; });
  ASSERT_NE(site, sites.end());
  ASSERT_TRUE(site->source);
  repeat_channels(graph, *site, {1, 3, 1, 2, 1, 1});
  graph.remove_dead();
  EXPECT_EQ(site->x->shape().back().value(), 9);
  const std::vector<Tensor> x = random_inputs(signature_of(before), 7, 3);
  const auto wanted = interpret(before, x), got = interpret(graph, x);
  double most = 0;
  for (float v : wanted[0].values<float>()) most = std::max<double>(most, std::fabs(v));
  ASSERT_GT(most, 0);
  for (size_t i = 0; i < static_cast<size_t>(wanted[0].size()); ++i)
    EXPECT_NEAR(got[0].values<float>()[i], wanted[0].values<float>()[i], 9 * 0x1p-24 * 4 * most);
}

TEST(ChannelCopies, RepeatedChannelsComputeTheSame) {
  expect_same_network(R"(graph "g" canonical {
  input %x : f32[N, 5, 4]
  const %w1 : f32[4, 6] = random(1, -1, 1)
  const %b1 : f32[6] = random(2, -1, 1)
  const %w2 : f32[6, 3] = random(3, -1, 1)
  %e = matmul(%x, %w1)
  %a = add(%b1, %e)
  %g = gelu(%a)
  %r = matmul(%g, %w2)
  return %r
})");
  expect_same_network(R"(graph "g" canonical {
  input %x : f32[N, 4]
  const %w1 : f32[6, 4] = random(1, -1, 1)
  const %b1 : f32[6] = random(2, -1, 1)
  const %w2 : f32[3, 6] = random(3, -1, 1)
  %e = gemm(%x, %w1, %b1) {trans_b = 1}
  %g = gelu(%e)
  %r = gemm(%g, %w2) {trans_b = 1}
  return %r
})");
}

}  // namespace
}  // namespace octavo
